"""torchvision's ResNet as a feature extractor: C2 … C5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from dhcli.config.schema import RESNETS
from dhcli.models.contract import Features
from dhcli.models.norms import norm_layer
from dhcli.models.state import load_state

LAYERS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    name: (Bottleneck if kind == "bottleneck" else BasicBlock, list(counts))
    for name, (kind, counts) in RESNETS.items()
}


class ResNetFeatures(Features, ResNet):  # type: ignore[misc]
    """torchvision's ResNet without its classifier, under torchvision's names.

    in   (B, 3, H, W) float, normalised
    out  C2 … C5, strides 4, 8, 16, 32;  `channels` says how many channels each has

    `frozen_stages` parts, counted from the stem, have fixed weights and stay in eval mode.
    After `take_last_stage` there is no C5.
    """

    conv1: nn.Conv2d
    bn1: nn.Module
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        name: str,
        norm: str = "frozen_bn",
        frozen_stages: int = 0,
        stride_in_1x1: bool = False,
        bn_epsilon: float = 1e-5,
    ) -> None:
        block, layers = LAYERS[name]
        ResNet.__init__(self, block, layers, norm_layer=norm_layer(norm, bn_epsilon))
        del self.fc, self.avgpool
        self.name = name
        self.channels = [width * block.expansion for width in (64, 128, 256, 512)]
        self.strides = [4, 8, 16, 32]
        if stride_in_1x1 and block is Bottleneck:
            self._move_strides()
        self._levels = [self.layer1, self.layer2, self.layer3, self.layer4]
        self._taken: list[nn.Module] = []
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        levels = []
        for layer in self._levels:
            x = layer(x)
            levels.append(x)
        return levels

    def stem(self, x: Tensor) -> Tensor:
        """Pixels to a quarter of their height and width, 64 channels."""
        return F.max_pool2d(F.relu_(self.bn1(self.conv1(x))), 3, stride=2, padding=1)

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1, self.bn1], *([layer] for layer in (*self._levels, *self._taken))]

    def take_last_stage(self) -> nn.Sequential:
        """Give layer4 away, from C4 to C5, for a branch to run on RoIs."""
        layer4 = self._levels.pop()
        del self.layer4
        self._taken.append(layer4)
        self.channels.pop()
        self.strides.pop()
        return layer4

    def load_pretrained(self, state: Mapping[str, Tensor], where: object, hint: str) -> None:
        whole = nn.ModuleDict(dict(self.named_children()))
        for layer in self._taken:
            whole["layer4"] = layer
        load_state(whole, state, where, hint)

    def _move_strides(self) -> None:
        for layer in (self.layer2, self.layer3, self.layer4):
            first: Any = layer[0]
            first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
