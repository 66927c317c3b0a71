"""Detectors of one stage, and DETR, as ONNX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torchvision.ops import deform_conv2d

from dhcli.config.detecting import DetectOptions
from dhcli.config.load import load_config
from dhcli.data.loading.pictures import collate_pictures
from dhcli.errors import ConfigError, ModelError
from dhcli.export.onnx import draw_test_picture, export_onnx
from dhcli.models.build import build_detector
from dhcli.models.dense.star import Star
from dhcli.ops.largest import places_of_largest
from dhcli.runtime.runner import open_runner
from dhcli.weights.model_file import ModelFile, save_model

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
FAST = ("coco-r50-atss", "coco-yolox-tiny")


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


@pytest.mark.parametrize(
    "preset", [one if one in FAST else pytest.param(one, marks=pytest.mark.slow) for one in SYSTEMS]
)
def test_the_file_finds_what_the_model_finds(preset: str, tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", model_of(preset))

    rows = export_onnx(model_of(preset), tmp_path / "model.onnx")

    assert all(row.good and row.torch > 1 for row in rows)
    onnx, eager = (
        open_runner(tmp_path / f"model.{end}", ON_CPU) for end in ("onnx", "safetensors")
    )
    images = [draw_test_picture(60, 50, seed=1), draw_test_picture(40, 64, seed=2)]
    pictures = collate_pictures(images, [(100, 120), (128, 80)], onnx.divisor)
    [found], [expected] = onnx.detect(pictures), eager.detect(pictures)
    for one, other in zip(found, expected, strict=True):
        same = np.abs(one.boxes[:, None] - other.boxes[None]).max(axis=2) < 0.05
        assert len(other.scores) > 1
        assert same.any(axis=1).mean() > 0.95
        assert same.any(axis=0).mean() > 0.95
    shape = onnxruntime.InferenceSession(tmp_path / "model.onnx").get_inputs()[0].shape[2:]
    if preset != "coco-yolox-tiny":
        assert shape == ["height", "width"]
        return
    assert shape == [64, 64]
    with pytest.raises(ConfigError, match="sees images of one size"):
        open_runner(tmp_path / "model.onnx", replace(ON_CPU, image_size=96))


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


def test_a_star_is_sampled_in_a_graph_as_torchvision_samples_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    star = Star(6)
    torch.nn.init.normal_(star.weight)
    x, offsets = torch.randn(1, 6, 5, 7), torch.randn(1, 18, 5, 7) * 3  # beyond the map, too
    expected = deform_conv2d(x, offsets, star.weight, padding=1).relu()

    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)

    torch.testing.assert_close(star(x, offsets), expected, rtol=1e-4, atol=1e-4)


DETR = [
    *("model.backbone={name: resnet18, norm: gn, weights: none}", "model.neck.channels=16"),
    *("model.head.queries=8", "model.head.encoder_layers=1", "model.head.decoder_layers=1"),
    *("model.head.ffn_width=16", "model.head.attention_heads=2"),
    *("input.min_size=64", "input.max_size=96", "augment.min_sizes=[]"),
]


@pytest.mark.slow
def test_detr_is_written_for_images_of_any_size(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra `detr`")
    model = load_config("coco-r50-detr", overrides=DETR).config
    torch.manual_seed(0)
    state = dict(build_detector(model, 2).state_dict())

    rows = export_onnx(ModelFile(model, ("a", "b"), (1, 2), state), tmp_path / "detr.onnx")

    assert [row.same for row in rows] == [8, 8, 8]
    assert open_runner(tmp_path / "detr.onnx", ON_CPU).divisor == 1


def test_deformable_detr_is_refused_by_name(tmp_path: Path) -> None:
    model = load_config("coco-r50-deformable-detr").config
    nothing: dict[str, torch.Tensor] = {}

    with pytest.raises(ModelError, match=r"Deformable DETR, .* cannot be exported"):
        export_onnx(ModelFile(model, ("a",), (1,), nothing), tmp_path / "x.onnx")
