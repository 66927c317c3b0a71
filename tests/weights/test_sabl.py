"""SABL of MMDetection: its names, there and back, its numbers, alone and in a cascade."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dhcli.config.load import load_config
from dhcli.config.schema import Config
from dhcli.errors import ModelError
from dhcli.models.build import build_detector
from dhcli.weights.exchange import differing, export_weights, import_weights
from dhcli.weights.layouts import LAYOUTS
from dhcli.weights.model_file import ModelFile, save_model
from tests.references import sabl
from tests.weights.round_trip import assert_written_back
from tests.weights.test_layouts import fill
from tests.weights.test_parity import (
    KEYS,
    LONG,
    SHORT,
    SIZES,
    SMALL,
    assert_same,
    draw_state,
    narrow_shapes,
    photo,
    predict,
)

pytestmark = pytest.mark.usefixtures("shallow")

CASCADE = pytest.mark.parametrize("cascade", [False, True], ids=["alone", "cascade"])


def in_stages(shapes: dict[str, Any]) -> dict[str, Any]:
    """The head of each of three stages, in the place of the one."""
    head = {name: x for name, x in shapes.items() if name.startswith(sabl.HEAD)}
    rest = {name: x for name, x in shapes.items() if name not in head}
    stages = [
        {name.replace(sabl.HEAD, f"{sabl.HEAD}.{stage}"): x for name, x in head.items()}
        for stage in range(3)
    ]
    return rest | stages[0] | stages[1] | stages[2]


def key_list() -> dict[str, tuple[int, ...]]:
    lines = (line.split() for line in (KEYS / "mmdet_sabl_r50.txt").read_text().splitlines())
    return {k: tuple(map(int, s.split("x"))) if s != "-" else () for k, s in lines}


@CASCADE
def test_names_shapes_and_order_are_the_origins(tmp_path: Path, cascade: bool) -> None:
    keys = in_stages(key_list()) if cascade else key_list()
    torch.save({"state_dict": fill(keys)}, tmp_path / "w.pth")

    found = import_weights(tmp_path / "w.pth")  # it compares shapes with those of the detector

    config = found.model.config
    assert [one.theirs for one in LAYOUTS["mmdet"].pairs(config)] == list(keys)
    assert len(key_list()) == 364
    assert sum(row.tensors for row in found.rows) == len(keys)
    stages = [(one.positive_iou, one.bucket_scale, one.weight) for one in config.model.head.cascade]
    assert stages == ([(0.5, 1.7, 1), (0.6, 1.5, 0.5), (0.7, 1.3, 0.25)] if cascade else [])
    with torch.device("meta"):
        network = build_detector(config, 80)
    head = sum(x.numel() for x in network.head.parameters())
    expected = 14_766_677 * (3 if cascade else 1)
    assert head == sum(torch.Size(s).numel() for k, s in keys.items() if sabl.HEAD in k) == expected


@CASCADE
def test_the_preset_is_what_the_file_says(tmp_path: Path, cascade: bool) -> None:
    keys = in_stages(key_list()) if cascade else key_list()
    torch.save({"state_dict": fill(keys)}, tmp_path / "w.pth")
    imported = import_weights(tmp_path / "w.pth").model.config

    preset = load_config("coco-r50-sabl-cascade" if cascade else "coco-r50-sabl").config

    others = [key for key, *_ in differing(preset, imported)]
    assert all(key.startswith(("input.", "model.backbone.weights")) for key in others), others


@CASCADE
def test_there_and_back_byte_for_byte(tmp_path: Path, cascade: bool) -> None:
    state = fill(in_stages(key_list()) if cascade else key_list())
    torch.save({"state_dict": state}, tmp_path / "w.pth")

    assert_written_back(tmp_path / "w.pth", state)


@pytest.mark.parametrize(
    ("branches", "why"),
    [
        ([{"kind": "fc", "lambda": 0.5}, {"kind": "side"}], "no fc branch that only classifies"),
        ([{"kind": "conv", "focus": "cls"}, {"kind": "side"}], "no fc branch that only classif"),
        ([{"kind": "fc"}, {"kind": "conv", "reg": {"kind": "buckets"}}], "said by buckets, but"),
    ],
)
def test_what_mmdetection_has_not_is_not_written(
    tmp_path: Path, branches: list[dict[str, Any]], why: str
) -> None:
    small = {"width": 8}
    model = {
        "backbone": {"name": "resnet18"},
        "neck": {"channels": 8},
        "head": {"branches": [{**small, **branch} for branch in branches]},
    }
    config = Config.model_validate({"model": model})
    state = build_detector(config, 2).state_dict()
    save_model(tmp_path / "m.safetensors", ModelFile(config, ("a", "b"), (1, 2), state, {}))

    with pytest.raises(ModelError, match=why):
        export_weights(tmp_path / "m.safetensors", tmp_path / "back.pth", "mmdet")


def sides_state(cascade: bool) -> dict[str, Tensor]:
    """Seeded weights by which every side has a bucket of its own that is likely."""
    shapes = narrow_shapes("mmdet_sabl_r50")
    state = draw_state(in_stages(shapes) if cascade else shapes)
    for name, x in state.items():
        if re.search(r"fc_reg_cls\.weight|reg_conv_att_.\.weight", name):
            x *= 2
        elif "fc_reg_offset" in name:
            x *= 0.3
    return state


MANY = "model.detect.max_detections=1000"


@CASCADE
@torch.no_grad()
def test_its_detections_from_image_to_file(tmp_path: Path, cascade: bool) -> None:
    photos = {f"{h}.png": photo(h, w) for h, w in SIZES[1:2]}
    state = sides_state(cascade)
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    model = import_weights(tmp_path / "w.pth", overrides=[*SMALL, MANY]).model
    save_model(tmp_path / "m.safetensors", model)

    ours = predict(tmp_path, tmp_path / "m.safetensors", photos)
    asked = ("--score-threshold", "0.1", "--overwrite")
    higher = predict(tmp_path, tmp_path / "m.safetensors", photos, *asked)

    for name, pixels in photos.items():
        theirs = sabl.detect(state, pixels, SHORT, LONG, most=1000)
        assert len(theirs) > 10
        assert_same(ours[name], theirs)
        assert max(box[2] for _, _, box in theirs) < pixels.shape[1]
    if not cascade:  # the confidence lowered some after the threshold
        assert min(score for found in ours.values() for _, score, _ in found) < 0.05
    assert min(score for found in higher.values() for _, score, _ in found) >= 0.1
