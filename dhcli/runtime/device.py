"""Which device to compute on."""

from __future__ import annotations

import torch

from dhcli.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device called "auto", "cpu", "cuda", "cuda:1" or "mps"; auto is a GPU if there is one.

    Raises ConfigError where there is no such device here.
    """
    if name == "auto":
        name = _best_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        hint = "auto, cpu, cuda, cuda:0 or mps"
        raise ConfigError(f"unknown device `{name}`", where="--device", hint=hint) from error
    if device.type not in _available() or (device.index or 0) >= _available()[device.type]:
        there_are = ", ".join(_available())
        what = f"there is no `{name}` here"
        raise ConfigError(what, where="--device", hint=f"there are: {there_are}")
    return device


def _best_device() -> str:
    return next(name for name in ("cuda", "mps", "cpu") if name in _available())


def _available() -> dict[str, int]:
    """Kinds of device that can be used here, and how many of each."""
    kinds = {"cpu": 1}
    if torch.cuda.is_available():
        kinds["cuda"] = torch.cuda.device_count()
    if torch.backends.mps.is_available():
        kinds["mps"] = 1
    return kinds
