"""A branch of the head: a trunk, fully connected or of residual blocks, and what reads from it.

A trunk turns pooled RoIs (N, C, S, S) into vectors (N, D), from which the predictors read.
Sizes are those of "Rethinking Classification and Localization for Object Detection", §4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import AnyBranch as BranchConfig
from dhcli.config.schema import ConvBranch, FcBranch, Res5Branch, SideBranch, predicts
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.contract import Predictor
from dhcli.models.init import init_normal
from dhcli.models.losses import binary_loss, iou_loss
from dhcli.models.norms import ConvNorms, norm_layer
from dhcli.models.two_stage.regressor import REGRESSORS, Regressor
from dhcli.ops.box_rules import PLAIN, BoxRules

Norm = Callable[[int], nn.Module]


class Trunk(nn.Module):
    """What a branch begins with: (N, C, S, S) pooled RoIs to (N, `width`) vectors.

    With several `places`, to (N, places, width): a vector for each place that boxes are said of.
    """

    width: int
    places = 1

    def output_map(self, x: Tensor) -> Tensor:
        """(N, C, S, S) to (N, D, s, s): the last map by cells, before the RoI becomes a vector."""
        raise NotImplementedError


class FcTrunk(Trunk, nn.Sequential):
    """Fully connected layers on all cells at once: sensitive to position.

    in   (N, C, S, S) float, flattened channel by channel
    out  (N, width) float
    """

    def __init__(self, channels: int, side: int, width: int = 1024, layers: int = 2) -> None:
        inputs = [channels * side**2, *[width] * (layers - 1)]
        linear = [nn.Linear(size, width) for size in inputs]
        for layer in linear:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.bias, 0)
        super().__init__(nn.Flatten(), *(part for layer in linear for part in (layer, nn.ReLU())))
        self.width = width

    def output_map(self, x: Tensor) -> Tensor:
        """The first layer split by cells, without its bias: (N, width, S, S) (appendix A).

        Each cell times its own matrix (C, width): the sum over the cells, plus the bias, is what
        the layer gives.
        """
        first = self[1]
        assert isinstance(first, nn.Linear)
        weight = first.weight.view(first.out_features, x.shape[1], -1)  # (width, C, cells)
        parts = torch.bmm(x.flatten(2).permute(2, 0, 1), weight.permute(2, 1, 0))
        return parts.permute(1, 2, 0).reshape(len(x), -1, *x.shape[2:])


class ConvTrunk(Trunk, nn.Sequential):
    """Residual blocks and an average over the cells: the same function at every position.

    A widening block, then bottlenecks, the first `non_local` of them after a non-local block each.

    in   (N, C, S, S) float
    out  (N, width) float
    """

    def __init__(
        self,
        channels: int,
        norm: Norm,
        width: int = 1024,
        residual: int = 5,
        non_local: int = 0,
        groups: int = 4,
        normalise: str = "count",
    ) -> None:
        blocks: list[nn.Module] = [WideningBlock(channels, width, norm)]
        for index in range(residual - 1):
            if index < non_local:
                blocks.append(NonLocalBlock(width, norm, groups, normalise))
            blocks.append(BottleneckBlock(width, norm))
        super().__init__(*blocks, CellMean())
        self.width = width

    def output_map(self, x: Tensor) -> Tensor:
        """What is averaged: (N, width, S, S)."""
        for block in list(self)[:-1]:
            x = block(x)
        return x


class SideTrunk(Trunk):
    """A vector for each bucket of each side ("Side-Aware Boundary Localization", §3.2).

    Convolutions; the cells of each column, and of each row, as one by attention; convolutions along
    the row and the column that this gives, and more places in them. Their outer halves are the
    sides: the left and the top, the right and the bottom mirrored.

    in   (N, C, S, S) float
    out  (N, places, width) float: left, right, top, bottom, each from the outside in
    """

    def __init__(self, channels: int, side: int, config: SideBranch) -> None:
        super().__init__()
        count, self.width = config.reg.count, config.width
        self.places = 2 * count
        inputs = [channels, *[config.width] * config.pre]
        self.pre = nn.ModuleList(_plain_conv(n, config.width, (3, 3)) for n in inputs[:-1])
        last = inputs[-1]
        self.attend_x, self.attend_y = nn.Conv2d(last, 1, 1), nn.Conv2d(last, 1, 1)
        for layer in (self.attend_x, self.attend_y):
            init_normal(layer, std=0.01)
        inputs = [last, *[config.width] * config.post]
        self.post_x = nn.ModuleList(_plain_conv(n, config.width, (1, 3)) for n in inputs[:-1])
        self.post_y = nn.ModuleList(_plain_conv(n, config.width, (3, 1)) for n in inputs[:-1])
        times = count // side
        self.more_x = nn.ConvTranspose1d(inputs[-1], config.width, times, times)
        self.more_y = nn.ConvTranspose1d(inputs[-1], config.width, times, times)
        for more in (self.more_x, self.more_y):
            nn.init.kaiming_normal_(more.weight, mode="fan_out", nonlinearity="relu")
            assert more.bias is not None
            nn.init.zeros_(more.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.output_map(x)
        row, column = _attend(x, self.attend_x, 2), _attend(x, self.attend_y, 3)
        for conv in self.post_x:
            row = F.relu(conv(row))
        for conv in self.post_y:
            column = F.relu(conv(column))
        sides = []
        for more, line in ((self.more_x, row[:, :, 0]), (self.more_y, column[..., 0])):
            places = F.relu(more(line)).transpose(1, 2)  # (N, count, width)
            half = places.shape[1] // 2
            sides += [places[:, :half], places[:, half:].flip(1)]
        return torch.cat(sides, dim=1)

    def output_map(self, x: Tensor) -> Tensor:
        """What the row and the column are taken from: (N, width, S, S)."""
        for conv in self.pre:
            x = F.relu(conv(x))
        return x


def _attend(x: Tensor, layer: nn.Module, along: int) -> Tensor:
    """The mean of `x` (N, C, S, S) along 2, its rows, or 3, weighed by what `layer` says."""
    weights: Tensor = layer(x).sigmoid()
    return (x * (weights / weights.sum(along, keepdim=True))).sum(along, keepdim=True)


def _plain_conv(inputs: int, outputs: int, size: tuple[int, int]) -> nn.Conv2d:
    """With a bias, for no norm follows it."""
    conv = nn.Conv2d(inputs, outputs, size, padding=(size[0] // 2, size[1] // 2))
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class Res5Trunk(Trunk):
    """The backbone's last stage, with its stride of 2, and an average over the cells (C4 head).

    in   (N, C, S, S) float, C4 pooled
    out  (N, width) float
    """

    def __init__(self, layer4: nn.Sequential, width: int) -> None:
        super().__init__()
        self.layer4 = layer4
        self.mean = CellMean()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        means: Tensor = self.mean(self.output_map(x))
        return means

    def output_map(self, x: Tensor) -> Tensor:
        """What is averaged: (N, width, s, s)."""
        out: Tensor = self.layer4(x)
        return out


class CellMean(nn.Module):
    """The mean over the cells, (N, C, S, S) to (N, C).

    Summed, then divided: so the gradient is divided once a channel, and not once a cell.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3])


class WideningBlock(nn.Module):
    """The first residual block, C to `width` channels (Fig. 5a)."""

    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.main = ConvNorms(
            _conv(channels, channels, 3),
            norm(channels),
            nn.ReLU(inplace=True),
            _conv(channels, width, 1),
            norm(width),
        )
        self.shortcut = ConvNorms(_conv(channels, width, 1), norm(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.main(x).add_(self.shortcut(x)))


class BottleneckBlock(nn.Module):
    """A residual bottleneck, inner layers a quarter as wide (Fig. 5b)."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        inner = width // 4
        self.main = ConvNorms(
            _conv(width, inner, 1),
            norm(inner),
            nn.ReLU(inplace=True),
            _conv(inner, inner, 3),
            norm(inner),
            nn.ReLU(inplace=True),
            _conv(inner, width, 1),
            norm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.main(x).add_(x))


class NonLocalBlock(nn.Module):
    """Every cell looks at every other (Fig. 5c), in groups of consecutive channels.

    f = θᵀφ / cells ("count", as in the authors' code) or softmax(θᵀφ);  y = f g;
    z = relu(BN(W y) + x). W starts from zero, so that the block starts as the identity.
    """

    def __init__(self, width: int, norm: Norm, groups: int, normalise: str) -> None:
        super().__init__()
        inner = width // 2
        self.groups = groups
        self.normalise = normalise
        self.theta = nn.Conv2d(width, inner, 1)
        self.phi = nn.Conv2d(width, inner, 1)
        self.g = nn.Conv2d(width, inner, 1)
        last = nn.Conv2d(inner, width, 1)
        init_normal(last, std=0.0)
        self.out = ConvNorms(last, norm(width))
        for conv in (self.theta, self.phi, self.g):
            init_normal(conv, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (conv(x).permute(0, 2, 3, 1) for conv in (self.theta, self.phi, self.g))
        cells = [part.flatten(1, 2).chunk(self.groups, -1) for part in (theta, phi, g)]
        # One batched product a group reads views; one product for all groups would read copies.
        y = torch.cat([self._attend(*group) for group in zip(*cells, strict=True)], dim=-1)
        return F.relu_(self.out(y.view_as(theta).permute(0, 3, 1, 2)).add_(x))

    def _attend(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """What each cell takes from all: (N, cells, C / groups)."""
        affinity = theta @ phi.transpose(1, 2)  # (N, cells, cells)
        if self.normalise == "softmax":
            return affinity.softmax(dim=-1) @ g
        return affinity / affinity.shape[-1] @ g


def _conv(inputs: int, outputs: int, size: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class BranchOutput(NamedTuple):
    """What a branch says of N RoIs; None: it does not predict that.

    logits  (N, K+1) float, background first
    boxes   (N, …) float, as its regressor reads them, such as deltas (N, K or 1, 4)
    rois    (N, 4) float32 xyxy, which `boxes` start from, where a branch moved its RoIs
    ious    (N, K) float, of the IoU that a RoI has with an object of each class: see `read_iou`
    """

    logits: Tensor | None
    boxes: Tensor | None
    rois: Tensor | None = None
    ious: Tensor | None = None

    def placed(self, given: Tensor) -> Tensor:
        """What `boxes` start from (N, 4), of the RoIs that were `given`."""
        return given if self.rois is None else self.rois

    def take(self, rows: Tensor | slice) -> BranchOutput:
        """The rows (n,) of what is predicted."""
        return BranchOutput(*(part if part is None else part[rows] for part in self))


class Branch(nn.Module):
    """A trunk and what reads from it: `cls` and `reg`, or one of them, or `iou`.

    in   (N, C, S, S) float pooled RoIs
    out  BranchOutput
    """

    def __init__(
        self,
        config: BranchConfig,
        trunk: Trunk,
        classes: int,
        head: HeadConfig,
        rules: BoxRules = PLAIN,
    ) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk
        self.cls: nn.Linear | None = None
        self.reg: Regressor | None = None
        self.iou: nn.Linear | None = None
        if predicts(config, "cls"):
            self.cls = nn.Linear(trunk.width, classes + 1)
            init_normal(self.cls, std=0.01)
        if predicts(config, "reg"):
            make = REGRESSORS[type(config.reg)]
            self.reg = make(config.reg, trunk.width, trunk.places, classes, head, rules)

        self.iou_loss = head.iou_loss
        if predicts(config, "iou"):
            self.iou = nn.Linear(trunk.width, classes)
            init_normal(self.iou, std=0.01)

    def forward(self, pooled: Tensor) -> BranchOutput:
        return self.predict(self.trunk(pooled))

    def predict(self, x: Tensor) -> BranchOutput:
        """What the predictors read from the trunk's vectors (N, D)."""
        logits = self.cls(x) if self.cls is not None else None
        boxes = self.reg.read(x) if self.reg is not None else None
        ious = self.iou(x) if self.iou is not None else None
        return BranchOutput(logits, boxes, ious=ious)

    def iou_error(self, said: Tensor, ious: Tensor) -> Tensor:
        """The loss of `said` (N,), from the predictor, beside true IoUs (N,): () float32."""
        return binary_loss(said, ious) if self.iou_loss == "binary" else iou_loss(said, ious)

    def read_iou(self, said: Tensor) -> Tensor:
        """The predicted IoUs (…) float32 of `said` (…), from the predictor.

        Those learnt with smooth L1 can lie a little beyond 0 and 1.
        """
        return said.float().sigmoid() if self.iou_loss == "binary" else 0.5 + 0.5 * said.float()

    def predictors(self) -> dict[str, Predictor]:
        """Its tensors that have rows by class; see the contract."""
        found: dict[str, Predictor] = {}
        if self.cls is not None:
            found |= {f"cls.{part}": Predictor(1, "first") for part in ("weight", "bias")}
        if self.iou is not None:
            found |= {f"iou.{part}": Predictor(1) for part in ("weight", "bias")}
        if self.reg is not None:
            found |= {f"reg.{name}": rows for name, rows in self.reg.predictors().items()}
        return found

    def weight(self, task: str) -> float:
        """ω times λ or 1 − λ: the weight of the branch's loss for `task` (Eq. 1, 2, 3)."""
        config = self.config
        share = config.lambda_ if config.focus == task else 1 - config.lambda_
        return config.omega * share


def build_trunk(config: BranchConfig, channels: int, side: int, res5: Res5Trunk | None) -> Trunk:
    """The trunk that `config` describes; `res5` is the one that the backbone gave away."""
    if isinstance(config, Res5Branch):
        assert res5 is not None  # the configuration was checked: the backbone gave its last stage
        return res5
    return TRUNKS[type(config)](config, channels, side)


def _build_fc(config: FcBranch, channels: int, side: int) -> Trunk:
    return FcTrunk(channels, side, config.width, config.layers)


def _build_conv(config: ConvBranch, channels: int, side: int) -> Trunk:
    return ConvTrunk(
        channels,
        norm_layer(config.norm),
        config.width,
        config.residual,
        config.non_local,
        config.non_local_groups,
        config.non_local_normalise,
    )


def _build_side(config: SideBranch, channels: int, side: int) -> Trunk:
    return SideTrunk(channels, side, config)


TRUNKS: dict[type[Any], Callable[[Any, int, int], Trunk]] = {
    FcBranch: _build_fc,
    ConvBranch: _build_conv,
    SideBranch: _build_side,
}
"""What builds a trunk by the class of its branch: of that section, and C and S of pooled RoIs."""
