"""Small dense detectors, one of each preset."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dhcli.config.load import load_config
from dhcli.models.build import build_detector
from dhcli.models.dense.detector import DenseDetector

SYSTEMS = ["retinanet", "fcos", "atss", "paa", "vfnet", "yolof"]
SMALL = [
    "model.backbone={kind: resnet, name: resnet18, norm: gn, weights: none, frozen_stages: 0}",
    "model.neck.channels=32",
    "model.head.width=32",
    "input.min_size=64",
    "input.max_size=96",
]


@pytest.fixture
def dense(shallow: None) -> Callable[..., DenseDetector]:
    """A function from the name of a system and settings to a detector of three classes."""

    def make(system: str, *settings: str) -> DenseDetector:
        torch.manual_seed(0)
        gn = ["model.head.norm=gn", "model.neck.norm=gn"] if system == "yolof" else []
        config = load_config(f"coco-r50-{system}", overrides=[*SMALL, *gn, *settings]).config
        detector = build_detector(config, classes=3)
        assert isinstance(detector, DenseDetector)
        return detector

    return make
