"""A small Sparse R-CNN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dhcli.config.schema import Config
from dhcli.models.build import build_detector
from dhcli.models.queries.detector import QueryDetector

BACKBONE = {"name": "resnet18", "norm": "gn", "weights": "none", "frozen_stages": 0}
HEAD = {"proposals": 12, "stages": 2, "dynamic_width": 8, "ffn_width": 48}


@pytest.fixture
def sparse(shallow: None) -> Callable[..., QueryDetector]:
    """A function from settings of the head to a detector of three classes."""

    def make(**head: Any) -> QueryDetector:
        torch.manual_seed(0)
        model = {"kind": "queries", "backbone": BACKBONE, "neck": {"channels": 32}}
        sizes = {"min_size": 64, "max_size": 96}
        settings = {"input": sizes, "model": {**model, "head": HEAD | head}}
        detector = build_detector(Config.model_validate(settings), classes=3)
        assert isinstance(detector, QueryDetector)
        return detector

    return make
