"""ResNet as a feature extractor: C2 … C5."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from dhcli.config.schema import RESNETS
from dhcli.models.norms import conv_norm, norm_layer


class _Basic(BasicBlock):  # type: ignore[misc]
    """torchvision's, with norms taken into the convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(conv_norm(self.conv1, self.bn1, x))
        out = conv_norm(self.conv2, self.bn2, out)
        return F.relu_(out.add_(_shortcut(self, x)))


class _Bottleneck(Bottleneck):  # type: ignore[misc]
    """torchvision's, with norms taken into the convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(conv_norm(self.conv1, self.bn1, x))
        out = F.relu_(conv_norm(self.conv2, self.bn2, out))
        out = conv_norm(self.conv3, self.bn3, out)
        return F.relu_(out.add_(_shortcut(self, x)))


def _shortcut(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    if block.downsample is None:
        return x
    conv, norm = block.downsample
    return conv_norm(conv, norm, x)


LAYERS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    name: (_Bottleneck if kind == "bottleneck" else _Basic, list(counts))
    for name, (kind, counts) in RESNETS.items()
}


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
        if stride_in_1x1 and block is _Bottleneck:
            self._move_strides()
        stem = [self.conv1, self.bn1]
        parts = [stem, [self.layer1], [self.layer2], [self.layer3], [self.layer4]]
        self._stages = [self.layer1, self.layer2, self.layer3, self.layer4]
        self._frozen = [module for part in parts[:frozen_stages] for module in part]
        for module in self._frozen:
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu_(conv_norm(self.conv1, self.bn1, x)), 3, stride=2, padding=1)
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
