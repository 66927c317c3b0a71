"""The head of a dense detector: towers of convolutions, and what predicts at their ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dhcli.config.schema import DenseHead as HeadConfig
from dhcli.models.init import init_normal, start_rarely
from dhcli.models.norms import norm_layer

GROUPS = 32
"""Of GroupNorm."""
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
MOST_EXP = 1e8
"""Where the exponentials of an implicit objectness end."""


class Said(NamedTuple):
    """What is said of the N priors of each of B images, level after level.

    logits   (B, N, K) float32, before a sigmoid each; no background
    boxes    (B, N, 4) float32, as the coder reads them
    quality  (B, N) float32, before a sigmoid; None where none is predicted
    first    (B, N, 4) float32, of boxes before they were refined; None where they are not
    """

    logits: Tensor
    boxes: Tensor
    quality: Tensor | None
    first: Tensor | None


class Maps(NamedTuple):
    """What is said of one level, as maps (B, A · c, h, w), prior by prior. See `Said`."""

    logits: Tensor
    boxes: Tensor
    quality: Tensor | None = None
    first: Tensor | None = None


@dataclass(frozen=True)
class Level:
    """What towers know of the level that they run on.

    No tuple: torch's counter of operations looks into those that a module is given, and fails at a
    weight.

    stride          pixels between its cells
    scale, refined  () float, learned factors of the boxes, first and refined; None without
    """

    stride: int
    scale: Tensor | None
    refined: Tensor | None


class Towers(nn.Module):
    """Two towers of 3×3 convolutions: the first scores, the second finds boxes, one the quality.

    in   x  (B, C, h, w) float, of `level`
    out  Maps
    """

    def __init__(self, config: HeadConfig, channels: int, priors: int, classes: int) -> None:
        super().__init__()
        self.cls_convs = tower(config, channels, config.cls_layers)
        self.reg_convs = tower(config, channels, config.reg_layers)
        ends = [config.width if n else channels for n in (config.cls_layers, config.reg_layers)]
        self.cls = predictor(config, ends[0], priors * classes)
        self.reg = predictor(config, ends[1], priors * 4)
        self.beside_scores = config.quality_tower == "cls"
        width = ends[0 if self.beside_scores else 1]
        self.quality = None if config.quality == "none" else predictor(config, width, priors)
        start_rarely(self.cls)
        if self.quality is not None and config.quality == "objectness":
            start_rarely(self.quality)

    def forward(self, x: Tensor, level: Level) -> Maps:
        on_cls, on_reg = self.cls_convs(x), self.reg_convs(x)
        boxes = scaled(self.reg(on_reg), level.scale)
        beside = on_cls if self.beside_scores else on_reg
        quality = None if self.quality is None else self.quality(beside)
        return Maps(self.cls(on_cls), boxes, quality)


class DenseHead(nn.Module):
    """Towers that all levels share, or one pair for each, and a learned scale for each level.

    in   levels  (B, C, h, w) float each, of `strides`
    out  Said

    `towers` are one or as many as levels.
    """

    def __init__(
        self,
        config: HeadConfig,
        towers: Sequence[nn.Module],
        strides: Sequence[int],
        classes: int,
    ) -> None:
        super().__init__()
        self.strides = strides
        self.classes = classes
        self.implicit = config.quality == "implicit"
        self.towers = nn.ModuleList(towers)
        count = len(strides) if config.level_scales else 0
        refined = count if config.refine != "none" else 0
        self.scales, self.refined_scales = (
            nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(n))
            for n in (count, refined)
        )

    def forward(self, levels: Sequence[Tensor]) -> Said:
        every = []
        for number, x in enumerate(levels):
            towers = self.towers[number if len(self.towers) > 1 else 0]
            every.append(self.flatten(towers(x, self.level(number))))
        logits, boxes, quality, first = zip(*every, strict=True)
        return Said(torch.cat(logits, 1), torch.cat(boxes, 1), _joined(quality), _joined(first))

    def level(self, number: int) -> Level:
        """What towers know of that level, 0 the finest."""
        scales = (
            of_levels[number] if len(of_levels) else None
            for of_levels in (self.scales, self.refined_scales)
        )
        return Level(self.strides[number], *scales)

    def flatten(self, maps: Maps) -> Said:
        """Priors in the order row, column, prior of the cell."""
        logits, boxes = rows(maps.logits, self.classes), rows(maps.boxes, 4)
        quality = None if maps.quality is None else rows(maps.quality, 1)[..., 0]
        first = None if maps.first is None else rows(maps.first, 4)
        if self.implicit and quality is not None:
            logits, quality = join_objectness(logits, quality), None
        return Said(logits, boxes, quality, first)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Those of all levels, if there are such."""
    there = [part for part in parts if part is not None]
    return torch.cat(there, 1) if there else None


def tower(config: HeadConfig, channels: int, layers: int) -> nn.Sequential:
    """3×3 convolutions, each with a norm, or with a bias without one, and an activation.

    Depthwise, each is two: 3×3 of every channel alone, and 1×1.
    """
    parts: list[nn.Module] = []
    for number in range(layers):
        inputs = config.width if number else channels
        shapes = [(inputs, config.width, 3, 1)]
        if config.depthwise:
            shapes = [(inputs, inputs, 3, inputs), (inputs, config.width, 1, 1)]
        for shape in shapes:
            parts += _unit(config, *shape)
    return nn.Sequential(*parts)


def _unit(
    config: HeadConfig, inputs: int, outputs: int, kernel: int, groups: int
) -> list[nn.Module]:
    bias = config.norm == "none"
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)
    start_weights(conv, config)
    norm = [] if bias else [tower_norm(config, outputs)]
    return [conv, *norm, ACTIVATIONS[config.activation](inplace=True)]


def tower_norm(config: HeadConfig, width: int) -> nn.Module:
    """The norm of a tower. Groups have two channels or more: a coarse level may be one cell."""
    groups = math.gcd(GROUPS, width)
    if config.norm == "gn" and groups == width > 1:
        return nn.GroupNorm(width // 2, width)
    return norm_layer(config.norm, config.bn_epsilon, config.bn_momentum)(width)


def predictor(config: HeadConfig, channels: int, outputs: int) -> nn.Conv2d:
    """A convolution at the end of a tower."""
    conv = nn.Conv2d(channels, outputs, config.kernel, padding=config.kernel // 2)
    start_weights(conv, config)
    return conv


def start_weights(conv: nn.Conv2d, config: HeadConfig) -> None:
    """First weights as `config.init` says, first bias 0."""
    if config.init == "normal":
        init_normal(conv, std=0.01)
        return
    nn.init.kaiming_uniform_(conv.weight, a=math.sqrt(5))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    """`x` times the scale of its level, if there is one."""
    return x if scale is None else x * scale


def rows(maps: Tensor, numbers: int) -> Tensor:
    """Maps (B, A · numbers, h, w) as (B, h · w · A, numbers) float32."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, numbers).float()


def join_objectness(logits: Tensor, objectness: Tensor) -> Tensor:
    """Logits whose sigmoid is σ(class) · σ(objectness) ("You Only Look One-level Feature", §4.3).

    c + o − ln(1 + eᶜ + eᵒ), the exponentials no more than 10⁸ each.

    in   logits  (B, N, K) float32;  objectness  (B, N) float32
    """
    own = objectness[..., None]
    total = 1 + logits.exp().clamp(max=MOST_EXP) + own.exp().clamp(max=MOST_EXP)
    return logits + own - total.log()
