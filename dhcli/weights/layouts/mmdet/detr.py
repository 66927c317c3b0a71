"""DETR and Deformable DETR (`deformable-detr_r50`, refined, two-stage).

No anchors, divisor 1; DETR's background is the last class, Deformable DETR has none. Names are
those of MMDetection 3; files of 2.7 – 2.28 are renamed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config, DeformableHead, Detr, ResNet, TransformerHead
from dhcli.weights.layouts import pairs as p
from dhcli.weights.layouts.mmdet import parts

if TYPE_CHECKING:
    from torch import Tensor

CLASSIFIERS: tuple[str, ...] = ("bbox_head.fc_cls.weight", "bbox_head.cls_branches.0.weight")
"""Of DETR, and of Deformable DETR's first layer."""
QUERIES = "query_embedding.weight"
TWO_STAGE = (
    ("memory_trans_fc", "memory"),
    ("memory_trans_norm", "memory_norm"),
    ("pos_trans_fc", "place"),
    ("pos_trans_norm", "place_norm"),
)
"""What a two-stage one has in the place of learned queries → its name in `head.proposals`."""
CHANNELS = "neck.convs.0.conv.weight"
INPUT = {"interpolation": "cv2", "divisor": 1}

OLD = (
    (r"^bbox_head\.transformer\.", ""),
    (r"^bbox_head\.query_embedding\.", "query_embedding."),
    (r"^bbox_head\.input_proj\.", "neck.convs.0.conv."),
    (r"^((?:en|de)coder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"^(decoder\.layers\.\d+)\.(?:attentions\.1|multihead_attn)\.", r"\1.cross_attn."),
    (r"^((?:en|de)coder\.layers\.\d+)\.ffns\.0\.", r"\1.ffn."),
    (r"^decoder\.norm\.", "decoder.post_norm."),
    (r"^level_embeds$", "level_embed"),
    (r"^reference_points\.", "reference_points_fc."),
    (r"^enc_output\.", "memory_trans_fc."),
    (r"^enc_output_norm\.", "memory_trans_norm."),
    (r"^pos_trans\.", "pos_trans_fc."),
)
"""What files of MMDetection 2.7 – 2.28 call it → what 3 does, one after another."""


def modern(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a DETR of MMDetection 2 by the names of 3; others as they are."""
    if not any(name.startswith("bbox_head.transformer.") for name in state):
        return dict(state)
    return {_modern(name): tensor for name, tensor in state.items()}


def _modern(name: str) -> str:
    for old, new in OLD:
        name = re.sub(old, new, name)
    return name


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the file is of DETR or Deformable DETR."""
    found = any(name in state for name in CLASSIFIERS)
    asked = QUERIES in state or _is_two_stage(state)
    return found and asked and {CHANNELS, "encoder.layers.0.norms.0.weight"} <= state.keys()


def _is_two_stage(state: Mapping[str, Tensor]) -> bool:
    return "pos_trans_fc.weight" in state


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K: without the background's row of DETR."""
    detr, deformable = CLASSIFIERS
    return len(state[deformable]) if deformable in state else len(state[detr]) - 1


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What the shapes and equal tensors say of the architecture, and the conventions.

    `file` is the configuration that the file holds, if any, and its name: no tensor of a two-stage
    one tells how many queries there are.
    """
    layers = {
        f"{part}_layers": sum(f"{part}.layers.{i}.norms.0.weight" in state for i in range(99))
        for part in ("encoder", "decoder")
    }
    channels = state[CHANNELS].shape[0]
    backbone = {**parts.backbone_settings(state), "norm": "frozen_bn"}
    head: dict[str, Any] = {
        "kind": "detr",
        "queries": _count_queries(state, file),
        **layers,
        "ffn_width": state["encoder.layers.0.ffn.layers.0.0.weight"].shape[0],
    }
    neck: dict[str, Any] = {"kind": "map", "channels": channels}
    model = {"kind": "detr", "backbone": backbone, "neck": neck, "head": head}
    if CLASSIFIERS[0] in state:
        return {"about": "DETR", "input": INPUT, "model": model}
    own = sum(f"neck.convs.{i}.conv.weight" in state for i in range(9))
    more = sum(f"neck.extra_convs.{i}.conv.weight" in state for i in range(9))
    neck |= {"norm": "gn", "bias": False, "finest": 6 - own, "coarsest": 5 + more}
    offsets = state["encoder.layers.0.self_attn.sampling_offsets.bias"].shape[0]
    head |= {
        "kind": "deformable",
        "points": offsets // (2 * HEADS * (own + more)),
        "two_stage": _is_two_stage(state),
        "refine": _is_two_stage(state) or _is_refined(state, layers["decoder_layers"]),
    }
    kind = name_of(two_stage=head["two_stage"], refine=head["refine"])
    return {"about": kind, "input": INPUT, "model": {**model, "loss": {"kind": "focal"}}}


def name_of(*, two_stage: bool, refine: bool) -> str:
    """What such a Deformable DETR is called."""
    return "Deformable DETR" + (" two-stage" if two_stage else " refined" if refine else "")


def _count_queries(state: Mapping[str, Tensor], file: str) -> int:
    if QUERIES in state:
        return state[QUERIES].shape[0]
    told = re.search(r"num_quer(?:ies|y)\W*[=:]\s*(\d+)", file)
    return int(told[1]) if told else DeformableHead.model_fields["queries"].default


def text(config: Config) -> str:
    """What a configuration of MMDetection would say of it, for what the tensors do not."""
    assert isinstance(config.model, Detr)
    head = config.model.head
    two_stage = isinstance(head, DeformableHead) and head.two_stage
    told = f"num_queries={head.queries}, as_two_stage=True"
    return f"model = dict(type='DeformableDETR', {told})" if two_stage else ""


HEADS = 8
"""Of every attention of MMDetection's DETRs; no shape tells."""


def _is_refined(state: Mapping[str, Tensor], layers: int) -> bool:
    """Whether each layer of the decoder has its own predictors; else one stands there six times."""
    return any(
        not state[name].equal(state[name.replace("_branches.0.", f"_branches.{layer}.")])
        for name in state
        if "_branches.0." in name
        for layer in range(1, layers)
    )


def is_kin(config: Config) -> bool:
    """Whether it is of transformers."""
    return isinstance(config.model, Detr)


def pairs(config: Config) -> p.Pairs:
    """Every tensor, in the order of MMDetection's state dict."""
    model = config.model
    assert isinstance(model, Detr)
    head, deformable = model.head, isinstance(model.head, DeformableHead)
    if deformable:
        yield p.Pair("level_embed", "head.levels")
    yield from parts.backbone(config)
    yield from _neck(model)
    yield from _predictors(head)
    for part, layers in (("encoder", head.encoder_layers), ("decoder", head.decoder_layers)):
        for layer in range(layers):
            yield from _layer(f"{part}.layers.{layer}", f"head.{part}.{layer}", deformable)
    if not deformable:
        yield from p.layer("decoder.post_norm", "head.norm")
    if isinstance(head, DeformableHead) and head.two_stage:
        for theirs, ours in TWO_STAGE:
            yield from p.layer(theirs, f"head.proposals.{ours}")
        return
    yield p.Pair(QUERIES, "head.queries")
    if deformable:
        yield from p.layer("reference_points_fc", "head.reference_points")


def _neck(model: Detr) -> p.Pairs:
    own = 6 - model.neck.finest
    for theirs, ours, count in (
        ("convs", "maps", own),
        ("extra_convs", "extra", len(model.neck.strides()) - own),
    ):
        for level in range(count):
            places = f"neck.{theirs}.{level}", f"neck.{ours}.{level}"
            yield p.Pair(f"{places[0]}.conv.weight", f"{places[1]}.conv.weight")
            if model.neck.bias:
                yield p.Pair(f"{places[0]}.conv.bias", f"{places[1]}.conv.bias")
            if model.neck.norm == "gn":
                yield from p.layer(f"{places[0]}.gn", f"{places[1]}.norm")


def _predictors(head: TransformerHead) -> p.Pairs:
    if not isinstance(head, DeformableHead):
        yield from p.layer("bbox_head.fc_cls", "head.cls", last_first=True)
        yield from p.layer("bbox_head.reg_ffn.layers.0.0", "head.reg.0")
        yield from p.layer("bbox_head.reg_ffn.layers.1", "head.reg.2")
        yield from p.layer("bbox_head.fc_reg", "head.reg.4")
        return
    owners = predictors_of(head)
    for layer, ours in enumerate(owners):
        yield from p.layer(f"bbox_head.cls_branches.{layer}", ours.format("cls"))
    for layer, ours in enumerate(owners):
        for part in (0, 2, 4):
            theirs = f"bbox_head.reg_branches.{layer}.{part}"
            yield from p.layer(theirs, f"{ours.format('reg')}.{part}")


def predictors_of(head: DeformableHead) -> list[str]:
    """Where the predictors of each layer of the decoder are, then of the encoder: `head.{}.0`."""
    own = [f"head.{{}}.{layer if head.refine else 0}" for layer in range(head.decoder_layers)]
    return own + ["head.proposals.{}"] * head.two_stage


def _layer(theirs: str, ours: str, deformable: bool) -> p.Pairs:
    """A layer of the encoder or the decoder, which looks at the cells after itself."""
    decoder = theirs.startswith("decoder")
    looks = [("self_attn", "self_attn")] + [("cross_attn", "encoder_attn")] * decoder
    for theirs_look, our_look in looks:
        places = f"{theirs}.{theirs_look}", f"{ours}.{our_look}"
        if deformable and (our_look == "encoder_attn" or not decoder):
            for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
                yield from p.layer(*(f"{place}.{part}" for place in places))
            continue
        inputs = [f"{places[1]}.{part}_proj" for part in "qkv"]
        yield from p.attention(f"{places[0]}.attn.in_proj", inputs)
        yield from p.layer(f"{places[0]}.attn.out_proj", f"{places[1]}.o_proj")
    for part, name in (("layers.0.0", "fc1"), ("layers.1", "fc2")):
        yield from p.layer(f"{theirs}.ffn.{part}", f"{ours}.mlp.{name}")
    norms = ["self_attn_layer_norm", *["encoder_attn_layer_norm"] * decoder, "final_layer_norm"]
    for number, name in enumerate(norms):
        yield from p.layer(f"{theirs}.norms.{number}", f"{ours}.{name}")


def misfit(config: Config) -> str | None:
    """Why MMDetection has no such detector; None if it has."""
    model = config.model
    assert isinstance(model, Detr)
    if not isinstance(model.backbone, ResNet) or model.backbone.norm == "gn":
        return "its backbone is not a ResNet with batch norm"
    if model.head.attention_heads != HEADS:
        return f"its attentions have {model.head.attention_heads} heads, not {HEADS}"
    deformable = isinstance(model.head, DeformableHead)
    if (model.loss.kind == "focal") != deformable:
        return f"`head.kind: {model.head.kind}` has not the loss `{model.loss.kind}` there"
    usual = ("gn", False) if deformable else ("none", True)
    if (model.neck.norm, model.neck.bias) != usual:
        return "its neck has another norm or bias"
    return None
