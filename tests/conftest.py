"""Fixtures and settings of every test: fixed seed, plain output, few threads."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from dhcli.weights.model_file import ModelFile

os.environ.update(NO_COLOR="1", COLUMNS="100", TERM="dumb", NO_ALBUMENTATIONS_UPDATE="1")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_disks() -> Iterator[None]:
    """What a test writes need not outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(os, "sync", lambda: None)
        yield


def pytest_collection_finish() -> None:
    """What is imported by now stays: going through it again and again took a twentieth of all."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture
def realdata() -> Path:
    """The folder of real datasets, or a skip that says it is absent."""
    folder = Path(os.environ.get("DH_REALDATA", Path(__file__).parents[2] / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder} (set DH_REALDATA)")
    return folder


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 has one block per stage: less than half the weights to train and to write."""
    make_shallow(monkeypatch)


def make_shallow(patch: pytest.MonkeyPatch) -> None:
    """What `shallow` does, for fixtures that outlive a test."""
    from torchvision.models.resnet import BasicBlock

    from dhcli.models.backbones import resnet

    patch.setitem(resnet.LAYERS, "resnet18", (BasicBlock, [1, 1, 1, 1]))


@pytest.fixture(scope="session")
def small_model() -> Callable[..., ModelFile]:
    """A function from class names to a model file's content: a small detector, untrained."""
    import torch

    from dhcli.config.schema import Config
    from dhcli.models.build import build_detector
    from dhcli.weights.model_file import ModelFile

    def make(*classes: str, seed: int = 0, **head: Any) -> ModelFile:
        backbone = {"name": "resnet18", "norm": "gn", "weights": "none", "frozen_stages": 0}
        model = {
            "backbone": backbone,
            "neck": {"channels": 16},
            "anchors": {"sizes": [16, 32, 64, 128, 256]},
            "rpn": {"pre_nms_test": 100, "proposals_test": 50},
            "head": {"branches": SMALL_BRANCHES} | head,
        }
        config = Config.model_validate({"input": {"min_size": 64, "max_size": 96}, "model": model})
        torch.manual_seed(seed)
        state = build_detector(config, len(classes)).state_dict()
        return ModelFile(config, classes, tuple(range(1, len(classes) + 1)), dict(state))

    return make


SMALL_BRANCHES: list[dict[str, Any]] = [
    {"kind": "fc", "width": 24, "lambda": 0.7},
    {"kind": "conv", "width": 32, "residual": 2, "non_local": 1, "norm": "gn", "lambda": 0.8},
]
