"""Small detectors and batches for the tests of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dhcli.config.schema import Config
from dhcli.ops.batch import ImageBatch, Target

SMALL: dict[str, Any] = {
    "input": {"min_size": 64, "max_size": 128},
    "model": {
        "backbone": {"name": "resnet18", "norm": "gn", "weights": "none", "frozen_stages": 0},
        "neck": {"channels": 32},
        "anchors": {"sizes": [16, 32, 64, 128, 256]},
        "rpn": {"proposals_train": 60, "proposals_test": 50},
    },
}
FC = {"kind": "fc", "width": 32}
CONV = {"kind": "conv", "width": 64, "residual": 3, "non_local": 2, "norm": "gn"}
EXT = ({**FC, "lambda": 0.7, "omega": 2.0}, {**CONV, "lambda": 0.8, "omega": 2.5, "roi_scale": 1.3})


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def small_config() -> Callable[..., Config]:
    """A function from head settings to the configuration of a small detector."""

    def make(*branches: dict[str, Any], **head: Any) -> Config:
        settings = {"branches": branches or EXT, "samples": 32, **head}
        return Config.model_validate({**SMALL, "model": {**SMALL["model"], "head": settings}})

    return make


@pytest.fixture
def batch() -> ImageBatch:
    """Two images, 64 × 96 and 50 × 80 within the padding."""
    pixels = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    pixels[1, 50:] = 0
    pixels[1, :, 80:] = 0
    sizes = torch.tensor([[64, 96], [50, 80]])
    return ImageBatch(pixels.permute(0, 3, 1, 2), sizes, sizes * 2)


@pytest.fixture
def targets() -> list[Target]:
    """Two objects in the first image, none in the second."""
    boxes = torch.tensor([[4.0, 4.0, 36.0, 36.0], [40.0, 10.0, 90.0, 60.0]])
    none = torch.zeros(0, 4)
    labels = torch.tensor([0, 2])
    return [Target(boxes, labels, none), Target(none, labels[:0], none)]
