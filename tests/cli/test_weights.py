"""`dh weights` as people and programs see it."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from typer.testing import CliRunner, Result

from dhcli.cli import app
from dhcli.cli.weights import export, import_
from dhcli.weights.layouts import EXPORTS, LAYOUTS
from dhcli.weights.model_file import ModelFile, read_model, save_model
from dhcli.weights.open import origin_lines, read_weights


@pytest.fixture(scope="module")
def network() -> FasterRCNN:
    """torchvision's detector of two classes, its head narrow so that the files are small."""
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    head, predictor = TwoMLPHead(256 * 49, 16), FastRCNNPredictor(16, 3)
    return FasterRCNN(backbone, box_head=head, box_predictor=predictor)


@pytest.fixture(scope="module")
def saved(network: FasterRCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "w.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the network's tensors as w.pth."""
    (tmp_path / "w.pth").hardlink_to(saved)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["weights", *words])


class Odd:
    """What no plain file holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path, ("touched",)


def test_import_export_and_direct_use(folder: Path) -> None:
    result = run("import", "w.pth", "-o", "m.safetensors", "--classes", "cat,dog", "--json")

    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["layout"] == "torchvision"
    assert document["classes"] == ["cat", "dog"]
    assert "input.interpolation=float" in document["conventions"]
    assert "m.safetensors" in result.stderr
    info = CliRunner().invoke(app, ["info", "m.safetensors"]).stdout
    assert "origin" in info
    assert "layout torchvision, file w.pth" in info
    direct, imported = read_weights(folder / "w.pth"), read_model(folder / "m.safetensors")
    assert direct.config == imported.config
    assert direct.classes == ("class 1", "class 2")
    assert all(torch.equal(direct.state[name], x) for name, x in imported.state.items())
    assert origin_lines(Path("w.pth"), direct)[0].startswith("w.pth: torchvision's Faster R-CNN")
    assert "note: the file does not name its 2 classes" in origin_lines(Path("w.pth"), direct)[1]
    assert origin_lines(Path("m"), replace(direct, metadata={})) == []

    result = run("export", "m.safetensors", "-o", "back.pth", "--layout", "torchvision")

    assert result.exit_code == 0, result.stderr
    assert "warning" not in result.stderr
    back, state = torch.load("back.pth"), torch.load("w.pth")
    assert list(back) == list(state)
    assert all(torch.equal(back[name], x) for name, x in state.items())


def test_what_differs_there_is_named_and_what_does_not_fit_refused(folder: Path) -> None:
    setting = "model.pool.aligned=true"
    run("import", "w.pth", "-o", "m.safetensors", "--set", setting)

    result = run("export", "m.safetensors", "-o", "back.pth", "--layout", "torchvision")
    refused = run("export", "m.safetensors", "-o", "mmdet.pth", "--layout", "mmdet")

    assert "warning: model.pool.aligned is True, there False" in result.stderr
    assert refused.exit_code == 4
    assert "MMDetection has no such detector" in refused.stderr
    assert not Path("mmdet.pth").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["w.pth", "--classes", "cat"], 4, "has 2 classes, and --classes names 1"),
        (["w.pth", "--layout", "mmdet"], 4, "not a detector of MMDetection, but of torchvision"),
        (["odd.pth"], 4, "torch.load('odd.pth', weights_only=False)"),
        (["zoo.pkl"], 4, "pickle.load(open('zoo.pkl', 'rb')"),
        (["absent.pth"], 4, "no such file"),
        (["rows.csv"], 4, "read safely: it is text"),
        (["w.pth", "--classes", "absent.txt"], 2, "absent.txt: cannot be read"),
        (["w.pth", "--set", "model.pol=1"], 2, "unknown key `model.pol`"),
    ],
)
def test_bad_requests_are_one_clear_error(
    folder: Path, words: list[str], code: int, said: str
) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "log": Odd()}, "odd.pth")
    Path("rows.csv").write_text("epoch,loss\n1,0.5\n")  # `e` takes from a pickle's empty stack
    Path("zoo.pkl").write_bytes(pickle.dumps({"model": {}, "odd": Odd()}))

    result = run("import", *words)

    assert result.exit_code == code
    assert said in " ".join(result.stderr.split())
    assert "dh train" not in result.stderr  # which does not make what is imported
    assert not Path("model.safetensors").exists()
    assert not Path("touched").exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_hint_for_a_whole_pickled_model_works(
    folder: Path, network: FasterRCNN, wrapped: bool
) -> None:
    torch.save({"model": network, "epoch": 3} if wrapped else network, "whole.pth")

    refused = run("import", "whole.pth", "--classes", "cat,dog")

    assert refused.exit_code == 4
    said = " ".join(refused.stderr.split())
    command = said[said.index('python -c "') + len('python -c "') : -1]
    exec(command, {})  # here, where torch is imported already
    assert run("import", "plain.pth", "--classes", "cat,dog").exit_code == 0


def test_yolo_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("ultralytics.nn.tasks")
    kind = type("DetectionModel", (), {"__module__": module.__name__})
    module.DetectionModel = kind  # type: ignore[attr-defined]
    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, module)
    torch.save({"model": kind(), "epoch": 1}, "yolo.pt")

    result = run("import", "yolo.pt")
    direct = CliRunner().invoke(app, ["info", "yolo.pt"])

    for refused in (result, direct):
        assert refused.exit_code == 4
        assert "a YOLO model of Ultralytics" in refused.stderr
        assert "python -c" not in refused.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.ckpt-30.index", b"\x00\x00\x11\x08", "a TensorFlow checkpoint"),
        ("model.ckpt.data-00000-of-00001", b"\x00" * 64, "a TensorFlow checkpoint"),
        ("frozen_inference_graph.pb", b"\n\x83\x01\n\x05Const", "a TensorFlow graph"),
        ("model.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them"),
        ("m.keras", b"PK\x03\x04metadata.json", "a Keras model"),
        ("yolov3.weights", b"\x00\x00\x00\x00\x02\x00\x00\x00", "Darknet's weights"),
        ("m.onnx", b"\x08\x07\x12\x07pytorch", "an ONNX model"),
    ],
)
def test_files_of_other_programs_are_named(
    folder: Path, name: str, content: bytes, said: str
) -> None:
    Path(name).write_bytes(content)

    result = run("import", name)

    assert result.exit_code == 4
    assert f"it is {said}" in result.stderr or said in " ".join(result.stderr.split())


def test_a_model_file_needs_no_import(
    tmp_path: Path, small_model: Callable[..., ModelFile]
) -> None:
    save_model(tmp_path / "own.safetensors", small_model("cat"))

    result = run("import", str(tmp_path / "own.safetensors"), "-o", str(tmp_path / "new"))

    assert result.exit_code == 4
    assert "is already a model file of dh" in result.stderr
    assert not (tmp_path / "new").exists()


def test_every_layout_can_be_asked_for_by_name() -> None:
    """transformers' could not, though it was recognised."""
    assert get_args(get_type_hints(import_)["layout"]) == ("auto", *LAYOUTS)
    assert get_args(get_type_hints(export)["layout"]) == tuple(EXPORTS)
