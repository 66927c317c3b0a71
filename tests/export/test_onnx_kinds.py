"""Detectors of one stage, DETR and Deformable DETR as ONNX."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch.export import Dim

from dhcli.config.detecting import DetectOptions
from dhcli.config.load import load_config
from dhcli.config.schema import DetectDense
from dhcli.data.loading.pictures import collate_pictures
from dhcli.export.onnx import EXAMPLE, draw_test_picture, export_onnx
from dhcli.inference.predict import Request, predict
from dhcli.models.build import build_detector
from dhcli.models.dense.select import best_pairs
from dhcli.ops.largest import places_of_largest
from dhcli.runtime.runner import open_runner
from dhcli.weights.model_file import ModelFile, save_model

pytestmark = pytest.mark.usefixtures("shallow")

ON_CPU = DetectOptions(device="cpu")
SMALL = [
    "model.neck.channels=16",
    "model.backbone={name: resnet18, norm: gn, weights: none}",
    "model.head={width: 16, cls_layers: 1, reg_layers: 1}",
    *("input.min_size=64", "input.max_size=96"),
]
SQUARE = [
    *("model.backbone.width=0.125", "model.neck.channels=16", "model.head.width=16"),
    *("input.min_size=64", "input.max_size=64", "augment.batch_sizes=[64]"),
]
SYSTEMS = {
    "coco-r50-atss": SMALL,
    "coco-yolox-tiny": SQUARE,
    "coco-r50-vfnet": SMALL,
    "coco-r50-paa": SMALL,
    "coco-r50-retinanet": SMALL,
    "coco-r50-fcos": SMALL,
    "coco-r50-yolof": [*SMALL, "model.neck.width=8"],
}


def model_of(preset: str) -> ModelFile:
    """A small one that finds something in everything."""
    config = load_config(preset, overrides=SYSTEMS[preset]).config
    torch.manual_seed(0)
    detector = build_detector(config, 2)
    with torch.no_grad():
        for name, weight in detector.named_parameters():
            if name.endswith(("cls.bias", "quality.bias")):
                weight.fill_(-0.3)
            elif name.endswith("cls.weight"):
                weight.mul_(30)
    return ModelFile(config, ("Car", "Van"), (1, 2), dict(detector.state_dict()))


@pytest.mark.slow
@pytest.mark.parametrize("preset", SYSTEMS)
def test_the_file_finds_what_the_model_finds(preset: str, tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", model_of(preset))

    rows = export_onnx(model_of(preset), tmp_path / "model.onnx")

    assert all(row.good and row.torch > 1 for row in rows)
    onnx, eager = (
        open_runner(tmp_path / f"model.{end}", ON_CPU) for end in ("onnx", "safetensors")
    )
    larger = EXAMPLE[0] + 100, EXAMPLE[1] + 70  # than the picture that was traced
    for width, height in ((60, 50), (40, 64), larger):
        image = draw_test_picture(width, height, seed=1)
        pictures = collate_pictures([image], [(2 * height, 2 * width)], onnx.divisor)
        [[one]], [[other]] = onnx.detect(pictures), eager.detect(pictures)
        same = np.abs(one.boxes[:, None] - other.boxes[None]).max(axis=2) < 0.05
        assert len(other.scores) > 1
        assert same.any(axis=1).mean() > 0.95
        assert same.any(axis=0).mean() > 0.95
    shape = onnxruntime.InferenceSession(tmp_path / "model.onnx").get_inputs()[0].shape[2:]
    assert shape == ["height", "width"]
    if preset == "coco-yolox-tiny":
        assert open_runner(tmp_path / "model.onnx", replace(ON_CPU, image_size=96)).divisor == 96


@pytest.mark.slow
def test_predict_writes_the_rows_of_the_model_from_its_file(tmp_path: Path) -> None:
    """YOLOX: BGR of 0 to 255, fitted into a square with grey beside the image."""
    model = model_of("coco-yolox-tiny")
    save_model(tmp_path / "model.safetensors", model)
    export_onnx(model, tmp_path / "model.onnx")
    Image.fromarray(draw_test_picture(150, 90, seed=3)).save(tmp_path / "x.png")

    rows = []
    for end in ("onnx", "safetensors"):
        request = Request([str(tmp_path / "x.png")], tmp_path / f"model.{end}", tmp_path / end)
        predict(request, options=ON_CPU, say=lambda _: None)
        rows.append(json.loads((tmp_path / end / "predictions.bbox.json").read_text()))

    assert len(rows[0]) == len(rows[1]) > 10
    one, other = (
        np.array([[row["category_id"] * 1e3, row["score"] * 50, *row["bbox"]] for row in each])
        for each in rows
    )
    near = np.abs(one[:, None] - other[None]).max(axis=2) < 0.05  # score 1e-3, box 0.05 pixels
    assert near.any(axis=1).mean() > 0.95  # classes of equal scores are taken at will
    assert near.any(axis=0).mean() > 0.95


class Pairs(torch.nn.Module):
    def __init__(self, rule: DetectDense) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return best_pairs(logits, None, [logits.shape[0]], self.rule)


@pytest.mark.parametrize(
    "settings",
    [{"candidates": 20}, {"candidates": 20, "candidates_of": "cells"}, {"candidates": 0}],
)
def test_candidates_come_from_levels_larger_than_the_one_that_was_traced(
    settings: dict[str, Any],
) -> None:
    pairs = Pairs(DetectDense(**settings, classes="best"))
    torch.manual_seed(0)
    program = torch.export.export(
        pairs, (torch.randn(30, 3),), dynamic_shapes=({0: Dim("cells")},), strict=False
    ).module()

    for cells in (9, 300):
        logits = torch.randn(cells, 3)
        found, expected = (
            sorted(zip(*(part.tolist() for part in run(logits)), strict=True))
            for run in (program, pairs)
        )
        assert found == expected
        assert len(found) > 5


@pytest.mark.parametrize("count", [0, 3, 7])
def test_a_graph_takes_the_largest_of_however_many(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.rand(count)
    expected = places_of_largest(values, 5)

    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)

    found = places_of_largest(values, 5)
    assert len(found) == min(count, 5)
    assert set(found.tolist()) == set(expected.tolist())


DETR = [
    *("model.backbone={name: resnet18, norm: gn, weights: none}", "model.neck.channels=64"),
    *("model.head.queries=8", "model.head.encoder_layers=1", "model.head.decoder_layers=1"),
    *("model.head.ffn_width=16", "model.head.attention_heads=2"),
    *("input.min_size=250", "input.max_size=400", "augment.min_sizes=[]"),
]


def queries_model(preset: str, *overrides: str) -> ModelFile:
    pytest.importorskip("transformers", reason="the extra `detr`")
    config = load_config(preset, overrides=[*DETR, *overrides]).config
    torch.manual_seed(0)
    detector = build_detector(config, 2)
    for name, weight in detector.named_parameters():
        if name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            torch.nn.init.normal_(weight, std=0.3)  # queries look at places of their own
    return ModelFile(config, ("a", "b"), (1, 2), dict(detector.state_dict()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", ["coco-r50-detr", "coco-r50-deformable-detr", "coco-r50-deformable-two-stage"]
)
def test_detr_is_written_for_images_of_any_size(preset: str, tmp_path: Path) -> None:
    model = queries_model(preset)

    rows = export_onnx(model, tmp_path / "detr.onnx")

    assert [row.size for row in rows] == [(333, 250), (250, 333), (125, 150)]
    assert all(row.same == row.torch > 5 for row in rows)
    assert open_runner(tmp_path / "detr.onnx", ON_CPU).divisor == 1


@pytest.mark.slow
def test_no_cell_is_asked_twice_where_there_are_fewer_than_queries(tmp_path: Path) -> None:
    small = ("model.head.queries=300", "input.min_size=64", "input.max_size=96")
    model = queries_model("coco-r50-deformable-two-stage", *small)

    rows = export_onnx(model, tmp_path / "detr.onnx")

    assert all(row.same == row.torch == row.onnx > 5 for row in rows)
