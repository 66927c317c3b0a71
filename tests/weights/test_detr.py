"""DETR and Deformable DETR of MMDetection: names, there and back, numbers, a step of training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dhcli.config.schema import Config, Detr
from dhcli.models.build import build_detector
from dhcli.models.fast import prepare_for_training
from dhcli.runtime.eager import restore_detector
from dhcli.weights.class_names import coco_names
from dhcli.weights.exchange import conventions, import_weights
from dhcli.weights.foreign import export_state
from dhcli.weights.layouts import LAYOUTS
from dhcli.weights.model_file import save_model
from tests.references import detr as reference
from tests.weights.round_trip import assert_written_back
from tests.weights.test_layouts import fill
from tests.weights.test_parity import KEYS, assert_same, photo, predict
from tests.weights.test_sparse_rcnn import step_data

BACKBONE = {"name": "resnet18", "norm": "frozen_bn", "weights": "none", "frozen_stages": 0}
LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "ffn_width": 48, "queries": 12}
LEVELS = {"channels": 32, "finest": 3, "coarsest": 6, "norm": "gn", "bias": False}
FOCAL = {"kind": "focal"}
KINDS: dict[str, dict[str, Any]] = {
    "detr": {"neck": {"channels": 32}, "head": LAYERS},
    "deformable": {"neck": LEVELS, "loss": FOCAL, "head": {**LAYERS, "kind": "deformable"}},
    "refined": {
        "neck": LEVELS,
        "loss": FOCAL,
        "head": {**LAYERS, "kind": "deformable", "refine": True},
    },
    "two-stage": {
        "neck": LEVELS,
        "loss": FOCAL,
        "head": {**LAYERS, "kind": "deformable", "refine": True, "two_stage": True},
    },
}
META = {"cfg": f"num_queries={reference.QUERIES}"}
"""What tells how many queries a two-stage one has; of others, the tensors tell."""
CLASSES = 5
SHORT, LONG = 96, 150


def config_of(kind: str) -> Config:
    model = {"kind": "detr", "backbone": BACKBONE, **KINDS[kind]}
    return Config.model_validate({"input": {"divisor": 1}, "model": model})


def drawn_state(kind: str) -> dict[str, Tensor]:
    """Seeded weights of a small detector by MMDetection's names; not one is at its first value."""
    torch.manual_seed(0)
    config = config_of(kind)
    state = build_detector(config, CLASSES).state_dict()
    for name, x in state.items():
        if name.endswith("running_var"):
            x += torch.rand_like(x)
        elif name.startswith("backbone") and x.ndim == 1:
            x += 0.1 * torch.randn_like(x)
        elif not name.startswith("backbone"):
            x += torch.randn_like(x) * (x.shape[-1] ** -0.5 if x.ndim > 1 else 0.2)
        if name.startswith(("head.cls", "head.proposals.cls")) and x.ndim > 1:
            x *= 3
        if re.search(r"head\.queries|encoder_attn\.[qk]_proj\.weight", name):
            x *= 3  # so that queries do not say the same
    if kind == "detr":
        state["head.cls.bias"][2] += 1  # so that two classes are found
    return export_state(state, config, "mmdet")


def key_list(file: str) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for line in (KEYS / f"{file}.txt").read_text().splitlines():
        name, text = line.split()
        shapes[name] = () if text == "-" else tuple(map(int, text.split("x")))
    return shapes


def two_stage_keys() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the two-stage one by those of the plain one: a seventh of each predictor,
    and other tensors at the end."""
    keys = {}
    for name, shape in key_list("mmdet_deformable_detr_r50").items():
        keys[name] = shape
        if name in ("bbox_head.cls_branches.5.bias", "bbox_head.reg_branches.5.4.bias"):
            branch = name.split(".5.")[0]
            for one, its in [*keys.items()]:
                if one.startswith(f"{branch}.5."):
                    keys[one.replace(".5.", ".6.", 1)] = its
    del keys["query_embedding.weight"]
    del keys["reference_points_fc.weight"], keys["reference_points_fc.bias"]
    for name, width in (("memory_trans", 256), ("pos_trans", 512)):
        keys |= {f"{name}_fc.weight": (width, width), f"{name}_fc.bias": (width,)}
        keys |= {f"{name}_norm.weight": (width,), f"{name}_norm.bias": (width,)}
    return keys


@pytest.mark.parametrize(
    ("file", "tensors", "millions", "queries"),
    [
        ("detr_r50", 511, 41.58, 100),
        ("deformable_detr_r50", 610, 40.12, 300),
        ("two_stage", 623, 41.21, 300),
    ],
)
def test_names_shapes_and_order_are_the_origins(
    tmp_path: Path, file: str, tensors: int, millions: float, queries: int
) -> None:
    keys = two_stage_keys() if file == "two_stage" else key_list(f"mmdet_{file}")
    state = fill(keys)
    for name in keys:  # not refined: one predictor stands there six times
        if "_branches." in name and file != "two_stage":
            state[name] = state[re.sub(r"(_branches)\.\d", r"\1.0", name)]
    torch.save({"state_dict": state}, tmp_path / "w.pth")

    found = import_weights(tmp_path / "w.pth")  # it compares shapes with those of the detector

    model = found.model.config.model
    assert isinstance(model, Detr)
    assert (model.head.queries, model.detect.max_detections) == (queries, 100)
    theirs = [one.theirs for one in LAYOUTS["mmdet"].pairs(found.model.config)]
    assert list(dict.fromkeys(theirs)) == list(keys)
    assert len(keys) == tensors
    assert found.model.classes == coco_names(80)
    assert sum(row.tensors for row in found.rows) == len(keys)
    told = conventions(found.model.config)
    assert {"input.divisor=1", "input.interpolation=cv2"} <= set(told)
    with torch.device("meta"):
        network = build_detector(found.model.config, 80)
    learned = [x for name, x in network.state_dict().items() if "running" not in name]
    assert sum(x.numel() for x in learned) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_byte_for_byte(tmp_path: Path, kind: str) -> None:
    state = drawn_state(kind)
    meta = {**META, "CLASSES": tuple(f"c{i}" for i in range(CLASSES))}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "w.pth")

    found, content = assert_written_back(tmp_path / "w.pth", state)

    assert found.model.classes == content["meta"]["CLASSES"] == meta["CLASSES"]
    head = found.model.config.model.head
    assert getattr(head, "refine", None) == {"detr": None, "deformable": False}.get(kind, True)


OLDER = {
    "2.28": (
        (r"(encoder\.layers\.\d\.)self_attn", r"\1attentions.0"),
        (r"(decoder\.layers\.\d\.)self_attn", r"\1attentions.0"),
        (r"(decoder\.layers\.\d\.)cross_attn", r"\1attentions.1"),
        (r"(layers\.\d\.)ffn\.", r"\1ffns.0."),
        (r"^level_embed$", "level_embeds"),
        (r"^reference_points_fc", "reference_points"),
        (r"^memory_trans_fc", "enc_output"),
        (r"^memory_trans_norm", "enc_output_norm"),
        (r"^pos_trans_fc", "pos_trans"),
    ),
    "2.11": (
        (r"(decoder\.layers\.\d\.)cross_attn", r"\1multihead_attn"),
        (r"decoder\.post_norm", "decoder.norm"),
    ),
}


@pytest.mark.parametrize(
    ("kind", "version"),
    [("detr", "2.28"), ("detr", "2.11"), ("deformable", "2.28"), ("two-stage", "2.28")],
)
def test_files_of_older_versions_are_read_as_the_same(
    tmp_path: Path, kind: str, version: str
) -> None:
    state = drawn_state(kind)
    old = {}
    for name, x in state.items():
        for new, older in OLDER[version]:
            name = re.sub(new, older, name)
        if re.match(r"(en|de)coder|level_embed|reference_points|enc_output|pos_trans", name):
            name = f"bbox_head.transformer.{name}"
        if name.startswith("query_embedding"):
            name = f"bbox_head.{name}"
        if kind == "detr":
            name = name.replace("neck.convs.0.conv", "bbox_head.input_proj")
        old[name] = x
    torch.save({"state_dict": state}, tmp_path / "new.pth")
    torch.save({"state_dict": old}, tmp_path / "old.pth")

    new, read = (import_weights(tmp_path / f"{one}.pth").model for one in ("new", "old"))

    assert len(old) == len(state)
    assert read.config == new.config
    assert all(torch.equal(read.state[name], x) for name, x in new.state.items())


def test_how_many_queries_a_two_stage_one_has_is_in_the_configuration_alone(
    tmp_path: Path,
) -> None:
    state = drawn_state("two-stage")

    def queries(**meta: str) -> int:
        torch.save({"meta": meta, "state_dict": state}, tmp_path / "w.pth")
        model = import_weights(tmp_path / "w.pth").model.config.model
        assert isinstance(model, Detr)
        return model.head.queries

    assert queries(cfg="model = dict(\n    num_queries=12,\n") == 12
    assert queries(config="bbox_head=dict(num_query=50,") == 50
    assert queries() == 300


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_its_detections_from_image_to_file(tmp_path: Path, kind: str) -> None:
    photos = {f"{height}.png": photo(height, width) for height, width in ((150, 120), (100, 190))}
    state = drawn_state(kind)
    torch.save({"meta": META, "state_dict": state}, tmp_path / "w.pth")
    model = import_weights(
        tmp_path / "w.pth", overrides=[f"input.min_size={SHORT}", f"input.max_size={LONG}"]
    ).model
    save_model(tmp_path / "m.safetensors", model)

    ours = predict(tmp_path, tmp_path / "m.safetensors", photos)

    labels = set()
    for name, pixels in photos.items():
        theirs = reference.detect(state, pixels, SHORT, LONG, most=100)
        labels |= {label for label, *_ in theirs}
        assert_same(ours[name], theirs)
    assert len(labels) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_plain_and_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    state = drawn_state(kind)
    torch.save({"meta": META, "state_dict": state}, tmp_path / "w.pth")
    still = [
        "model.backbone.frozen_stages=0",
        "model.head.dropout=0",
        "model.backbone.norm=eval_bn",
    ]
    model = import_weights(tmp_path / "w.pth", overrides=still).model
    images, targets = step_data()
    plain = {
        name: x.double().requires_grad_(not re.search(r"running|tracked", name))
        for name, x in state.items()
    }
    for name in plain:  # where predictors are shared, their gradients add up
        if kind == "deformable" and "_branches.1" in name:
            plain[name] = plain[name.replace("_branches.1", "_branches.0")]
    said = []
    for pixels, (height, width) in zip(images.pixels, images.sizes.tolist(), strict=True):
        x = reference.normalise(pixels[None].double())
        x[:, :, height:], x[..., width:] = 0, 0
        said.append(reference.layers(plain, x, (height, width)))
    objects = [(target.boxes, target.labels) for target in targets]
    sizes = [tuple(size) for size in images.sizes.tolist()]
    theirs = reference.losses(said, sizes, objects, softmax=kind == "detr")
    sum(theirs).backward()
    monkeypatch.setattr(Tensor, "float", Tensor.double)

    for prepare in (lambda _: None, prepare_for_training):
        detector = restore_detector(model, torch.device("cpu")).double().train()
        prepare(detector)
        ours = detector.losses(images, targets)
        sum(ours.values()).backward()

        expected = [x.item() for x in theirs]
        assert [x.item() for x in ours.values()] == pytest.approx(expected, rel=1e-9)
        for one in LAYOUTS["mmdet"].pairs(model.config):
            if one.theirs not in plain or not plain[one.theirs].requires_grad:
                continue
            wanted = plain[one.theirs].grad
            assert wanted is not None
            wanted = one.read(wanted)
            difference = (detector.get_parameter(one.ours).grad - wanted).abs().max()
            assert difference <= 1e-8 * wanted.abs().max() + 1e-12, one.theirs
