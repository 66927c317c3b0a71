"""Tensors under two names: the parts that every layout shares.

A layout lists its pairs in the order of the origin's state dict, from our names of the parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import (
    PVTS,
    RESNETS,
    Config,
    ConvBranch,
    DisentangledRoi,
    FcBranch,
    NoNeck,
    ResNet,
    TwoStage,
)

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"
"""Batch norm's, which frozen ones do not keep: in the file or not."""


@dataclass(frozen=True)
class Pair:
    """A tensor's name in the file and in our state dict, and how its rows are turned.

    `last_first`: their last row, the background's, is our first.
    `third`: ours are the first, second or last third of their rows; all three are listed in a row.
    """

    theirs: str
    ours: str
    last_first: bool = False
    third: int | None = None

    @property
    def optional(self) -> bool:
        """Whether a file may do without it."""
        return self.theirs.endswith(COUNTER)

    def read(self, tensor: Tensor) -> Tensor:
        """The tensor as ours."""
        if self.third is not None:
            return tensor.chunk(3)[self.third].clone()
        return tensor.roll(1, 0) if self.last_first else tensor

    def write(self, tensor: Tensor) -> Tensor:
        """The tensor as theirs, or the third of it that is ours."""
        return tensor.roll(-1, 0) if self.last_first else tensor


Pairs = Iterator[Pair]


def layer(theirs: str, ours: str, *, last_first: bool = False) -> Pairs:
    """Weight and bias."""
    for part in ("weight", "bias"):
        yield Pair(f"{theirs}.{part}", f"{ours}.{part}", last_first)


def attention(theirs: str, ours: Sequence[str]) -> Pairs:
    """The inputs of an attention: theirs are of query, key and value, one below another."""
    for part in ("weight", "bias"):
        for third, name in enumerate(ours):
            yield Pair(f"{theirs}_{part}", f"{name}.{part}", third=third)


def norm(theirs: str, ours: str, *, counter: bool = True) -> Pairs:
    """A batch norm."""
    for part in (*STATISTICS, *((COUNTER,) if counter else ())):
        yield Pair(f"{theirs}.{part}", f"{ours}.{part}")


def conv_norm(theirs: tuple[str, str], ours: tuple[str, str], *, counter: bool = True) -> Pairs:
    """A convolution without bias and its batch norm."""
    yield Pair(f"{theirs[0]}.weight", f"{ours[0]}.weight")
    yield from norm(theirs[1], ours[1], counter=counter)


def resnet(
    name: str,
    rename: Callable[[str], str],
    *,
    counter: bool = True,
    shortcut_first: bool = False,
) -> Pairs:
    """A backbone. `rename` takes our name of a convolution or norm, such as `layer1.0.conv1`."""
    for conv, bn in _units(name, shortcut_first):
        theirs, ours = (rename(conv), rename(bn)), (f"backbone.{conv}", f"backbone.{bn}")
        yield from conv_norm(theirs, ours, counter=counter)


def pvt(name: str) -> Pairs:
    """A Pyramid Vision Transformer, whose names are MMDetection's."""
    for stage, count in enumerate(PVTS[name]):
        place = f"backbone.layers.{stage}"
        ours = [*_both(f"{place}.0.projection"), *_both(f"{place}.0.norm")]
        ours.append(f"{place}.1.0.pos_embed")
        for number in range(1, count + 1):
            layer = f"{place}.1.{number}"
            ours += _both(f"{layer}.norm1")
            ours += [f"{layer}.attn.attn.in_proj_{part}" for part in ("weight", "bias")]
            reduced = ("attn.sr", "attn.norm") if stage < 3 else ()
            for part in ("attn.attn.out_proj", *reduced, "norm2", "ffn.layers.0", "ffn.layers.3"):
                ours += _both(f"{layer}.{part}")
        yield from (Pair(one, one) for one in ours)


def _both(name: str) -> list[str]:
    return [f"{name}.weight", f"{name}.bias"]


def read_pvt(names: Mapping[str, object]) -> str | None:
    """Name of the Pyramid Vision Transformer whose layers these are; None: of none."""
    counts = tuple(
        sum(f"backbone.layers.{stage}.1.{layer}.norm1.weight" in names for layer in range(1, 99))
        for stage in range(4)
    )
    return next((name for name, one in PVTS.items() if one == counts), None)


def _units(name: str, shortcut_first: bool) -> Iterator[tuple[str, str]]:
    """Our names of the convolutions of a ResNet and of their norms."""
    kind, counts = RESNETS[name]
    convs = 3 if kind == "bottleneck" else 2
    yield "conv1", "bn1"
    for stage, count in enumerate(counts, 1):
        for block in range(count):
            place = f"layer{stage}.{block}"
            units = [(f"{place}.conv{i}", f"{place}.bn{i}") for i in range(1, convs + 1)]
            if block == 0 and (stage > 1 or kind == "bottleneck"):
                shortcut = (f"{place}.downsample.0", f"{place}.downsample.1")
                units.insert(0 if shortcut_first else convs, shortcut)
            yield from units


def read_depth(names: Mapping[str, object], prefix: str) -> str | None:
    """Name of the ResNet whose stages are called `prefix`, with {stage}, and their blocks 0, 1 ….

    None where there is none of these depths.
    """
    counts = []
    for stage in range(1, 5):
        place, count = prefix.format(stage=stage), 0
        while f"{place}.{count}.conv1.weight" in names:
            count += 1
        counts.append(count)
    deep = f"{prefix.format(stage=1)}.0.conv3.weight" in names
    kind = "bottleneck" if deep else "basic"
    return next((name for name, shape in RESNETS.items() if shape == (kind, tuple(counts))), None)


def model_of(config: Config) -> TwoStage:
    """The section `model` of `config`: most detectors of other programs are of this kind."""
    assert isinstance(config.model, TwoStage)
    return config.model


def misfit(config: Config, *, moves: bool = False) -> str | None:
    """Why no other program has what stands around the branches of `config`; None if one may.

    `moves`: that program has branches that move their RoIs.
    """
    if not isinstance(config.model, TwoStage):
        return f"it is of kind `{config.model.kind}`"
    backbone, branches = config.model.backbone, config.model.head.branches
    if not isinstance(backbone, ResNet) or backbone.norm == "gn":
        return "its backbone is not a ResNet with batch norm"
    if isinstance(config.model.neck, NoNeck):
        return "it has no pyramid"
    if config.model.neck.levels()[:4] != ["P2", "P3", "P4", "P5"]:
        return "its pyramid does not begin with P2 … P5"
    if any(branch.focus == "iou" for branch in branches):
        return "one of its branches predicts IoU (`focus: iou`)"
    if not moves and any(isinstance(branch.roi, DisentangledRoi) for branch in branches):
        return "its branches have RoIs of their own (`roi: {kind: disentangled}`)"
    return None


def depth_of(config: Config) -> str:
    """The name of the ResNet of `config`: other programs' detectors have no other backbone."""
    backbone = config.model.backbone
    assert isinstance(backbone, ResNet)
    return backbone.name


def fc_branch(config: Config) -> FcBranch | None:
    """The branch of fully connected layers of `config`."""
    return next((b for b in model_of(config).head.branches if isinstance(b, FcBranch)), None)


def conv_branch(config: Config) -> ConvBranch | None:
    """The convolutional branch of `config`."""
    return next((b for b in model_of(config).head.branches if isinstance(b, ConvBranch)), None)


def fc_layers(branch: FcBranch, names: Sequence[str], head: str = "head") -> Pairs:
    """The layers of a fully connected branch, called `names`."""
    for index, name in enumerate(names):
        yield from layer(name, f"{head}.branches.{branch.name}.trunk.{2 * index + 1}")


def single_fc(layers: int, width: int, **others: Any) -> dict[str, Any]:
    """Settings of the one branch of a Faster R-CNN, whose four losses weigh 1."""
    branch = {"kind": "fc", "omega": 2.0, "lambda": 0.5, "width": width, "layers": layers}
    return {"branches": [branch], **others}


def side_of(weight: Tensor, channels: int) -> int:
    """Cells a side of the RoI that a first layer (width, channels · side²) reads."""
    cells = int(weight.shape[1]) / channels
    return round(math.sqrt(cells))
