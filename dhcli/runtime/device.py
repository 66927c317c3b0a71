"""Which device to compute on."""

from __future__ import annotations

import torch

from dhcli.errors import ConfigError
from dhcli.runtime.launch import Place


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


def own_device(name: str, place: Place) -> torch.device:
    """The device called `name` for the process at `place`: each has a GPU of its own.

    Raises ConfigError where there are fewer GPUs than processes, or `name` is one of them.
    """
    device = choose_device(name)
    if place.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        hint = "`--device cpu`, or one process"
        raise ConfigError(f"several processes cannot share `{device}`", where="--device", hint=hint)
    if device.index is not None:
        what = f"`{name}` is one GPU, and {place.local_size} processes need one each"
        raise ConfigError(what, where="--device", hint="`--device cuda` gives each its own")
    there = torch.cuda.device_count()
    if place.local_size > there:
        what = f"{place.local_size} processes on this machine need a GPU each; it has {there}"
        hint = f"`--nproc {there}`, or `--device cpu`"
        raise ConfigError(what, where="--nproc", hint=hint)
    return torch.device("cuda", place.local_rank)


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
