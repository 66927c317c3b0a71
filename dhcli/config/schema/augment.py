"""`augment`: how training changes an image."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from dhcli.config.schema.base import (
    AtLeastOne,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Section,
    Side,
)


class Affine(Section):
    """How the picture is scaled, turned, slanted and moved: each drawn at random within limits."""

    scale: tuple[Positive, Positive] = (1.0, 1.0)
    """Least and most factor of the size, about the top left corner."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Most degrees either way."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Most degrees that each axis is slanted by, either way."""
    shift: Fraction = 0.0
    """Most that it is moved along each axis, either way, as a share of the picture's side."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scale[1] < self.scale[0]:
            raise ValueError(f"`scale` goes from {self.scale[0]:g} down to {self.scale[1]:g}")
        return self


UNMOVED = Affine()


class Augment(Section):
    """How training changes an image. The same seed, epoch and image always give the same change."""

    flip: Fraction = 0.5
    """Probability of a left-right flip."""
    min_sizes: tuple[Side, ...] = ()
    """Multi-scale training: shortest sides to choose from (empty: always `input.min_size`)."""
    colour: Fraction = 0.0
    """Strength of the changes of brightness, contrast, saturation and hue."""
    crop: Fraction = 0.0
    """Probability of a random crop that keeps at least one object mostly whole."""
    shift: Count = 0
    """Most pixels that every second resized image is moved by along each axis, either way, as for
    YOLOF; what that uncovers is black. An image that would lose all its objects stays."""
    mosaic: Fraction = 0.0
    """Probability that four images are laid together around a random point, each fitted into the
    square of `input.letterbox`; the picture is twice as wide and high, before `affine` cuts it."""
    affine: Affine = UNMOVED
    """Of the picture, be it a mosaic or one image; what comes out is that square."""
    mixup: Fraction = 0.0
    """Probability that the mean of the picture and another image of the dataset is shown, with the
    objects of both."""
    hsv: NonNegative = 0.0
    """Strength of YOLOX's changes of hue (up to ±10°), saturation and value (up to ±12 %) at 1."""
    batch_sizes: tuple[Side, ...] = ()
    """Sides of the square of `input.letterbox` to choose from, one for all images of a step (empty:
    always `input.max_size`)."""
    batch_sizes_every: AtLeastOne = 10
    """Iterations between choices of `batch_sizes`."""
    plain_epochs: Count = 0
    """The last epochs are without `mosaic`, `affine`, `mixup` and `batch_sizes`. With
    `train.epochs`, in proportion to `train.schedule.length`, as milestones are."""

    @model_validator(mode="after")
    def _multiples(self) -> Self:
        if odd := [side for side in self.batch_sizes if side % 32]:
            raise ValueError(f"`batch_sizes` are multiples of 32, got {odd[0]}")
        return self

    def mixes(self) -> bool:
        """Whether pictures are made of more than a resized image."""
        return self.mosaic > 0 or self.mixup > 0 or self.affine != UNMOVED

    def plain(self) -> Self:
        """That of the last epochs."""
        none = {"mosaic": 0.0, "affine": UNMOVED, "mixup": 0.0, "batch_sizes": ()}
        return self.model_copy(update=none)

    def needs_square(self) -> str | None:
        """The first setting that needs the square of `input.letterbox`; None: there is none."""
        asked = {
            "mosaic": self.mosaic > 0,
            "affine": self.affine != UNMOVED,
            "mixup": self.mixup > 0,
            "batch_sizes": bool(self.batch_sizes),
        }
        return next((name for name, wanted in asked.items() if wanted), None)
