"""`model.backbone`: the network that turns pixels into features."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from dhcli.config.schema.base import NonNegative, Section

RESNETS: dict[str, tuple[Literal["basic", "bottleneck"], tuple[int, ...]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
"""Kind of block and number of blocks in each stage, by `model.backbone.name`."""


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


Backbone: TypeAlias = ResNet | TimmNet
"""Every kind of backbone."""
