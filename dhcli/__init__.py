"""dh: from a folder of annotated images to a Double-Head Faster R-CNN detector.

From Python: `model = dhcli.load("best.safetensors")`, `model("photo.jpg")`; see `dhcli.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dhcli.api import DetectionTable as DetectionTable
    from dhcli.api import DhError as DhError
    from dhcli.api import Evaluation as Evaluation
    from dhcli.api import Model as Model
    from dhcli.api import Result as Result
    from dhcli.api import check_dataset as check_dataset
    from dhcli.api import evaluate as evaluate
    from dhcli.api import load as load
    from dhcli.api import read_dataset as read_dataset

__version__ = "0.1.0"
__all__ = [
    "DetectionTable",
    "DhError",
    "Evaluation",
    "Model",
    "Result",
    "check_dataset",
    "evaluate",
    "load",
    "read_dataset",
]


def __getattr__(name: str) -> Any:
    """The names of the API, which are imported when first used: a command needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`", name=name)
    from dhcli import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
