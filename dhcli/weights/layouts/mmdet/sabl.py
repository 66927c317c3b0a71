"""SABL's heads (`sabl-faster-rcnn_r50_fpn_1x_coco`, `sabl-cascade`), for `proposals`.

One fc branch scores, a branch of sides places boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config, SideBranch
from dhcli.weights.layouts import pairs as p

if TYPE_CHECKING:
    from torch import Tensor

SCALES = (1.7, 1.5, 1.3)
"""Of the stages of a cascade; without one, the first."""


def recognise(state: Mapping[str, Tensor], place: str) -> bool:
    """Whether the head called `place` is SABL's."""
    return f"{place}.fc_reg_cls.weight" in state


def branches(state: Mapping[str, Tensor], place: str, side: int) -> list[dict[str, Any]]:
    """The branches of the head called `place`, which reads RoIs of `side` cells a side."""
    fc = state[f"{place}.cls_fcs.0.weight"]
    more = state[f"{place}.upsample_x.weight"]
    return [
        {"kind": "fc", "width": fc.shape[0], "layers": _count(state, f"{place}.cls_fcs.{{}}")},
        {
            "kind": "side",
            "width": more.shape[1],
            "pre": _count(state, f"{place}.reg_pre_convs.{{}}.conv"),
            "post": _count(state, f"{place}.reg_post_conv_xs.{{}}.conv"),
            "reg": {"kind": "buckets", "count": side * more.shape[2], "scale": SCALES[0]},
        },
    ]


def _count(state: Mapping[str, Tensor], name: str) -> int:
    return sum(f"{name.format(i)}.weight" in state for i in range(9))


def pairs(config: Config, theirs: str, ours: str) -> p.Pairs:
    """A head or that of a stage, in the order of MMDetection's state dict."""
    fc, side = p.fc_branch(config), side_branch(config)
    assert fc is not None  # `misfit` was asked
    assert side is not None
    yield from p.fc_layers(fc, [f"{theirs}.cls_fcs.{i}" for i in range(fc.layers)], ours)
    place = f"{ours}.branches.{side.name}"
    for axis in "xy":
        yield from p.layer(f"{theirs}.upsample_{axis}", f"{place}.trunk.more_{axis}")
    lines = (
        ("reg_pre_convs", "pre", side.pre),
        ("reg_post_conv_xs", "post_x", side.post),
        ("reg_post_conv_ys", "post_y", side.post),
    )
    for name, own, count in lines:
        for i in range(count):
            yield from p.layer(f"{theirs}.{name}.{i}.conv", f"{place}.trunk.{own}.{i}")
    for axis in "xy":
        yield from p.layer(f"{theirs}.reg_conv_att_{axis}", f"{place}.trunk.attend_{axis}")
    yield from p.layer(f"{theirs}.fc_cls", f"{ours}.branches.{fc.name}.cls", last_first=True)
    for name, own in (("fc_reg_cls", "logits"), ("fc_reg_offset", "offsets")):
        yield from p.layer(f"{theirs}.{name}", f"{place}.reg.{own}")


def side_branch(config: Config) -> SideBranch | None:
    """The branch of sides of `config`."""
    return next((b for b in p.model_of(config).head.branches if isinstance(b, SideBranch)), None)


def misfit(config: Config) -> str | None:
    """Why MMDetection has no such detector beside a branch of sides; None if it has."""
    fc = p.fc_branch(config)
    if fc is None or (fc.focus, fc.lambda_) != ("cls", 1):
        return "beside its branch of sides there is no fc branch that only classifies"
    return None
