from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import ExifTags, Image
from torch.export import Dim

from dhcli.config.load import config_from_dict, config_to_dict
from dhcli.config.schema import TimmNet
from dhcli.data.io.image import Pixels
from dhcli.data.loading.loader import collate_images
from dhcli.errors import ConfigError, DataError, ModelError
from dhcli.export import onnx as export
from dhcli.export.graph import DetectorGraph
from dhcli.export.onnx import Agreement, agree, draw_test_picture, export_onnx
from dhcli.export.onnx_operators import translations
from dhcli.inference.predict import Request, predict
from dhcli.models.build import build_detector
from dhcli.ops.batch import Detections, ImageBatch
from dhcli.ops.nms import Limits, best_of_groups
from dhcli.runtime.eager import restore_detector
from dhcli.runtime.onnx import OnnxRunner
from dhcli.weights.model_file import ModelFile, read_model, save_model

CPU = torch.device("cpu")
EXAMPLE = Path(__file__).parents[2] / "examples/onnx_predict.py"
FOCUSED = [
    {"kind": "fc", "width": 24},
    {"kind": "conv", "width": 32, "residual": 2, "norm": "gn", "roi_scale": 1.3},
]

CASCADE: dict[str, Any] = {"cascade": [{}, {"positive_iou": 0.6, "weight": 0.5}]}

SIDES: dict[str, Any] = {"branches": [{"kind": "fc", "width": 24}, {"kind": "side", "width": 8}]}


def batch_of(image: Pixels) -> ImageBatch:
    return collate_images([image], [image.shape[:2]], 32)


def inputs_of(batch: ImageBatch) -> tuple[torch.Tensor, ...]:
    return batch.pixels, batch.sizes[0], batch.originals[0]


@pytest.mark.parametrize(
    "head", [{}, {"branches": FOCUSED}, {"class_agnostic": True}, CASCADE, SIDES]
)
@pytest.mark.parametrize(("width", "height"), [(96, 70), (32, 32), (1, 200)])
def test_the_graph_detects_what_the_detector_detects(
    small_model: Callable[..., ModelFile], head: dict[str, Any], width: int, height: int
) -> None:
    detector = restore_detector(small_model("a", "b", **head), CPU)
    batch = batch_of(draw_test_picture(width, height, seed=1))

    with torch.inference_mode():
        boxes, scores, labels = DetectorGraph(detector)(*inputs_of(batch))
        [[expected]] = detector.detect(batch)

    assert len(expected) > 0
    torch.testing.assert_close(boxes, expected.boxes)
    torch.testing.assert_close(scores, expected.scores)
    assert torch.equal(labels, expected.labels)


def test_the_graph_bears_that_nothing_is_found(small_model: Callable[..., ModelFile]) -> None:
    detector = restore_detector(small_model("a", branches=FOCUSED), CPU)
    detector.rule = detector.rule.model_copy(update={"score_threshold": 1.0})
    batch = batch_of(draw_test_picture(64, 64, seed=1))

    with torch.inference_mode():
        boxes, scores, labels = DetectorGraph(detector)(*inputs_of(batch))

    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))


class Suppress(torch.nn.Module):
    def __init__(self, limits: Limits, how: str) -> None:
        super().__init__()
        self.limits, self.how = limits, how

    def forward(
        self, boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor
    ) -> torch.Tensor:
        return best_of_groups(boxes, scores, groups, 0.5, self.limits, count=3, how=self.how)


@pytest.mark.parametrize(
    ("limits", "how"),
    [
        (Limits(20), "exact"),
        (Limits(20, per_group=4), "mmdet"),
        (Limits(20, keep_ties=True), "torchvision"),
    ],
)
def test_suppression_in_onnx_is_that_of_torch(limits: Limits, how: str) -> None:
    def draw(count: int) -> tuple[torch.Tensor, ...]:
        corner = torch.rand(count, 2) * 60
        boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2) * 40], dim=1)
        scores = torch.rand(count)
        if limits.keep_ties:  # ten different scores
            scores = (scores * 10).floor() / 10 + 0.05
        return boxes, scores, torch.randint(0, 3, (count,))

    torch.manual_seed(0)
    n, plain = Dim("n"), Suppress(limits, how)
    program = torch.export.export(
        plain, draw(50), dynamic_shapes=({0: n}, {0: n}, {0: n}), strict=False
    )
    exported = torch.onnx.export(program, custom_translation_table=translations(), verbose=False)
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())

    for count in (50, 7, 300, 1200):
        example = draw(count)
        names = [value.name for value in session.get_inputs()]
        inputs = {name: x.numpy() for name, x in zip(names, example, strict=True)}
        (kept,) = session.run(None, inputs)
        expected = plain(*example)
        if limits.keep_ties:  # boxes of one score suppress one another in any order
            assert len(kept) == pytest.approx(len(expected), abs=5)
            assert example[1][kept].min() >= example[1][expected].min()
        else:
            assert kept.tolist() == expected.tolist()
            assert len(kept) <= 20


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_what_is_exported_agrees_at_three_sizes_and_says_what_it_is(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    exported = tmp_path / "model.onnx"

    rows = export_onnx(small_model("Car", "Straßenbahn", branches=FOCUSED), exported)

    assert [row.size for row in rows] == [(85, 64), (64, 85), (32, 38)]
    assert all(row.good and row.torch > 0 for row in rows)
    proto = onnx.load(exported)
    about = {prop.key: prop.value for prop in proto.metadata_props}
    assert json.loads(about["classes"]) == ["Car", "Straßenbahn"]
    assert json.loads(about["preprocessing"])["min_size"] == 64
    assert json.loads(about["dh"])["config"]["model"]["neck"]["channels"] == 16
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == [1, 3, "height", "width"]
    assert [one.name for one in proto.graph.input] == ["pixels", "size", "original"]
    assert b"site-packages" not in exported.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_model_with_soft_nms_is_exported_with_hard_nms_when_asked(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    model = small_model("a", "b", branches=FOCUSED)
    soft = config_from_dict(config_to_dict(model.config), overrides=["model.detect.nms.kind=soft"])

    rows = export_onnx(replace(model, config=soft), tmp_path / "m.onnx", nms="hard")

    assert all(row.good and row.torch > 0 for row in rows)
    assert OnnxRunner.open(tmp_path / "m.onnx").config == model.config


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize(
    ("head", "pool"),
    [
        ({}, {}),
        (CASCADE, {}),
        (SIDES, {}),
        ({"class_agnostic": True, "scores": "max"}, {"sampling_ratio": 2, "aligned": False}),
    ],
)
def test_other_detectors_and_opsets_agree_too(
    small_model: Callable[..., ModelFile],
    tmp_path: Path,
    head: dict[str, Any],
    pool: dict[str, Any],
    opset: int,
) -> None:
    model = small_model("a", "b", "c", **head)
    detector = model.config.model
    settings = {"pool": detector.pool.model_copy(update=pool), "legacy_plus_one": bool(pool)}
    config = model.config.model_copy(update={"model": detector.model_copy(update=settings)})
    model = ModelFile(config, model.classes, model.category_ids, model.state)

    rows = export_onnx(model, tmp_path / "model.onnx", opset=opset)

    assert all(row.good and row.torch > 0 for row in rows)


def test_where_they_disagree_no_file_is_left(
    small_model: Callable[..., ModelFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Agreement((64, 64), torch=10, onnx=10, same=3, box=0.0, score=0.0)
    monkeypatch.setattr(export, "build_onnx", lambda *_: onnx.ModelProto())
    monkeypatch.setattr(export, "compare", lambda *_: [bad])

    rows = export_onnx(small_model("a"), tmp_path / "model.onnx")

    assert rows == [bad]
    assert not list(tmp_path.iterdir())


def found(*rows: tuple[float, float, int]) -> Detections:
    """Detections at x, of a score and a label."""
    boxes = torch.tensor([[x, 0, x + 10, 10] for x, _, _ in rows]).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in rows])
    return Detections(boxes, scores, torch.tensor([label for _, _, label in rows]))


def numpy_of(detections: Detections) -> list[np.ndarray[Any, Any]]:
    return [detections.boxes.numpy(), detections.scores.numpy(), detections.labels.numpy()]


@pytest.mark.parametrize(
    ("torch_rows", "onnx_rows", "same", "good"),
    [
        ([(0, 0.9, 0), (20, 0.8, 1)], [(20.01, 0.8, 1), (0, 0.9, 0)], 2, True),  # another order
        ([(0, 0.9, 0)], [], 0, False),
        ([(20 * x, 0.9, 0) for x in range(10)], [(20 * x, 0.9, 0) for x in range(9)], 9, True),
        ([(20 * x, 0.9, 0) for x in range(10)], [(20 * x, 0.9, 0) for x in range(8)], 8, False),
        ([(0, 0.9, 0), (20, 0.8, 1)], [(0, 0.9, 1), (20, 0.8, 0)], 0, False),  # another class
        ([(0, 0.9, 0), (20, 0.8, 1)], [(1, 0.9, 0), (21, 0.8, 1)], 0, False),  # moved
        ([(0, 0.9, 0), (20, 0.8, 1)], [(0, 0.8, 0), (20, 0.7, 1)], 0, False),  # another score
        ([(0, 0.9, 0), (20, 0.8, 1)], [], 0, False),
        ([(0, 0.9, 0)] * 3, [(0, 0.9, 0)], 1, False),  # one pairs with one
        ([], [], 0, True),
    ],
)
def test_agreement_pairs_one_to_one(
    torch_rows: list[Any], onnx_rows: list[Any], same: int, good: bool
) -> None:
    row = agree((64, 64), found(*torch_rows), numpy_of(found(*onnx_rows)))

    assert (row.same, row.good) == (same, good)
    assert (row.torch, row.onnx) == (len(torch_rows), len(onnx_rows))


def test_bad_requests_are_errors(small_model: Callable[..., ModelFile], tmp_path: Path) -> None:
    model = small_model("a")

    for opset in (11, 22):
        with pytest.raises(ConfigError, match=f"must lie in 18 … 21, got {opset}"):
            export_onnx(model, tmp_path / "m.onnx", opset=opset)
    with pytest.raises(ModelError, match="does not fit"):
        export_onnx(ModelFile(model.config, ("a", "b"), (1, 2), model.state), tmp_path / "m.onnx")
    soft = config_from_dict(config_to_dict(model.config), overrides=["model.detect.nms.kind=soft"])
    with pytest.raises(ModelError, match=r"Soft-NMS \(.*\) cannot be exported") as refusal:
        export_onnx(replace(model, config=soft), tmp_path / "m.onnx", begin=pytest.fail)
    assert refusal.value.hint == "`--nms hard` writes it with hard NMS"
    with pytest.raises(DataError, match=r"none\.jpg: no such image"):  # before what takes minutes
        export_onnx(model, tmp_path / "m.onnx", images=[tmp_path / "none.jpg"], begin=pytest.fail)


def on_timm(model: ModelFile, name: str) -> ModelFile:
    """The detector of `model` on a network of timm, untrained."""
    backbone = TimmNet(kind="timm", name=name, weights="none", frozen_stages=0)
    section = model.config.model.model_copy(update={"backbone": backbone})
    config = model.config.model_copy(update={"model": section})
    state = build_detector(config, len(model.classes)).state_dict()
    return replace(model, config=config, state=dict(state))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "efficientnet_b0", "convnext_atto", "pvt_v2_b0"]
)
def test_networks_of_timm_agree_too(
    small_model: Callable[..., ModelFile], tmp_path: Path, name: str
) -> None:
    rows = export_onnx(on_timm(small_model("a", "b"), name), tmp_path / "model.onnx")

    assert all(row.good and row.torch > 0 for row in rows)


@pytest.mark.slow
def test_windows_of_a_map_are_not_exported(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    swin = on_timm(small_model("a"), "swin_tiny_patch4_window7_224")

    with pytest.raises(ModelError, match="cuts maps into windows"):
        export_onnx(swin, tmp_path / "model.onnx")


@pytest.mark.slow
def test_the_example_gives_the_boxes_of_predict(
    small_model: Callable[..., ModelFile], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Turned by EXIF, and of a size whose two ratios differ after rounding."""
    model = small_model("a", "b c")
    picture = Image.fromarray(draw_test_picture(301, 187, seed=3))
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "x.png", exif=exif)
    save_model(tmp_path / "m.safetensors", model)
    assert export_onnx(read_model(tmp_path / "m.safetensors"), tmp_path / "m.onnx")

    runpy.run_path(str(EXAMPLE))["main"](str(tmp_path / "m.onnx"), str(tmp_path / "x.png"))

    lines = capsys.readouterr().out.splitlines()
    request = Request([str(tmp_path / "x.png")], tmp_path / "m.safetensors", tmp_path / "out")
    predict(request, say=lambda _: None)
    expected = json.loads((tmp_path / "out/predictions.bbox.json").read_text())
    assert len(lines) == len(expected) > 3
    for line, row in zip(lines, expected, strict=True):
        *_, score, x1, y1, x2, y2 = line.removeprefix(str(tmp_path / "x.png")).split()
        x, y, width, height = row["bbox"]
        assert abs(float(score) - row["score"]) < 1e-3
        sides = [float(side) for side in (x1, y1, x2, y2)]
        assert np.abs(np.array(sides) - (x, y, x + width, y + height)).max() < 0.01


def test_no_path_of_the_machine_is_in_the_file(small_model: Callable[..., ModelFile]) -> None:
    model = small_model("/m/01")
    settings = model.config.model_dump()
    settings["data"] |= {"train": "/home/me/photos", "val": "secret/val"}
    settings["model"]["backbone"]["weights"] = "/home/me/backbone.pth"
    config = type(model.config).model_validate(settings)
    metadata = {"data": {"root": "/home/me/photos", "train_images": 3}, "epoch": 2}

    text = export._public(replace(model, config=config, metadata=metadata))

    assert "home" not in text
    assert "secret" not in text
    about = json.loads(text)
    assert about["classes"] == ["/m/01"]
    assert about["metadata"] == {"data": {"train_images": 3}, "epoch": 2}
