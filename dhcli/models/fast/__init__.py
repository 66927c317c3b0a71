"""What makes a detector fast, swapped into it by one call; the modules themselves are the paper's.

A swap gives a module another class with the same weights under the same names, so that it trains,
saves and loads as before. It is exact, as its class says why, and its test compares it with the
plain module. Only the exact types named here are swapped: a subclass may do more than its base.
"""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from dhcli.models.backbones.resnet import ResNetFeatures
from dhcli.models.dense.head import DenseHead
from dhcli.models.fast.depthwise import FLOAT_DEPTHWISE, is_depthwise
from dhcli.models.fast.fold import fold_norms
from dhcli.models.fast.norms import FastBasicBlock, FastBottleneck, FastConvNorms, FastResNet
from dhcli.models.fast.objects_only import (
    ObjectsBottleneckBlock,
    ObjectsHead,
    ObjectsTrunk,
    ObjectsWideningBlock,
)
from dhcli.models.fast.revisit import RevisitingRpn
from dhcli.models.fast.roi_align import SparsePool
from dhcli.models.fast.winograd import FastConv, suits, use_winograd
from dhcli.models.necks import Fpn
from dhcli.models.norms import ConvNorms
from dhcli.models.two_stage.branches import BottleneckBlock, Branch, ConvTrunk, WideningBlock
from dhcli.models.two_stage.head import Head
from dhcli.models.two_stage.pool import Pool
from dhcli.models.two_stage.rpn import Rpn

DETECTING: dict[type[nn.Module], type[nn.Module]] = {Pool: SparsePool}
TRAINING: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: FastBasicBlock,
    Bottleneck: FastBottleneck,
    ResNetFeatures: FastResNet,
    ConvNorms: FastConvNorms,
    ConvTrunk: ObjectsTrunk,
    WideningBlock: ObjectsWideningBlock,
    BottleneckBlock: ObjectsBottleneckBlock,
    Head: ObjectsHead,
    Rpn: RevisitingRpn,
    Pool: SparsePool,
}
LARGE_MAPS = (Fpn, Rpn, DenseHead)
"""Whose 3×3 convolutions gain by Winograd in training: they run on whole levels."""


def prepare_for_training(detector: nn.Module) -> None:
    """Make `detector` fast at training, in place; it validates and is saved as before."""
    for part in detector.modules():
        if type(part) in LARGE_MAPS:
            for conv in part.modules():
                if type(conv) is nn.Conv2d and suits(conv):
                    conv.__class__ = FastConv
        if is_depthwise(part):
            part.__class__ = FLOAT_DEPTHWISE.get(type(part), type(part))
    _swap(detector, TRAINING)


def prepare_for_detecting(detector: nn.Module, *, winograd: bool) -> None:
    """Make `detector` fast at detecting, in place; after that, do not train or save it.

    `winograd` is for CPUs in float32. It leaves branches out: RoIs are so small that a quarter of
    the tiles lies beyond them.
    """
    make_plain(detector)
    fold_norms(detector)
    if winograd:
        use_winograd(detector, without=(Branch,))
    _swap(detector, DETECTING)


def make_plain(detector: nn.Module) -> None:
    """Take back what `prepare_for_training` did."""
    swaps = (TRAINING | FLOAT_DEPTHWISE).items()
    _swap(detector, {fast: plain for plain, fast in swaps} | {FastConv: nn.Conv2d})


def _swap(network: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for part in network.modules():
        part.__class__ = classes.get(type(part), type(part))
