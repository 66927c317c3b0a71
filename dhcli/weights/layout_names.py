"""What other programs' layouts are called: what the command line asks for, without loading any."""

from __future__ import annotations

from typing import Literal

LayoutName = Literal[
    "mmdet",
    "maskrcnn-benchmark",
    "torchvision",
    "detectron2",
    "transformers",
    "tsd",
    "megvii",
]
"""Those that can be read; `layouts.LAYOUTS` holds each."""
ExportName = Literal["mmdet", "torchvision", "tsd", "megvii"]
"""Those that can be written; `layouts.EXPORTS` holds each."""
