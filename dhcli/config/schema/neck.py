"""`model.neck`: from the backbone's features to those that proposals and branches see."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from dhcli.config.schema.base import Channels, Positive, Section


class Pyramid(Section):
    """The feature pyramid that proposals and branches see."""

    kind: Literal["fpn"] = "fpn"
    """fpn: the feature pyramid."""
    finest: Annotated[int, Field(ge=2, le=5)] = 2
    """Finest level: 2 is P2, of stride 4."""
    coarsest: Annotated[int, Field(ge=2, le=7)] = 6
    """Coarsest level: 6 is P6, of stride 64."""
    channels: Channels = 256
    """Channels of every level of the pyramid."""
    extra: Literal["subsample", "on_output", "on_input"] = "subsample"
    """Levels beyond the backbone's. subsample: every second cell of the level before. Else 3×3
    convolutions of stride 2: on_output: of the last level and so on (RetinaNet with P5); on_input:
    the first of them of the backbone's last features (RetinaNet with C5)."""
    extra_relu: bool = False
    """A ReLU before each of these convolutions but the first."""

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


class Dilated(Section):
    """One level, the coarsest, that sees objects of every size by dilated convolutions."""

    kind: Literal["dilated"]
    """dilated: YOLOF's encoder of C5 alone."""
    channels: Channels = 512
    """Channels of the level."""
    width: Channels = 128
    """Channels within a residual block."""
    dilations: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(max_length=32)] = (
        2,
        4,
        6,
        8,
    )
    """Cells between the taps of the 3×3 convolution of each residual block."""
    norm: Literal["bn", "gn"] = "bn"
    """gn (GroupNorm) does not depend on the batch."""

    def levels(self) -> list[str]:
        """Names of its levels."""
        return ["P5"]

    def strides(self) -> list[int]:
        """Pixels between cells of each level."""
        return [32]


class PathPyramid(Section):
    """The feature pyramid and a second way through it, from fine to coarse."""

    kind: Literal["pafpn"]
    """pafpn: YOLOX's, of C3, C4 and C5."""
    channels: Channels = 128
    """Channels of every level."""
    blocks: Annotated[int, Field(ge=1, le=64)] = 1
    """Residual blocks of each CSP layer (YOLOX: 3 times its depth)."""
    depthwise: bool = False
    """Depthwise and 1×1 convolutions in place of 3×3 ones (YOLOX-Nano)."""
    bn_epsilon: Positive = 1e-3
    """Added to the variance in batch norm."""
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.03
    """Share of a batch's statistics in the running ones."""

    def levels(self) -> list[str]:
        """Names of its levels."""
        return ["P3", "P4", "P5"]

    def strides(self) -> list[int]:
        """Pixels between cells of each level."""
        return [8, 16, 32]


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


LevelNeck: TypeAlias = Pyramid | Dilated | PathPyramid
"""Every kind that gives levels of its own."""
Neck: TypeAlias = LevelNeck | NoNeck
"""Every kind of neck."""
