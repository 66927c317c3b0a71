"""Every command that writes, where it cannot: one line, what was there before stays, nothing left.

A disk that is full is one where files may not grow (RLIMIT_FSIZE); benchmarks/faults.py has real
ones.
"""

from __future__ import annotations

import errno
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from typer.testing import CliRunner, Result

from dhcli.cli import app
from dhcli.cli import demo as demo_module
from dhcli.export import onnx as export
from dhcli.export.onnx import Agreement
from dhcli.report.sheet import Column, Sheet
from dhcli.studies.study import Study
from dhcli.training.checkpoint import load_checkpoint
from dhcli.weights.exchange import import_weights
from dhcli.weights.model_file import ModelFile, read_model, save_model

resource = pytest.importorskip("resource")

TOY = """
extends: demo
input: {min_size: 64, max_size: 64}
model:
  backbone: {kind: timm, name: test_resnet, weights: none, norm: bn, frozen_stages: 0}
  neck: {channels: 16}
  rpn: {pre_nms_train: 40, pre_nms_test: 40, proposals_train: 20, proposals_test: 20, samples: 16}
  head: {samples: 16, branches: {fc: {width: 16}, conv: {width: 16, residual: 1, non_local: 0}}}
data: {val_fraction: 0.3}
train: {batch_size: 4, workers: 0, schedule: {length: 1, steps: [], warmup: 0}}
"""
COMMANDS = {
    "train": "train --config toy.yaml --data photos --device cpu --out OUT",
    "finetune": "finetune photos --weights m.safetensors --device cpu --out OUT",
    "eval": "eval --weights m.safetensors --data photos --workers 0 --out OUT --overwrite",
    "predict": "predict --weights m.safetensors photos --device cpu --out OUT --overwrite",
    "export": "export m.safetensors --out OUT --overwrite",
    "convert": "convert photos OUT --to coco --overwrite",
    "tile": "convert photos OUT --to yolo --tile 48 --overwrite",
    "inspect": "inspect photos --out OUT --overwrite",
    "check": "check photos --fix OUT --overwrite",
    "import": "weights import w.pth --out OUT --overwrite",
    "weights": "weights export t.safetensors --layout torchvision --out OUT --overwrite",
    "read-out": "weights set-read-out m.safetensors --scores fc --out OUT --overwrite",
    "study": "study read-outs --weights m.safetensors --data photos --out OUT --overwrite",
    "demo": "demo --out OUT",
}
"""OUT is where the command writes."""
FILES = {"export", "import", "weights", "read-out"}
NEW = {"train", "finetune", "demo"}
"""Commands whose `--overwrite` says that it deletes first: here they write something new."""


def dh(line: str) -> Result:
    return CliRunner().invoke(app, line.split())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., ModelFile]) -> Path:
    """A small detector as m.safetensors, and torchvision's as w.pth and t.safetensors."""
    folder = tmp_path_factory.mktemp("models")
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    head, predictor = TwoMLPHead(256 * 49, 16), FastRCNNPredictor(16, 3)
    network = FasterRCNN(backbone, box_head=head, box_predictor=predictor)
    torch.save(network.state_dict(), folder / "w.pth")
    save_model(folder / "t.safetensors", import_weights(folder / "w.pth").model)
    save_model(folder / "m.safetensors", small_model("cat", "dog"))
    return folder


@pytest.fixture
def place(photos: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder to write into, beside what is read."""
    monkeypatch.chdir(tmp_path)
    for file in models.iterdir():
        Path(file.name).hardlink_to(file)
    Path("toy.yaml").write_text(TOY, "utf-8")
    monkeypatch.setattr(demo_module, "IMAGES", 5)
    monkeypatch.setattr("dhcli.studies.read_outs.evaluate_models", lambda *_: [])
    study = Study("read-outs", {}, Sheet("numbers", (Column("AP"),), [(0.5,)]), ())
    monkeypatch.setattr("dhcli.studies.read_outs.read_out_study", lambda *_: study)
    good = Agreement((64, 64), torch=5, onnx=5, same=5, box=0.0, score=0.0)
    proto = type("Proto", (), {"SerializeToString": lambda self: b"x" * 100_000})()
    monkeypatch.setattr(export, "build_onnx", lambda *_: proto)
    monkeypatch.setattr(export, "compare", lambda *_: [good])
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file grows beyond `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def make_read_only(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Whatever would change something below `folder` fails, for root too."""

    def refuse(name: str, module: Any, changes: Callable[..., bool]) -> None:
        call = getattr(module, name)

        def guarded(*words: Any, **more: Any) -> Any:
            paths = [str(word) for word in words if isinstance(word, str | Path)]
            if any(path.startswith(str(folder)) for path in paths) and changes(*words, **more):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), paths[0])
            return call(*words, **more)

        patch.setattr(module, name, guarded)

    for name in ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "chmod"):
        refuse(name, os, lambda *_, **__: True)
    refuse("open", os, lambda path, flags, *_, **__: bool(flags & (os.O_WRONLY | os.O_RDWR)))
    refuse("open", io, lambda path, mode="r", *_, **__: bool(set(mode) & set("wax+")))


def make_vanish(folder: Path, patch: pytest.MonkeyPatch, after: int) -> None:
    """`folder` is moved away when something was begun in it for the time `after`."""
    begun = 0

    def moving(make: Callable[..., Any]) -> Callable[..., Any]:
        def call(suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
            nonlocal begun
            made = make(suffix, prefix, dir)
            if dir is not None and str(dir).startswith(str(folder)):
                begun += 1
                if begun == after:
                    folder.rename(folder.with_name("gone"))
            return made

        return call

    for name in ("mkstemp", "mkdtemp"):
        patch.setattr(tempfile, name, moving(getattr(tempfile, name)))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, and what is in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def require_one_line(result: Result, said: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    [line] = re.findall(r"^error: .*$", result.stderr, re.MULTILINE)
    assert said in line
    assert result.stderr.index("\n\nhint: ") > 0


def write_old(name: str, place: Path) -> dict[str, bytes]:
    """What the command `name` is to replace."""
    if name in FILES:
        (place / "x").write_bytes(b"old")
    elif name not in NEW:
        (place / "x").mkdir()
        (place / "x/old").write_bytes(b"old")
    return contents(place)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        *((name, 0) for name in COMMANDS),
        ("export", 50_000),
        ("import", 50_000),
        ("weights", 50_000),
    ],
)
def test_on_a_full_disk(name: str, limit: int, place: Path) -> None:
    before = write_old(name, place)

    with full_disk(limit):
        result = dh(COMMANDS[name].replace("OUT", "place/x"))

    require_one_line(result, "cannot be written: File too large")
    after = contents(place)
    assert before.items() <= after.items()
    assert name in NEW or before == after
    assert not list(place.rglob("*.part"))


@pytest.mark.parametrize("name", COMMANDS)
def test_in_a_read_only_folder(name: str, place: Path) -> None:
    before = write_old(name, place)

    with pytest.MonkeyPatch.context() as patch:
        make_read_only(place, patch)
        result = dh(COMMANDS[name].replace("OUT", str(place / "x")))

    require_one_line(result, "cannot be written: Read-only file system")
    assert contents(place) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_in_a_folder_that_goes_away(name: str, place: Path) -> None:
    before = write_old(name, place)

    with pytest.MonkeyPatch.context() as patch:
        make_vanish(place, patch, after=2 if name == "tile" else 1)
        result = dh(COMMANDS[name].replace("OUT", str(place / "x")))

    require_one_line(result, "")
    assert before.items() <= contents(place.with_name("gone")).items()
    assert not (place / "x").exists()


@pytest.fixture(scope="module")
def trained() -> dict[str, bytes]:
    return {}


@pytest.fixture
def run(place: Path, trained: dict[str, bytes]) -> Path:
    """A training of one epoch, which may have two."""
    folder = place / "x"
    if not trained:
        assert dh(COMMANDS["train"].replace("OUT", str(folder))).exit_code == 0
        trained |= contents(folder)
    folder.mkdir(exist_ok=True)
    for name, content in trained.items():
        (folder / name).write_bytes(content)
    return folder


RESUME = "train --data photos --epochs 2 --device cpu --resume"


@pytest.mark.parametrize(
    ("limit", "fails"),
    [
        (0, "run.lock"),
        (20_000, "events.jsonl"),
        (900_000, "last.safetensors"),
        (3_000_000, "checkpoint.pt"),
    ],
)
def test_a_run_on_a_disk_that_fills_keeps_its_state(limit: int, fails: str, run: Path) -> None:
    (run / "events.jsonl").write_bytes(b"{}\n" * 6666)  # the largest of the small ones
    before = contents(run)

    with full_disk(limit):
        result = dh(f"{RESUME} {run}")

    require_one_line(result, f"{fails}: cannot be written: File too large")
    kept = {"checkpoint.pt", "best.safetensors"} | ({"last.safetensors"} if limit < 2e6 else set())
    assert {name: (run / name).read_bytes() for name in kept} == {n: before[n] for n in kept}
    assert read_model(run / "last.safetensors").classes == ("cat", "dog")
    assert not list(run.glob(".*.part"))
    if limit > 20_000:
        assert f"the last good state is kept; resume with: dh train --resume {run}" in result.stderr


def test_a_run_that_became_read_only_keeps_its_state(run: Path) -> None:
    before = contents(run)

    with pytest.MonkeyPatch.context() as patch:
        make_read_only(run, patch)
        result = dh(f"{RESUME} {run}")

    require_one_line(result, "cannot be written: Read-only file system")
    assert contents(run) == before


def test_a_run_that_goes_away_keeps_its_state_where_it_went(run: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make_vanish(run, patch, after=3)
        result = dh(f"{RESUME} {run}")

    require_one_line(result, "")
    assert load_checkpoint(run.with_name("gone") / "checkpoint.pt")["position"]["epoch"] == 1
    assert not run.exists()
