from __future__ import annotations

import csv
import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dhcli.atomic import cleaning_told
from dhcli.errors import DhError
from dhcli.training.run_folder import DECODED, RunFolder, make_run, require_new_run


def test_names_are_numbered_and_no_run_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    paths = [make_run("train", "custom", None).path.as_posix() for _ in range(3)]

    assert paths == [f"runs/train/custom{end}" for end in ("", "-2", "-3")]


def test_given_folder_must_be_empty(tmp_path: Path) -> None:
    assert make_run("train", "x", tmp_path / "new").path == tmp_path / "new"
    (tmp_path / "new" / "checkpoint.pt").touch()

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


def test_a_run_killed_as_it_took_its_folder_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").write_text("process 7 on a\n")
    make_run("train", "x", tmp_path / "run").close()

    (tmp_path / "run" / "train.log").unlink()
    (tmp_path / "run" / "mine.txt").touch()
    with pytest.raises(DhError, match="is not empty"):
        make_run("train", "x", tmp_path / "run")


def test_run_without_a_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    run = make_run("train", "x", tmp_path / "run")
    run.event("started", {})
    run.write_text("config.yaml", "old")
    run.close()
    (tmp_path / "run" / ".checkpoint.pt.x.part").touch()  # it was killed while it wrote that

    again = make_run("train", "x", tmp_path / "run")

    assert not (again.path / "events.jsonl").exists()
    assert not (again.path / "config.yaml").exists()


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors", "notes.txt"])
def test_what_is_worth_something_is_never_begun_anew(name: str, tmp_path: Path) -> None:
    make_run("train", "x", tmp_path / "run").close()
    (tmp_path / "run" / name).touch()

    with pytest.raises(DhError, match="not empty") as caught:
        make_run("train", "x", tmp_path / "run")

    hint = "name another folder; `--overwrite` deletes this one first"
    assert caught.value.hint == hint


OTHER = """
import sys, pathlib
from dhcli.errors import DhError
from dhcli.training.run_folder import RunFolder, make_run, require_new_run
try:
    RunFolder(pathlib.Path("run")).claim() if sys.argv[1] == "resume" else make_run(
        "train", "x", pathlib.Path("run"))
    print("taken")
except DhError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX's")
@pytest.mark.parametrize("way", ["resume", "new"])
def test_only_one_process_trains_in_a_run(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run("train", "x", Path("run"))

    def other() -> str:
        return subprocess.check_output([sys.executable, "-c", OTHER, way], text=True)

    assert "run: another process is training in this run folder" in (said := other())
    assert f"(process {os.getpid()} on {platform.node()})" in said
    run.close()
    assert other() == "taken\n"


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX's")
def test_a_run_is_replaced_only_by_who_holds_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run("train", "x", Path("run"))
    code = OTHER.replace('Path("run"))', 'Path("run"), overwrite=True)')

    said = subprocess.check_output([sys.executable, "-c", code, "new"], text=True)

    assert "another process is training" in said
    assert (run.path / "train.log").exists()


def test_a_folder_that_may_not_be_written_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", refuse)

    with pytest.raises(DhError, match=r"run.lock: cannot be written: Permission denied"):
        RunFolder(tmp_path).claim()


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX's")
def test_who_takes_a_run_removes_and_names_what_a_killed_one_left(tmp_path: Path) -> None:
    left = [tmp_path / ".checkpoint.pt.abcd_123.part", *(tmp_path / name for name in DECODED)]
    for file in left:
        file.touch()
        os.utime(file, (1, 1))
    told: list[str] = []

    with cleaning_told(told.append):
        RunFolder(tmp_path).claim()

    assert told == [f"removed what a killed command left: {file}" for file in left]
    assert [file.name for file in tmp_path.iterdir()] == ["run.lock"]


def test_run_folder_that_has_gone_is_not_made_anew(tmp_path: Path) -> None:
    run = make_run("train", "x", tmp_path / "run")
    run.event("started", {})
    (tmp_path / "run").rename(tmp_path / "elsewhere")

    for write in (lambda: run.event("interval", {}), lambda: run.write_text("a", "b")):
        with pytest.raises(DhError, match="the run folder is no longer there"):
            write()

    assert not (tmp_path / "run").exists()


def test_an_old_run_is_replaced_whole_if_asked(tmp_path: Path) -> None:
    old = tmp_path / "run"
    (old / "epochs").mkdir(parents=True)
    (old / "checkpoint.pt").touch()
    (old / "epochs/1.txt").touch()

    with pytest.raises(DhError, match="already exists") as caught:
        require_new_run(old)
    require_new_run(old, overwrite=True)
    run = make_run("train", "x", old, overwrite=True)

    assert "--overwrite" in str(caught.value.hint)
    assert {path.name for path in old.iterdir()} == {"run.lock", "train.log"}
    run.close()
