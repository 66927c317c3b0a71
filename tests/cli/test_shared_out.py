"""`dh eval` and `dh predict` in several processes: what they say and write is that of one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.errors import DataError, DhError
from dhcli.inference import predict as predicting
from dhcli.inference.evaluate import evaluate_runner
from dhcli.inference.predict import Request, predict
from dhcli.inference.score import Evaluation, Measures
from dhcli.inference.writers import FORMATS
from dhcli.report.draw import write_drawing
from dhcli.runtime.eager import EagerRunner
from dhcli.runtime.team import ALONE, Team
from dhcli.weights.model_file import ModelFile, save_model
from tests.threads import together

COUNT = 11
"""Photos: with two at a time, several rounds, the last of them short."""


@pytest.fixture
def folder(
    tmp_path: Path,
    small_model: Callable[..., ModelFile],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """model.safetensors and a YOLO dataset of photos of two shapes with a cat each."""
    save_model(tmp_path / "model.safetensors", small_model("cat", "dog"))
    for part in ("images", "labels"):
        (tmp_path / "photos" / part).mkdir(parents=True)
    for number in range(COUNT):
        size = (48, 64, 3) if number % 3 else (64, 48, 3)
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "images" / f"{number:02}.png")
        row = f"{number % 2} 0.4 0.4 0.7 0.7\n"
        (tmp_path / "photos" / "labels" / f"{number:02}.txt").write_text(row)
    (tmp_path / "photos" / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def one_runner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> EagerRunner:
    """The model, opened once for all threads: those of a team take turns."""
    monkeypatch.setattr("dhcli.inference.stream.SENT", 2)
    options = DetectOptions(device="cpu")
    runner = EagerRunner.open(folder / "model.safetensors", options)
    for module in ("predict", "evaluate"):
        monkeypatch.setattr(f"dhcli.inference.{module}.open_runner", lambda *_: runner)
    return runner


def _written(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _predict(team: Team, out: str, *, batch_size: int = 1) -> object:
    everything = tuple(FORMATS)
    request = Request(["photos/images"], Path("model.safetensors"), Path(out), everything)
    request = Request(**{**request.__dict__, "draw": write_drawing, "score": 0.1})
    said: list[str] = []
    outcome = predict(
        request, options=AS_CONFIGURED, batch_size=batch_size, say=said.append, team=team
    )
    return {**outcome.as_dict(), "seconds": 0, "images_per_second": 0, "out": ""}, said


@pytest.mark.parametrize(("size", "batch_size"), [(2, 1), (3, 4)])
def test_predictions_shared_out_are_written_as_by_one(
    size: int, batch_size: int, folder: Path, one_runner: EagerRunner
) -> None:
    (folder / "photos" / "images" / "05.png").write_bytes(b"")
    alone = _predict(ALONE, "one", batch_size=batch_size)

    found = together(size, lambda team: _predict(team, "many", batch_size=batch_size))

    assert found == [alone] * size
    assert _written(folder / "many") == _written(folder / "one")
    assert len(_written(folder / "one")) == 4 * (COUNT - 1) + 4
    assert not list(folder.glob(".*.part"))


def _evaluate(team: Team, runner: EagerRunner) -> dict[str, object]:
    found = evaluate_runner(
        runner,
        Path("photos"),
        Measures(metrics=("coco", "voc12")),
        batch_size=2,
        workers=0,
        say=lambda _: None,
        team=team,
    )
    return {"/".join(key): _plain(evaluation) for key, evaluation in found.items()}


def _plain(evaluation: Evaluation) -> object:
    return json.dumps(evaluation.as_dict()), evaluation.found.boxes.tobytes()


@pytest.mark.parametrize("size", [2, 3])
def test_an_evaluation_shared_out_is_that_of_one(
    size: int, folder: Path, one_runner: EagerRunner
) -> None:
    alone = _evaluate(ALONE, one_runner)
    [(text, _)] = alone.values()  # type: ignore[misc]

    found = together(size, lambda team: _evaluate(team, one_runner))

    assert found == [alone, *[{}] * (size - 1)]
    assert len(json.loads(text)["metrics"]["coco"]["stats"]) == 12


def test_an_image_that_one_process_cannot_read_is_every_processs_error(
    folder: Path, one_runner: EagerRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dhcli.data.loading.loader.PAUSES", ())
    whole = (folder / "photos" / "images" / "07.png").read_bytes()
    (folder / "photos" / "images" / "07.png").write_bytes(whole[:400])

    for error in together(2, lambda team: _evaluate(team, one_runner)):
        assert isinstance(error, DataError)
        assert "07.png" in str(error)
        assert "every image counts" in str(error.hint)


def test_a_picture_that_one_process_cannot_write_leaves_nothing_behind(
    folder: Path, one_runner: EagerRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(image: object, classes: object, path: Path) -> None:
        if path.name == "10.png":  # the last image of all: it fails as the block ends
            raise DhError("cannot be written: the disk is full", where=path)

    monkeypatch.setitem(globals(), "write_drawing", draw)

    for error in together(2, lambda team: _predict(team, "many")):
        assert isinstance(error, DhError)
        assert "the disk is full" in str(error)
    assert not (folder / "many").exists()
    assert not list(folder.glob(".*.part"))


def test_a_file_that_the_first_cannot_open_is_every_processs_error(
    folder: Path, one_runner: EagerRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise DhError("cannot be written", where="predictions.csv")

    monkeypatch.setitem(predicting.FORMATS, "csv", fail)  # type: ignore[arg-type]

    for error in together(2, lambda team: _predict(team, "many")):
        assert str(error) == "predictions.csv: cannot be written"
    assert not (folder / "many").exists()


def test_several_processes_run_an_exported_file_on_the_cpu(tmp_path: Path) -> None:
    from dhcli.cli.processes import shared_out
    from dhcli.errors import ConfigError

    model, one_of_two = tmp_path / "model.onnx", Team(1, 2)

    assert shared_out(ALONE, "auto", model) == "auto"
    assert shared_out(one_of_two, "auto", model) == "cpu"
    with pytest.raises(ConfigError, match="an exported file on the CPU only"):
        shared_out(one_of_two, "cuda", model)


@pytest.mark.parametrize(
    ("option", "value"), [("--nproc", "2"), ("--image-size", "64"), ("--nms", "soft")]
)
def test_what_is_about_a_model_is_refused_for_detections(option: str, value: str) -> None:
    words = ["eval", "--data", "photos", "--detections", "x.json", option, value]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 2
    assert f"error: {option} is about a model, not about --detections" in result.stderr


def _dh(*words: str, by: tuple[str, ...] = (sys.executable, "-m", "dhcli")) -> tuple[str, str]:
    done = subprocess.run(
        [*by, *words, "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "Traceback" not in done.stderr
    return (done.stdout, done.stderr) if done.returncode == 0 else ("", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["2", "3"])
def test_eval_by_several_processes_prints_the_twelve_numbers_of_one(
    size: str, folder: Path
) -> None:
    line = ("eval", "--weights", "model.safetensors", "--data", "photos", "--json")
    line += ("--workers", "0", "--batch-size", "2")
    one, _ = _dh(*line)

    many, said = _dh(*line, "--nproc", size, "--out", "many")

    assert many == one
    assert said.count(f"{size} processes share the images") == 1
    assert said.count("evaluating all images") == 1
    assert (folder / "many" / "metrics.json").read_text() == one


@pytest.mark.slow
def test_predict_by_two_processes_writes_the_files_of_one(folder: Path) -> None:
    line = ("predict", "photos/images", "--weights", "model.safetensors", "--score-threshold")
    line += ("0.1", "--format", ",".join(FORMATS))
    assert "11 images in" in _dh(*line, "--out", "one")[0]

    printed, said = _dh(*line, "--out", "many", "--nproc", "2")

    assert printed.count("11 images in") == 1
    assert said.count("2 processes share the images") == 1
    assert _written(folder / "many") == _written(folder / "one")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    by = (*torchrun, "--nproc-per-node", "2", "-m", "dhcli")
    assert _dh(*line, "--out", "torchrun", by=by)[0].count("11 images in") == 1
    assert _written(folder / "torchrun") == _written(folder / "one")


@pytest.mark.slow
def test_what_is_wrong_in_one_process_is_said_once_and_ends_all(folder: Path) -> None:
    (folder / "photos" / "images" / "07.png").write_bytes(b"")
    line = ("eval", "--weights", "model.safetensors", "--data", "photos", "--workers", "0")

    printed, said = _dh(*line, "--nproc", "2", "--out", "many")

    assert printed == ""
    assert len(re.findall("error: .*", said)) == 1
    assert "07.png" in said
    assert not (folder / "many").exists()
