"""ResNet as a feature extractor: C2 … C5."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from dhcli.config.schema import RESNETS

LAYERS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    name: (Bottleneck if kind == "bottleneck" else BasicBlock, list(counts))
    for name, (kind, counts) in RESNETS.items()
}


class FrozenBatchNorm(nn.Module):
    """Batch norm as a fixed scale and shift; state-dict names of nn.BatchNorm2d.

    y = (x − running_mean) / √(running_var + eps) · weight + bias

    `affine_learns`: only the statistics are fixed, weight and bias learn (MMDetection).
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, affine_learns: bool = False) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", torch.ones(channels)), ("bias", torch.zeros(channels))):
            if affine_learns:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(shift.to(x.dtype)[:, None, None], x, scale.to(x.dtype)[:, None, None])


def norm_layer(kind: str, eps: float = 1e-5) -> Callable[[int], nn.Module]:
    """The norm named `kind`, to be called with a channel count: frozen_bn, eval_bn, bn or gn."""
    if kind == "gn":
        return group_norm
    if kind == "bn":
        return partial(nn.BatchNorm2d, eps=eps)
    return partial(FrozenBatchNorm, eps=eps, affine_learns=kind == "eval_bn")


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm in 32 groups, or in fewer where 32 does not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


class Backbone(ResNet):  # type: ignore[misc]
    """torchvision's ResNet without its classifier, under torchvision's names.

    in   (B, 3, H, W) float, normalised
    out  C2 … C5, strides 4, 8, 16, 32;  `channels` says how many channels each has

    `frozen_stages` parts, counted from the stem, have fixed weights and stay in eval mode.
    After `take_last_stage` there is no C5.
    """

    def __init__(
        self,
        name: str,
        norm: str = "frozen_bn",
        frozen_stages: int = 0,
        stride_in_1x1: bool = False,
        bn_epsilon: float = 1e-5,
    ) -> None:
        block, layers = LAYERS[name]
        super().__init__(block, layers, norm_layer=norm_layer(norm, bn_epsilon))
        del self.fc, self.avgpool
        self.channels = [width * block.expansion for width in (64, 128, 256, 512)]
        if stride_in_1x1 and block is Bottleneck:
            self._move_strides()
        stem = [self.conv1, self.bn1]
        parts = [stem, [self.layer1], [self.layer2], [self.layer3], [self.layer4]]
        self._stages = [self.layer1, self.layer2, self.layer3, self.layer4]
        self._frozen = [module for part in parts[:frozen_stages] for module in part]
        for module in self._frozen:
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        levels = []
        for stage in self._stages:
            x = stage(x)
            levels.append(x)
        return levels

    def take_last_stage(self) -> nn.Sequential:
        """Give layer4 away, from C4 to C5, for a branch to run on RoIs."""
        layer4: nn.Sequential = self._stages.pop()
        del self.layer4
        self.channels.pop()
        return layer4

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _move_strides(self) -> None:
        for layer in (self.layer2, self.layer3, self.layer4):
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
