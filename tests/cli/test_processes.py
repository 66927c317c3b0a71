"""`dh train` in several processes, as people and launchers start it."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from dhcli.cli import app

DH = (sys.executable, "-m", "dhcli")
SETTINGS = (
    *("input.min_size=64", "input.max_size=64", "model.neck.channels=16", "augment.colour=0"),
    *("model.head.branches.fc.width=16", "model.head.branches.conv.width=16"),
    *("model.head.samples=16", "model.rpn.proposals_test=20", "model.rpn.proposals_train=20"),
    *("train.optimizer=sgd", "train.lr=0.01", "train.batch_size=1", "train.accumulate=6"),
    *("train.workers=0", "train.log_every=1", "train.schedule.warmup=0", "data.val_fraction=0.3"),
)
"""Six images per step, for any number of processes that divides six; seven images: two steps."""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(photos: Path, tmp_path: Path) -> Iterator[Start]:
    """Start `dh train` on the photos with a small detector, into the folder `name`."""
    started: list[subprocess.Popen[str]] = []

    def call(
        name: str, *options: str, epochs: int = 2, by: tuple[str, ...] = DH
    ) -> subprocess.Popen[str]:
        sets = [word for one in SETTINGS for word in ("--set", one)]
        line = ["train", "--preset", "small", "--data", str(photos), "--out", str(tmp_path / name)]
        line += ["--device", "cpu", "--epochs", str(epochs), *sets, *options]
        one = {"OMP_NUM_THREADS": "1"}  # or sums of more threads differ in the last digits
        process = subprocess.Popen(
            [*by, *line],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **one},
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, said = process.communicate(timeout=300)
    assert "Traceback" not in said
    assert "TCPStore" not in said
    return process.returncode, out, said


def _ranks(process: subprocess.Popen[str]) -> list[int]:
    """The processes that it has started, in the order of their ranks."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def _wait_for(run: Path, event: str, times: int) -> None:
    """Until `events.jsonl` tells of so many events."""
    for _ in range(3000):
        path = run / "events.jsonl"
        if path.exists() and path.read_text().count(f'"event": "{event}"') >= times:
            return
        time.sleep(0.1)
    raise TimeoutError(event)


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last.safetensors")


def test_what_is_wrong_is_said_once(start: Start, tmp_path: Path) -> None:
    code, out, said = _ended(start("run", "--nproc", "2", "--data", str(tmp_path / "nowhere")))

    assert code == 3
    assert out == ""
    assert said.count("error:") == 1
    assert not (tmp_path / "run").exists()


def test_restarts_need_a_run_with_a_name(photos: Path) -> None:
    words = ["train", "--data", str(photos), "--nproc", "2", "--max-restarts", "1"]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 2
    assert "error: with --max-restarts, the run to go on with needs a name" in result.stderr


def test_a_launcher_that_has_started_another_number_is_refused(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["train", "--data", str(photos), "--nproc", "4"])

    assert result.exit_code == 2
    assert "error: `--nproc 4`, but a launcher has started 2 processes here" in result.stderr


def test_others_than_the_first_say_nothing_of_a_line_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "error: no such option" in CliRunner().invoke(app, ["train", "--no"]).stderr
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(app, ["train", "--no"])

    assert (result.exit_code, result.stderr) == (2, "")


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_train_a_real_detector_as_one(
    size: int, start: Start, tmp_path: Path
) -> None:
    """Twenty steps: their losses to 1e-5, with what is drawn at random and uneven last steps."""
    # norms without statistics, and a rate at which the last digits do not decide what is sampled
    norms = ("model.backbone.norm=gn", "model.head.branches.conv.norm=gn")
    slow = [word for one in (*norms, "train.lr=0.0001") for word in ("--set", one)]
    assert _ended(start("one", *slow, epochs=10))[0] == 0
    code, out, said = _ended(start("many", "--nproc", str(size), "--json", *slow, epochs=10))

    assert code == 0, said
    assert json.loads(out)["status"] == "finished"
    assert said.count("epoch [10] done") == 1
    own = 6 // size
    assert f"6 images per step: 1 image at a time, {own} times (train.accumulate 6), in " in said
    one, many = (_intervals(tmp_path / name) for name in ("one", "many"))
    assert len(one) == 20
    assert one[-1]["loss"] < 0.95 * one[0]["loss"]
    for losses, now in zip(one, many, strict=True):
        assert now == pytest.approx(losses, rel=1e-5, abs=1e-5)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        path.name for path in (tmp_path / "many").iterdir()
    }


def _intervals(run: Path) -> list[dict[str, float]]:
    return [line["losses"] for line in _events(run) if line["event"] == "interval"]


def _events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_or_they_go_on_with_the_same_weights(
    rank: int, start: Start, tmp_path: Path
) -> None:
    assert _ended(start("whole", "--nproc", "2", epochs=4))[0] == 0
    process = start("broken", "--nproc", "2", "--max-restarts", "1", epochs=4)
    _wait_for(tmp_path / "broken", "interval", 3)
    os.kill(_ranks(process)[rank], signal.SIGKILL)
    code, _, said = _ended(process)

    assert code == 0
    assert f"warning: process {rank + 1} of 2 was killed (SIGKILL); all start again" in said
    whole, broken = _weights(tmp_path / "whole"), _weights(tmp_path / "broken")
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())
    assert _rows(tmp_path / "whole") == _rows(tmp_path / "broken")

    process = start("ended", "--nproc", "2", epochs=40)
    _wait_for(tmp_path / "ended", "interval", 3)
    os.kill(_ranks(process)[rank], signal.SIGKILL)
    begun = time.monotonic()
    code, _, said = _ended(process)
    assert code == 1
    assert time.monotonic() - begun < 30
    assert re.findall("error: .*", said) == [f"error: process {rank + 1} of 2 was killed (SIGKILL)"]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["launcher", "second"])
def test_a_signal_saves_the_state_and_the_run_goes_on_in_one_process(
    who: str, start: Start, tmp_path: Path
) -> None:
    assert _ended(start("whole", epochs=3))[0] == 0
    process = start("run", "--nproc", "2", epochs=3)
    _wait_for(tmp_path / "run", "interval", 3)
    os.kill(process.pid if who == "launcher" else _ranks(process)[1], signal.SIGTERM)
    code, _, said = _ended(process)

    assert code == 143
    assert said.count("interrupted; resume with: dh train --resume") == 1
    result = subprocess.run(
        [*DH, "train", "--resume", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "1 process instead of 2, and the same 6 images per step: exact" in result.stderr
    for one, other in zip(_rows(tmp_path / "whole"), _rows(tmp_path / "run"), strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-5)


@pytest.mark.slow
def test_an_image_that_is_gone_ends_all_with_one_line_and_the_state_is_saved(
    start: Start, photos: Path, tmp_path: Path
) -> None:
    process = start("run", "--nproc", "2", epochs=40)
    _wait_for(tmp_path / "run", "saved", 1)
    for path in (photos / "images").iterdir():
        path.unlink()
    code, _, said = _ended(process)

    assert code == 3
    assert said.count("error:") == 1
    assert said.count("the last good state is kept; resume with:") == 1


@pytest.mark.slow
def test_torchrun_starts_what_nproc_starts(start: Start, tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    by = (*torchrun, "--nproc-per-node", "2", "-m", "dhcli")
    assert _ended(start("by", by=by))[0] == 0
    assert _ended(start("own", "--nproc", "2"))[0] == 0

    assert not (tmp_path / "by-2").exists()
    assert _rows(tmp_path / "by") == _rows(tmp_path / "own")


@pytest.mark.slow
def test_torchrun_without_out_makes_one_run(photos: Path, tmp_path: Path) -> None:
    """The first process names it, and two in turn are two."""
    sets = [word for one in SETTINGS for word in ("--set", one)]
    line = ["train", "--preset", "small", "--data", str(photos), "--device", "cpu", "--epochs", "1"]
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    for _ in range(2):
        result = subprocess.run(
            [*torchrun, "--nproc-per-node", "2", "-m", "dhcli", *line, *sets],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, result.stderr
        assert len(re.findall("^run folder: .*", result.stderr, re.MULTILINE)) == 2  # first, last

    runs = sorted((tmp_path / "runs/train").iterdir())
    assert [run.name for run in runs] == ["small", "small-2"]
    for run in runs:
        assert len(_rows(run)) == 1
        assert [line["event"] for line in _events(run)].count("started") == 1


@pytest.mark.slow
def test_torchrun_goes_on_with_the_run_after_a_kill(start: Start, tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    by = (*torchrun, "--nproc-per-node", "2", "--max-restarts", "1", "-m", "dhcli")
    assert _ended(start("whole", "--nproc", "2", epochs=4))[0] == 0
    process = start("broken", by=by, epochs=4)
    _wait_for(tmp_path / "broken", "interval", 3)
    os.kill(_ranks(process)[1], signal.SIGKILL)
    assert process.communicate(timeout=300)
    assert process.returncode == 0

    whole, broken = _weights(tmp_path / "whole"), _weights(tmp_path / "broken")
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())
