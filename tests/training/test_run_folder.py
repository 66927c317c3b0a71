from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dhcli.errors import DhError
from dhcli.training.run_folder import RunFolder, make_run


def test_names_are_numbered_and_no_run_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    paths = [make_run("train", "custom", None).path.as_posix() for _ in range(3)]

    assert paths == [f"runs/train/custom{end}" for end in ("", "-2", "-3")]


def test_given_folder_must_be_empty(tmp_path: Path) -> None:
    assert make_run("train", "x", tmp_path / "new").path == tmp_path / "new"

    with pytest.raises(DhError, match="not empty") as caught:
        make_run("train", "x", tmp_path / "new")

    assert f"--resume {tmp_path / 'new'}" in str(caught.value.hint)


@pytest.mark.parametrize("out", [None, Path("mine")])
def test_read_only_folder_is_one_error(
    out: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "mkdir", refuse)

    with pytest.raises(DhError, match="cannot be written: Read-only file system"):
        make_run("train", "x", out)


def test_file_in_the_way_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DhError, match="cannot be written"):
        make_run("train", "x", tmp_path / "file" / "run")


def test_half_a_line_of_a_killed_run_is_ended(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "a"}\n{"eve', encoding="utf-8")

    run = RunFolder(tmp_path)
    run.event("b", {"value": float("nan"), "losses": {"x": [1.5, float("inf")]}})

    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[2])
    assert lines[:2] == ['{"event": "a"}', '{"eve']
    assert (last["event"], last["value"], last["losses"]) == ("b", None, {"x": [1.5, None]})


def test_metrics_have_the_columns_of_all_rows(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_metrics([{"epoch": 1, "lr": 0.5}, {"epoch": 2, "lr": 0.1, "AP": 1}])

    rows = list(csv.reader((tmp_path / "metrics.csv").open(newline="")))

    assert rows == [["epoch", "lr", "AP"], ["1", "0.5", ""], ["2", "0.1", "1"]]


def test_too_little_space_is_said_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 50_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    run = RunFolder(tmp_path)

    run.require_space(50_000_000)
    with pytest.raises(DhError, match="needs about 51 MB, 50 MB are free"):
        run.require_space(51_000_000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_while_logging_is_one_error(tmp_path: Path) -> None:
    for name in ("train.log", "events.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")

    run = RunFolder(tmp_path)

    with pytest.raises(DhError, match="No space left on device"):
        run.log("a line")
