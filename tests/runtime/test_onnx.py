"""An exported file as a runner: what the model file finds, and what it cannot do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.config.detecting import DetectOptions
from dhcli.config.heads import ReadOut
from dhcli.data.loading.pictures import collate_pictures
from dhcli.errors import ConfigError, DhError, ModelError
from dhcli.export.onnx import draw_test_picture, export_onnx
from dhcli.metrics.operating import KEY, OperatingPoint, OperatingPoints
from dhcli.runtime.eager import EagerRunner
from dhcli.runtime.onnx import OnnxRunner, _choose_device, _place_of
from dhcli.runtime.runner import Runner, open_runner
from dhcli.weights.model_file import ModelFile, save_model

ON_CPU = DetectOptions(device="cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model file of unusual conventions, and model.onnx of it."""
    import torch

    from dhcli.config.schema import Config
    from dhcli.models.build import build_detector
    from tests.conftest import SMALL_BRANCHES, make_shallow

    model = {
        "backbone": {"name": "resnet18", "norm": "gn", "weights": "none", "frozen_stages": 0},
        "neck": {"channels": 16},
        "anchors": {"sizes": [16, 32, 64, 128, 256]},
        "rpn": {"pre_nms_test": 100, "proposals_test": 60, "level_proposals": 25},
        "head": {"branches": SMALL_BRANCHES},
        "detect": {
            "min_size": 9.0,
            "keep_ties": True,
            "gate": 0.3,
            "max_detections": 30,
            "across_classes": 0.7,
        },
        "nms": "mmdet",
    }
    config = Config.model_validate({"input": {"min_size": 64, "max_size": 96}, "model": model})
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        make_shallow(patch)  # exports in half the time
        torch.manual_seed(0)
        state = dict(build_detector(config, 2).state_dict())
        best = OperatingPoint(0.41, 0.9, 0.8, 0.85, 30)
        about = {KEY: OperatingPoints(best, {"Van": best}).as_dict()}
        file = ModelFile(config, ("Car", "Van"), (3, 7), state, about)
        save_model(folder / "model.safetensors", file)
        rows = export_onnx(file, folder / "model.onnx")
        assert all(row.good and row.torch for row in rows)
        yield folder


def test_it_finds_what_the_model_file_finds_in_pixels_of_the_original(exported: Path) -> None:
    onnx: Runner = open_runner(exported / "model.onnx", ON_CPU)
    eager: Runner = open_runner(exported / "model.safetensors", ON_CPU)
    images = [draw_test_picture(96, 70, seed=1), draw_test_picture(64, 90, seed=2)]
    # sides that do not scale alike: NMS measures in the original's pixels
    pictures = collate_pictures(images, [(150, 190), (181, 127)], onnx.divisor)

    [found], [expected] = onnx.detect(pictures), eager.detect(pictures)

    assert onnx.classes == eager.classes == ("Car", "Van")
    assert onnx.category_ids == (3, 7)
    assert onnx.points == eager.points
    assert onnx.points is not None
    assert onnx.points.thresholds(("Van",)) == {"Van": 0.41}
    for one, other in zip(found, expected, strict=True):
        assert len(other.scores) > 5
        assert np.array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.02)


def test_stricter_options_are_kept_and_looser_ones_refused(exported: Path) -> None:
    runner = OnnxRunner.open(exported / "model.onnx", ON_CPU)
    pictures = collate_pictures([draw_test_picture(96, 70, seed=1)], [(70, 96)], runner.divisor)
    [[usual]] = runner.detect(pictures)
    middle = float(np.median(usual.scores))

    [[few]] = runner.detect(pictures, replace(ON_CPU, threshold=middle, most=3))

    assert np.array_equal(few.scores, usual.scores[usual.scores > middle][:3])
    for beyond in (
        {"threshold": 0.01},
        {"most": 31},
        {"gate": 0.2},
        {"nms_threshold": 0.3},
        {"across_classes": 0.6},
        {"read_outs": (ReadOut("fc", "conv"),)},
    ):
        with pytest.raises(ConfigError, match="an exported file cannot do"):
            runner.detect(pictures, replace(ON_CPU, **beyond))
    smaller = OnnxRunner.open(exported / "model.onnx", replace(ON_CPU, image_size=32))
    assert (smaller.config.input.min_size, smaller.config.input.max_size) == (32, 48)
    with pytest.raises(ConfigError, match="runs in fp32, not in bf16"):
        OnnxRunner.open(exported / "model.onnx", replace(ON_CPU, precision="bf16"))
    with pytest.raises(ConfigError, match="has no `mps` here"):
        OnnxRunner.open(exported / "model.onnx", replace(ON_CPU, device="mps"))


def test_files_that_are_not_ours_are_one_clear_error(exported: Path, tmp_path: Path) -> None:
    import onnx

    (tmp_path / "text.onnx").write_text("hello")
    stranger = onnx.load(exported / "model.onnx")
    del stranger.metadata_props[:]
    onnx.save(stranger, tmp_path / "stranger.onnx")

    with pytest.raises(ModelError, match="no such file"):
        open_runner(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="cannot be opened by ONNX Runtime: it is text"):
        open_runner(tmp_path / "text.onnx")
    with pytest.raises(ModelError, match="without the description"):
        open_runner(tmp_path / "stranger.onnx")
    for name, what in (("absent", "no such file"), ("text", "it is text"), ("stranger", "without")):
        told = CliRunner().invoke(app, ["info", str(tmp_path / f"{name}.onnx")])
        assert told.exit_code == 4
        assert what in told.stderr


def test_the_commands_take_it(exported: Path, tmp_path: Path) -> None:
    Image.fromarray(draw_test_picture(96, 70, seed=1)).save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": 96, "height": 70}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 40, 40], "area": 1600}
    categories = [{"id": 1, "name": "Car"}, {"id": 2, "name": "Van"}]
    document = {"images": [image], "annotations": [box], "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(document))

    def dh(*words: object) -> Any:
        result = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    counts = [
        dh("predict", "--weights", file, tmp_path / "a.png", "--out", tmp_path / file.suffix[1:])
        for file in (exported / "model.onnx", exported / "model.safetensors")
    ]
    measured = dh("eval", "--weights", exported / "model.onnx", "--data", tmp_path)
    speed = dh("bench", exported / "model.onnx", "--image-size", "64x96", "--repeats", "1")

    assert counts[0]["device"] == "ONNX Runtime on cpu"
    assert counts[0]["detections"] == counts[1]["detections"]
    assert measured["images"] == 1
    assert speed["parts"] == {}
    assert speed["gflop"] is None
    assert speed["images_per_second"] > 0


def test_what_it_holds_is_shown_as_of_the_model_file(exported: Path) -> None:
    of_onnx, of_model = (
        json.loads(CliRunner().invoke(app, ["info", str(file), "--json"]).stdout)
        for file in (exported / "model.onnx", exported / "model.safetensors")
    )
    shown = CliRunner().invoke(app, ["info", str(exported / "model.onnx")]).stdout

    assert of_onnx["weights"] is None
    for key in ("classes", "config", "preset"):
        assert of_onnx[key] == of_model[key]
    assert "best F1" in shown
    assert "weights" not in shown


def test_prediction_from_it_imports_no_torch(exported: Path, tmp_path: Path) -> None:
    Image.fromarray(draw_test_picture(96, 70, seed=1)).save(tmp_path / "a.png")
    words = ["dh", "predict", "--weights", str(exported / "model.onnx"), str(tmp_path / "a.png")]
    words += ["--out", str(tmp_path / "found")]
    code = (
        f"import sys; sys.argv = {words!r}\n"
        "from dhcli.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)

    assert (tmp_path / "found/drawn/a.png").exists()


def test_python_runs_it_without_torch_as_its_options_allow(exported: Path, tmp_path: Path) -> None:
    Image.fromarray(draw_test_picture(96, 70, seed=1)).save(tmp_path / "a.png")
    code = (
        "import sys, dhcli, numpy as np; from PIL import Image\n"
        f"model = dhcli.load({str(exported / 'model.onnx')!r})\n"
        f"path = {str(tmp_path / 'a.png')!r}\n"
        "found = model([path, np.asarray(Image.open(path))], batch_size=2)\n"
        "print(model, len(found[0]) > 5, np.array_equal(found[0].boxes, found[1].boxes))\n"
        "try:\n    model(path, top_k=31)\nexcept dhcli.DhError as error:\n    print(error)\n"
        "assert 'torch' not in sys.modules"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [
        "<Model: Car, Van; on ONNX Runtime on cpu> True True",
        "an exported file cannot do more than its 30 detections per image",
    ]


def test_without_its_runtime_it_says_what_to_install(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dhcli.runtime.onnx.find_spec", lambda _: None)

    with pytest.raises(DhError, match="needs onnxruntime") as caught:
        open_runner(exported / "model.onnx")

    assert "dhcli[export]" in str(caught.value.hint)


def test_a_model_file_is_run_by_torch(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    save_model(tmp_path / "m.safetensors", small_model("a"))

    assert isinstance(open_runner(tmp_path / "m.safetensors", ON_CPU), EagerRunner)


BOTH = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("name", "there", "place", "provider"),
    [
        ("auto", BOTH, "cuda", BOTH[0]),
        ("auto", BOTH[1:], "cpu", BOTH[1]),
        ("cuda", BOTH, "cuda", BOTH[0]),
        ("cuda:1", BOTH, "cuda:1", (BOTH[0], {"device_id": 1})),
        ("cpu", BOTH, "cpu", BOTH[1]),
        ("cpu:0", BOTH, "cpu", BOTH[1]),
    ],
)
def test_a_device_has_its_provider_and_its_number(
    name: str, there: list[str], place: str, provider: object
) -> None:
    chosen = _choose_device(name, there)

    assert (str(chosen), chosen.provider()) == (place, provider)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cpu:7", "--device: ONNX Runtime has no `cpu:7` here"),
        ("mps", "--device: ONNX Runtime has no `mps` here"),
        ("cuda:x", "--device: unknown device `cuda:x`"),
        ("cuda:", "--device: unknown device `cuda:`"),
        ("cuda:-1", "--device: unknown device `cuda:-1`"),
    ],
)
def test_a_device_that_cannot_be_is_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _choose_device(name, BOTH)

    assert str(caught.value) == said
    assert "cpu" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("found", "name", "place"),
    [
        ({BOTH[0]: {"device_id": "1"}, BOTH[1]: {}}, "cuda:1", "cuda:1"),
        ({BOTH[0]: {"device_id": "0"}, BOTH[1]: {}}, "cuda:1", None),  # it fell back to the first
        ({BOTH[1]: {}}, "cuda", None),
        ({BOTH[1]: {}}, "auto", "cpu"),
    ],
)
def test_a_device_that_onnx_runtime_replaces_is_noticed(
    found: dict[str, dict[str, str]], name: str, place: str | None
) -> None:
    session: Any = SimpleNamespace(get_provider_options=lambda: found)

    with nullcontext() if place else pytest.raises(ConfigError, match=f"cannot use `{name}` here"):
        assert str(_place_of(session, _choose_device(name, BOTH), name)) == place
