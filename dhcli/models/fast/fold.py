"""Norms that are fixed, taken into the convolutions before them."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dhcli.models.contract import Features
from dhcli.models.norms import FrozenBatchNorm

FIXED = (FrozenBatchNorm, nn.BatchNorm2d)
"""Norms that are a scale and a shift when nothing learns."""


def fold_norms(network: nn.Module) -> None:
    """Fold every batch norm that follows a convolution into its weights, for detection only.

    What a fixed scale and shift make of a convolution is a convolution: the scale times its
    weights, and a bias. So the result is the same up to rounding, and each norm's pass over the
    activations is saved. GroupNorm depends on what it sees and stays.

    Modules of a container run in the order they are listed in, in this package and in torchvision;
    a backbone that does not promise it stays as it is. Exact types only: a subclass of a norm may
    also hold an activation (timm's BatchNormAct2d).
    """
    network.eval()
    others = [m for m in network.modules() if isinstance(m, Features) and not m.runs_as_listed]
    spared = {part for other in others for part in other.modules()}
    for module in network.modules():
        if module in spared:
            continue
        for (name, conv), (after, norm) in pairwise(list(module.named_children())):
            if type(conv) is nn.Conv2d and type(norm) in FIXED:
                folded = fuse_conv_bn_eval(conv, norm)  # type: ignore[arg-type]
                setattr(module, name, folded)
                setattr(module, after, nn.Identity())
