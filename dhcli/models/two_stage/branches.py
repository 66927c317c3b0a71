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
from dhcli.config.schema import ConvBranch, FcBranch, Res5Branch, predicts
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.contract import Predictor
from dhcli.models.init import init_normal
from dhcli.models.norms import ConvNorms, norm_layer
from dhcli.models.two_stage.regressor import REGRESSORS, Regressor
from dhcli.ops.box_rules import PLAIN, BoxRules

Norm = Callable[[int], nn.Module]


class Trunk(nn.Module):
    """What a branch begins with: (N, C, S, S) pooled RoIs to (N, `width`) vectors."""

    width: int

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
    boxes   (N, …) float, as its regressor reads them: deltas (N, K or 1, 4) float
    rois    (N, 4) float32 xyxy, which `boxes` start from, where a branch moved its RoIs
    """

    logits: Tensor | None
    boxes: Tensor | None
    rois: Tensor | None = None

    def placed(self, given: Tensor) -> Tensor:
        """What `boxes` start from (N, 4), of the RoIs that were `given`."""
        return given if self.rois is None else self.rois

    def take(self, rows: Tensor | slice) -> BranchOutput:
        """The rows (n,) of what is predicted."""
        return BranchOutput(*(part if part is None else part[rows] for part in self))


class Branch(nn.Module):
    """A trunk and up to two predictors, `cls` and `reg`; a predictor of weight 0 is not there.

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
        if predicts(config, "cls"):
            self.cls = nn.Linear(trunk.width, classes + 1)
            init_normal(self.cls, std=0.01)
        if predicts(config, "reg"):
            make = REGRESSORS[type(config.reg)]
            self.reg = make(config.reg, trunk.width, classes, head, rules)

    def forward(self, pooled: Tensor) -> BranchOutput:
        return self.predict(self.trunk(pooled))

    def predict(self, x: Tensor) -> BranchOutput:
        """What the predictors read from the trunk's vectors (N, D)."""
        logits = self.cls(x) if self.cls is not None else None
        return BranchOutput(logits, self.reg.read(x) if self.reg is not None else None)

    def predictors(self) -> dict[str, Predictor]:
        """Its tensors that have rows by class; see the contract."""
        found: dict[str, Predictor] = {}
        if self.cls is not None:
            found |= {f"cls.{part}": Predictor(1, "first") for part in ("weight", "bias")}
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


TRUNKS: dict[type[Any], Callable[[Any, int, int], Trunk]] = {
    FcBranch: _build_fc,
    ConvBranch: _build_conv,
}
"""What builds a trunk by the class of its branch: of that section, and C and S of pooled RoIs."""
