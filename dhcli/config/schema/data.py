"""`data`: which images and boxes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from dhcli.config.schema.base import Fraction, Section
from dhcli.words import first_twice


class Data(Section):
    """Which images and boxes."""

    train: str | None = None
    """Dataset to train on: a folder or annotation file of any known format."""
    val: str | None = None
    """Dataset to validate on (default: the val split of `train`)."""
    train_split: str = "train"
    """Split of `train` to train on. A dataset without splits is divided; see val_fraction."""
    val_split: str = "val"
    """Split to validate on."""
    val_fraction: Fraction = 0.2
    """Share of the images to set aside for validation if the dataset has no splits."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Different class names in order (default: those of the dataset)."""
    others: Literal["error", "ignore", "drop"] = "error"
    """What to do with boxes whose class is not in `classes`: stop with an error, treat them as
    regions to ignore, or leave them out."""
    difficult: Literal["ignore", "keep"] = "ignore"
    """Boxes marked difficult: regions to ignore in training, or ordinary objects."""
    empty: Literal["keep", "drop"] = "keep"
    """Keep images without objects in training, or drop them."""
    on_bad_image: Literal["error", "skip"] = "error"
    """If an image or a row of annotations cannot be read: stop and name it, or leave it out.
    Checked before training; during training, an image is first read again."""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if (twice := first_twice(names or ())) is not None:
            raise ValueError(f"`{twice}` is named twice")
        return names
