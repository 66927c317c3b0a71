"""`augment`: how training changes an image."""

from __future__ import annotations

from dhcli.config.schema.base import Fraction, Section, Side


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
