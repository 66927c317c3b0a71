"""Options that are the short form of settings: `--epochs 24` for `--set train.epochs=24`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dhcli.config.schema.config import Config
from dhcli.config.schema.input import Input

SHORT: dict[str, tuple[str, ...]] = {
    "--data": ("data.train",),
    "--val": ("data.val",),
    "--alias": ("finetune.aliases",),
    "--epochs": ("train.epochs",),
    "--batch-size": ("train.batch_size",),
    "--lr": ("train.lr", "train.scale_lr"),
    "--freeze": ("model.backbone.frozen_stages",),
    "--seed": ("train.seed",),
    "--workers": ("train.workers",),
    "--cache": ("train.cache",),
    "--image-size": (
        "input.min_size",
        "input.max_size",
        "augment.min_sizes",
        "augment.batch_sizes",
    ),
}
"""The settings that each option changes; last what depends on the others."""
SQUARE = 32
"""Sides of squares are multiples of this."""


def settings_of(
    option: str, value: Any, others: Callable[[], tuple[Config, object]]
) -> dict[str, Any]:
    """The settings that `option` changes, by their dotted keys; `others` resolves all others."""
    match option:
        case "--lr":  # the rate that is asked for, whatever the batch
            values = [value, False]
        case "--image-size":
            values = _sizes(value, others()[0])
        case _:
            values = [value]
    return dict(zip(SHORT[option], values, strict=True))


def option_of(key: str) -> str | None:
    """The option that changes the setting `key`; None if it has none."""
    return next((option for option, keys in SHORT.items() if key in keys), None)


def resized(pixels: Input, size: int) -> Input:
    """`pixels` with the shortest side `size`; the longest keeps its proportion to it."""
    longest = _in_proportion(pixels.max_size, size, pixels)
    return pixels.model_copy(update={"min_size": size, "max_size": longest})


def clash(option: str, written: Iterable[str]) -> str | None:
    """The first key of `written` that `option` changes as well, whole or in part."""
    changed = [f"{key}." for key in SHORT[option]]
    pairs = ((key, one) for key in written for one in changed)
    return next((k for k, one in pairs if one.startswith(f"{k}.") or k.startswith(one)), None)


def _sizes(size: int, config: Config) -> list[Any]:
    """Shortest and longest side, and those of multi-scale training: all in one proportion."""
    several = [_in_proportion(one, size, config.input) for one in config.augment.min_sizes]
    squares = [_in_proportion(one, size, config.input) for one in config.augment.batch_sizes]
    batches = sorted({max(1, round(side / SQUARE)) * SQUARE for side in squares})
    return [size, resized(config.input, size).max_size, several, batches]


def _in_proportion(side: int, size: int, pixels: Input) -> int:
    return max(1, round(side * size / pixels.min_size))
