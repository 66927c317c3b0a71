"""Fixtures and settings of every test: fixed seed, plain output, few threads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.update(NO_COLOR="1", COLUMNS="100", TERM="dumb", NO_ALBUMENTATIONS_UPDATE="1")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def realdata() -> Path:
    """The folder of real datasets, or a skip that says it is absent."""
    folder = Path(os.environ.get("DH_REALDATA", Path(__file__).parents[2] / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder} (set DH_REALDATA)")
    return folder
