"""`model.neck`: from the backbone's features to those that proposals and branches see."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from dhcli.config.schema.base import Channels, Section


class Pyramid(Section):
    """The feature pyramid that proposals and branches see."""

    kind: Literal["fpn"] = "fpn"
    """fpn: the feature pyramid."""
    finest: Annotated[int, Field(ge=2, le=5)] = 2
    """Finest level: 2 is P2, of stride 4."""
    coarsest: Annotated[int, Field(ge=2, le=7)] = 6
    """Coarsest level: 6 is P6, of stride 64. P6 and P7 take every second cell of the level
    before."""
    channels: Channels = 256
    """Channels of every level of the pyramid."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.coarsest < self.finest:
            raise ValueError(f"coarsest {self.coarsest} is below finest {self.finest}")
        return self

    def levels(self) -> list[str]:
        """Names of its levels: P2 … P6."""
        return [f"P{level}" for level in range(self.finest, self.coarsest + 1)]

    def strides(self) -> list[int]:
        """Pixels between cells of each level: 4 … 64."""
        return [1 << level for level in range(self.finest, self.coarsest + 1)]


class MapNeck(Section):
    """The levels that queries see, each by a convolution of its own."""

    kind: Literal["map"] = "map"
    """map: a 1×1 of each of the backbone's levels (DETR); a level beyond them is a 3×3 of stride 2
    of the coarsest one (Deformable DETR)."""
    finest: Annotated[int, Field(ge=2, le=5)] = 5
    """Finest level: 5 is the one of stride 32."""
    coarsest: Annotated[int, Field(ge=2, le=7)] = 5
    """Coarsest level: 6 is that of stride 64."""
    channels: Channels = 256
    """Channels of every level."""
    norm: Literal["none", "gn"] = "none"
    """After each convolution. gn: group norm."""
    bias: bool = True
    """Whether the convolutions have a bias. MMDetection's have none before a norm."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.coarsest < self.finest:
            raise ValueError(f"coarsest {self.coarsest} is below finest {self.finest}")
        return self

    def strides(self) -> list[int]:
        """Pixels between cells of each level."""
        return [1 << level for level in range(self.finest, self.coarsest + 1)]


class NoNeck(Section):
    """Proposals and branches see the backbone's features as they are."""

    kind: Literal["none"] = "none"
    """none: C4 alone. The last stage of the backbone is the `res5` branch."""


Neck: TypeAlias = Pyramid | NoNeck
"""Every kind of neck."""
