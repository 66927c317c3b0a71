"""`model.backbone`: the network that turns pixels into features."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from dhcli.config.schema.base import NonNegative, Section, require_epsilon

RESNETS: dict[str, tuple[Literal["basic", "bottleneck"], tuple[int, ...]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
"""Kind of block and number of blocks in each stage, by `model.backbone.name`."""
PVTS: dict[str, tuple[int, int, int, int]] = {
    "pvt_tiny": (2, 2, 2, 2),
    "pvt_small": (3, 4, 6, 3),
    "pvt_medium": (3, 4, 18, 3),
    "pvt_large": (3, 8, 27, 3),
}
"""Number of layers in each stage, by `model.backbone.name`."""


class ResNet(Section):
    """The network that turns pixels into features: a residual network."""

    kind: Literal["resnet"] = "resnet"
    """resnet: torchvision's ResNets."""
    name: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    """Which ResNet, by its depth."""
    weights: str = "imagenet"
    """`imagenet` (torchvision's), `none`, or the path of a state dict."""
    norm: Literal["frozen_bn", "eval_bn", "bn", "gn"] = "frozen_bn"
    """frozen_bn and eval_bn need pretrained weights (eval_bn still trains scale and shift); bn and
    gn (GroupNorm) can be trained from scratch."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """How many parts are not trained (1 = stem, 2 = stem and stage 1, … 5 = all; 0 = train all)."""
    stride_in_1x1: bool = False
    """Put the stride of a bottleneck in its first 1×1 convolution (Caffe) instead of its 3×3."""
    bn_epsilon: NonNegative = 1e-5
    """Added to the variance in batch norm (maskrcnn-benchmark's frozen one: 0)."""

    @model_validator(mode="after")
    def _has_epsilon(self) -> Self:
        require_epsilon(self.norm, self.bn_epsilon)
        return self

    def describe(self) -> list[tuple[str, str]]:
        """Depth and norm."""
        return [("backbone", f"{self.name}, {self.norm}")]


class TimmNet(Section):
    """The network that turns pixels into features: any of the package timm."""

    kind: Literal["timm"]
    """timm: networks of the package timm that give features of strides 4 to 32."""
    name: str
    """timm's name for the network, such as convnext_tiny or tf_efficientnet_lite0."""
    weights: str = "hub"
    """`hub` (timm's weights, fetched over the network), `package` (ImageNet weights from an
    installed package; tf_efficientnet_lite0 has one), `none`, or the path of a state dict with
    timm's names."""
    norm: Literal["frozen_bn", "eval_bn", "bn"] = "frozen_bn"
    """Its batch norms, if it has any. frozen_bn: all fixed; eval_bn: statistics fixed, scale and
    shift are trained; bn: trained as usual."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """How many parts are not trained (1 = stem, 2 = stem and stage 1, …; 0 = train all)."""

    def describe(self) -> list[tuple[str, str]]:
        """Name and norm."""
        return [("backbone", f"timm {self.name}, {self.norm}")]


class Csp(Section):
    """The network that turns pixels into features: YOLOX's CSPDarknet."""

    kind: Literal["csp"]
    """csp: YOLOX's CSPDarknet. Sizes, as depth and width: nano 0.33, 0.25 (depthwise), tiny 0.33,
    0.375, s 0.33, 0.5, m 0.67, 0.75, l 1, 1, x 1.33, 1.25."""
    depth: Annotated[float, Field(gt=0, le=8)] = 0.33
    """Factor of the number of residual blocks: 3, 9, 9 and 3 at 1."""
    width: Annotated[float, Field(gt=0, le=4)] = 0.5
    """Factor of the channels: C2 … C5 have 128, 256, 512 and 1024 at 1."""
    depthwise: bool = False
    """Depthwise and 1×1 convolutions in place of 3×3 ones (YOLOX-Nano)."""
    weights: str = "none"
    """`none`, or the path of a state dict with MMDetection's names."""
    norm: Literal["bn", "frozen_bn", "eval_bn"] = "bn"
    """Its batch norms. bn: trained as usual; frozen_bn: all fixed; eval_bn: statistics fixed, scale
    and shift are trained."""
    bn_epsilon: NonNegative = 1e-3
    """Added to the variance in batch norm."""
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.03
    """Share of a batch's statistics in the running ones."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    """How many parts are not trained (1 = stem, 2 = stem and stage 1, …; 0 = train all)."""

    @model_validator(mode="after")
    def _has_epsilon(self) -> Self:
        require_epsilon(self.norm, self.bn_epsilon)
        return self

    def describe(self) -> list[tuple[str, str]]:
        """Sizes and norm."""
        sizes = f"depth {self.depth:g}, width {self.width:g}"
        return [("backbone", f"CSPDarknet, {sizes}, {self.norm}")]


class Pvt(Section):
    """The network that turns pixels into features: a Pyramid Vision Transformer."""

    kind: Literal["pvt"]
    """pvt: Pyramid Vision Transformers (version 1; timm has version 2)."""
    name: Literal["pvt_tiny", "pvt_small", "pvt_medium", "pvt_large"] = "pvt_tiny"
    """Which of them, by its depth."""
    weights: str = "imagenet"
    """`imagenet` (the published ones, such as pvt_tiny.pth), `none`, or the path of such a file or
    of a state dict with MMDetection's names."""
    norm: Literal["ln"] = "ln"
    """ln: layer norm, which does not depend on the batch."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability that training leaves out a sublayer of an image: rising from 0 to this."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    """How many parts are not trained (1 = first patches, 2 = these and stage 1, …; 0 = train
    all)."""

    def describe(self) -> list[tuple[str, str]]:
        """Its name."""
        return [("backbone", self.name)]


Backbone: TypeAlias = ResNet | TimmNet | Csp | Pvt
"""Every kind of backbone."""
