"""transformers' DETR and Deformable DETR: `state_dict()` of `…ForObjectDetection`, or its file.

Names are those of version 5; version 4's, as most published files have them, are renamed, and so
are those of a backbone of timm. Background is the last class of DETR; Deformable DETR has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import RESNETS, Config, DeformableHead, Detr, ResNet
from dhcli.weights.layouts import pairs as p
from dhcli.weights.layouts.mmdet.detr import name_of, predictors_of

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "transformers"
CLASSIFIERS: tuple[str, ...] = (
    "class_labels_classifier.weight",
    "model.decoder.class_embed.0.weight",
    "class_embed.0.weight",
)
"""Of DETR; of a two-stage Deformable DETR, where tensors that are the same are stored once; of
others."""
ANCHORS = ""
LEFT: dict[str, str] = {
    r"(class|bbox)_embed\.[1-9]\d*\..*": "the same as the first layer's",
    r"model\.decoder\.(class|bbox)_embed\..*": "the same as those of the head",
}
COCO_CLASSES = 91
"""Slots of COCO's ids 0 … 90, eleven of which name nothing."""

INPUT = {"interpolation": "pil", "resize": "torchvision", "divisor": 1}
BACKBONE = {"norm": "frozen_bn", "frozen_stages": 2}
QUERIES = "model.query_position_embeddings.weight"
HEADS = 8
RESNET = "model.backbone.model"
TWO_STAGE = {
    "model.enc_output": "memory",
    "model.enc_output_norm": "memory_norm",
    "model.pos_trans": "place",
    "model.pos_trans_norm": "place_norm",
}
"""What a two-stage one has in the place of learned queries → its name in `head.proposals`."""
INNER = r"^model\.decoder\.(?=(class|bbox)_embed\.)"
"""Where predictors of a two-stage Deformable DETR are, too."""
INNER_BOXES = "model.decoder.bbox_embed."
"""Where a refined Deformable DETR has the predictors of boxes, too."""

OLD = (
    (r"^model\.backbone\.conv_encoder\.", "model.backbone."),
    (r"(_attn)\.out_proj\.", r"\1.o_proj."),
    (r"(layers\.\d+)\.(fc[12])\.", r"\1.mlp.\2."),
    (rf"^({re.escape(RESNET)})\.embedder\.embedder\.convolution", r"\1.conv1"),
    (rf"^({re.escape(RESNET)})\.embedder\.embedder\.normalization", r"\1.bn1"),
)
"""Names of version 4, and of transformers' own ResNet → those that are read."""
UNIT = (
    rf"^{re.escape(RESNET)}\.encoder\.stages\.(\d)\.layers\.(\d+)\.(layer\.(\d)|shortcut)\.(\w+)\."
)


def modern(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a DETR of transformers by the names that are read; others as they are."""
    if not (QUERIES in state or _is_two_stage(state)):
        return dict(state)
    renamed = {_modern(name): tensor for name, tensor in state.items()}
    # A file has tensors that are the same only once
    return {re.sub(INNER, "", name): tensor for name, tensor in renamed.items()} | renamed


def _modern(name: str) -> str:
    for old, new in OLD:
        name = re.sub(old, new, name)
    return re.sub(UNIT, _unit, name)


def _unit(found: re.Match[str]) -> str:
    """A convolution or norm of transformers' ResNet, as timm and torchvision call it."""
    stage, block, _, number, kind = found.groups()
    is_norm = kind == "normalization"
    place = f"{RESNET}.layer{int(stage) + 1}.{block}"
    if number is None:
        return f"{place}.downsample.{int(is_norm)}."
    return f"{place}.{'bn' if is_norm else 'conv'}{int(number) + 1}."


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are transformers'."""
    found = any(name in state for name in CLASSIFIERS)
    return found and (QUERIES in state or _is_two_stage(state))


def _is_two_stage(state: Mapping[str, Tensor]) -> bool:
    return "model.pos_trans.weight" in state


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K: without the background's row of DETR."""
    detr, *_, deformable = CLASSIFIERS
    return len(state[deformable]) if deformable in state else len(state[detr]) - 1


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What the shapes and names say of the architecture, and the conventions."""
    backbone = {**BACKBONE, "name": p.read_depth(state, RESNET + ".layer{stage}")}
    layers = {
        f"{part}_layers": sum(
            f"model.{part}.layers.{i}.final_layer_norm.weight" in state for i in range(99)
        )
        for part in ("encoder", "decoder")
    }
    head: dict[str, Any] = {
        "kind": "detr",
        **({"queries": state[QUERIES].shape[0]} if QUERIES in state else {}),
        **layers,
        "ffn_width": state["model.encoder.layers.0.mlp.fc1.weight"].shape[0],
    }
    channels = state["model.encoder.layers.0.final_layer_norm.weight"].shape[0]
    neck: dict[str, Any] = {"kind": "map", "channels": channels}
    model = {"kind": "detr", "backbone": backbone, "neck": neck, "head": head}
    if CLASSIFIERS[0] in state:
        return {"about": "DETR", "input": INPUT, "model": model}
    levels = sum(f"model.input_proj.{i}.0.weight" in state for i in range(9))
    offsets = state["model.encoder.layers.0.self_attn.sampling_offsets.bias"].shape[0]
    refined = f"{INNER_BOXES}0.layers.0.weight" in state
    neck |= {"norm": "gn", "finest": 3, "coarsest": 2 + levels}
    if levels == 1:
        neck |= {"finest": 5, "coarsest": 5}
    head |= {"kind": "deformable", "points": offsets // (2 * HEADS * levels), "refine": refined}
    head["two_stage"] = _is_two_stage(state)
    kind = name_of(two_stage=head["two_stage"], refine=refined)
    return {"about": kind, "input": INPUT, "model": {**model, "loss": {"kind": "focal"}}}


def pairs(config: Config) -> p.Pairs:
    """Every tensor under both names."""
    model = config.model
    assert isinstance(model, Detr)
    assert isinstance(model.backbone, ResNet)
    assert model.backbone.name in RESNETS
    yield from p.resnet(model.backbone.name, lambda name: f"{RESNET}.{name}")
    head = model.head
    if not (isinstance(head, DeformableHead) and head.two_stage):
        yield p.Pair(QUERIES, "head.queries")
    for part, layers in (("encoder", head.encoder_layers), ("decoder", head.decoder_layers)):
        for layer in range(layers):
            yield from _layer(f"model.{part}.layers.{layer}", f"head.{part}.{layer}", model)
    if not isinstance(head, DeformableHead):
        yield from p.layer("model.input_projection", "neck.maps.0.conv")
        yield from p.layer("model.decoder.layernorm", "head.norm")
        yield from p.layer("class_labels_classifier", "head.cls", last_first=True)
        for layer in range(3):
            yield from p.layer(f"bbox_predictor.layers.{layer}", f"head.reg.{2 * layer}")
        return
    yield from _several_levels(model, head)


def _several_levels(model: Detr, head: DeformableHead) -> p.Pairs:
    """What is Deformable DETR's alone."""
    own = 6 - model.neck.finest
    for level in range(len(model.neck.strides())):
        ours = f"neck.maps.{level}" if level < own else f"neck.extra.{level - own}"
        yield from p.layer(f"model.input_proj.{level}.0", f"{ours}.conv")
        yield from p.layer(f"model.input_proj.{level}.1", f"{ours}.norm")
    yield p.Pair("model.level_embed", "head.levels")
    if head.two_stage:
        for theirs, name in TWO_STAGE.items():
            yield from p.layer(theirs, f"head.proposals.{name}")
    else:
        yield from p.layer("model.reference_points", "head.reference_points")
    # One for all layers, where boxes are not refined
    for number, ours in enumerate(dict.fromkeys(predictors_of(head))):
        yield from p.layer(f"class_embed.{number}", ours.format("cls"))
        for layer in range(3):
            name = f"bbox_embed.{number}.layers.{layer}"
            yield from p.layer(name, f"{ours.format('reg')}.{2 * layer}")


def _layer(theirs: str, ours: str, model: Detr) -> p.Pairs:
    """A layer of the encoder or the decoder: what runs it has these names itself."""
    decoder = ".decoder." in theirs
    attention, deformable = (
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        (
            "sampling_offsets",
            "attention_weights",
            "value_proj",
            "output_proj",
        ),
    )
    several = isinstance(model.head, DeformableHead)
    own = deformable if several and not decoder else attention
    looks = [f"self_attn.{part}" for part in own]
    if decoder:
        looks += [f"encoder_attn.{part}" for part in (deformable if several else attention)]
        looks.append("encoder_attn_layer_norm")
    for name in (*looks, "self_attn_layer_norm", "mlp.fc1", "mlp.fc2", "final_layer_norm"):
        yield from p.layer(f"{theirs}.{name}", f"{ours}.{name}")
