from __future__ import annotations

import errno
import io
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dhcli.errors import DhError, ModelError
from dhcli.training.checkpoint import (
    PARTS,
    UnusableError,
    choose_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dhcli.training.run_folder import PREVIOUS

STATE = {name: {} for name in PARTS - {"layout"}}


def test_state_comes_back_without_running_code(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"

    save_checkpoint(path, STATE | {"model": {"w": torch.arange(3.0)}, "ema": None})

    state = torch.load(path, weights_only=True)
    assert state.keys() == PARTS
    assert load_checkpoint(path)["model"]["w"].tolist() == [0, 1, 2]


def test_memory_layout_is_kept(tmp_path: Path) -> None:
    weight = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)

    save_checkpoint(tmp_path / "c.pt", STATE | {"model": {"w": weight}})

    assert load_checkpoint(tmp_path / "c.pt")["model"]["w"].stride() == weight.stride()


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such checkpoint") as caught:
        load_checkpoint(tmp_path / "checkpoint.pt")

    assert "start it again with the same `--out`; its" in str(caught.value.hint)


def test_a_run_killed_in_its_first_save_has_a_model_that_only_overwrite_replaces(
    tmp_path: Path,
) -> None:
    (tmp_path / "last.safetensors").touch()

    with pytest.raises(ModelError, match="no such checkpoint") as caught:
        load_checkpoint(tmp_path / "checkpoint.pt")

    assert "with the same `--out` and `--overwrite`; its" in str(caught.value.hint)


def _nonsense(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(1000))


def _empty(path: Path) -> None:
    path.touch()


def _zip_bomb(path: Path) -> None:
    """A whole state, but compressed: small on disk, of any size in memory."""
    save_checkpoint(path, STATE | {"model": {"w": torch.zeros(1_000_000)}})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def _truncated(path: Path) -> None:
    save_checkpoint(path, STATE | {"model": {"w": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:-2000])


def _code(path: Path) -> None:
    torch.save({"run": _nonsense}, path)


def _other_state(path: Path) -> None:
    torch.save({"model": {}}, path)


@pytest.mark.parametrize(
    "write",
    [_nonsense, _empty, _zip_bomb, _truncated, _code, _other_state],
    ids=lambda f: f.__name__,
)
def test_anything_else_is_one_error(write: object, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write(path)  # type: ignore[operator]

    with pytest.raises(ModelError, match="is not a checkpoint of dh") as caught:
        load_checkpoint(path)

    assert caught.value.where == str(path)


def test_state_of_another_version_is_named(tmp_path: Path) -> None:
    torch.save(STATE | {"layout": 99}, tmp_path / "c.pt")

    with pytest.raises(ModelError, match="layout 99"):
        load_checkpoint(tmp_path / "c.pt")


def test_disk_that_fills_while_torch_writes_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 2000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    monkeypatch.setattr("dhcli.atomic.io.FileIO", Small)

    with pytest.raises(DhError, match="No space left on device"):
        save_checkpoint(path, STATE | {"model": {"w": torch.zeros(10_000)}})

    assert load_checkpoint(path)["model"] == {}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def _with(number: float) -> dict[str, Any]:
    return STATE | {"model": {"w": torch.full((3,), number)}}


def _number(path: Path) -> float:
    return float(load_checkpoint(path)["model"]["w"][0])


def test_any_byte_that_is_changed_lost_or_added_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, _with(1))
    whole = path.read_bytes()
    wrong = [whole + b"x"]
    for place in (*range(0, len(whole), 7), *range(len(whole) - 42, len(whole))):
        wrong += [whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]]

    for content in wrong:
        path.write_bytes(content)
        with pytest.raises(UnusableError):
            load_checkpoint(path)

    path.write_bytes(whole)
    assert _number(path) == 1


def test_a_state_of_an_older_dh_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    torch.save(_with(1) | {"layout": 1}, tmp_path / "c.pt")

    assert _number(tmp_path / "c.pt") == 1


@pytest.mark.parametrize("links", [True, False])
def test_the_state_before_is_kept(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:  # FAT, for one
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    for number in (1, 2, 3):
        save_checkpoint(tmp_path / "c.pt", _with(number))

    assert (_number(tmp_path / "c.pt"), _number(tmp_path / PREVIOUS)) == (3, 2)
    assert len(list(tmp_path.iterdir())) == 2


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


@pytest.mark.parametrize("harm", [_flip, _tear, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_state_gives_way_to_the_one_before_with_a_line(
    harm: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "c.pt"
    for number in (1, 2):
        save_checkpoint(path, _with(number))
    harm(path)

    line = choose_checkpoint(path)

    assert line is not None
    assert line.startswith(f"{path}: ")
    assert line.endswith(f"; resumes from the state saved before it, {PREVIOUS}")
    assert _number(path) == 1
    assert choose_checkpoint(path) is None  # a damaged file never becomes the one before
    save_checkpoint(path, _with(3))
    assert (_number(path), _number(tmp_path / PREVIOUS)) == (3, 1)


def test_two_damaged_states_are_one_error_and_both_stay(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    for number in (1, 2):
        save_checkpoint(path, _with(number))
    for file in (path, tmp_path / PREVIOUS):
        _flip(file)

    with pytest.raises(ModelError, match="its checksum is wrong, and checkpoint-prev") as caught:
        choose_checkpoint(path)

    assert "dh train --weights" in str(caught.value.hint)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_state_of_a_newer_dh_does_not_give_way(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    for _ in range(2):
        save_checkpoint(path, _with(1))
    torch.save(STATE | {"layout": 99}, path)

    with pytest.raises(ModelError, match="layout 99"):
        choose_checkpoint(path)

    assert (tmp_path / PREVIOUS).exists()


def test_a_whole_state_that_does_not_fit_in_memory_does_not_give_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    for number in (1, 2):
        save_checkpoint(path, _with(number))

    def short(*_: object, **__: object) -> None:
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", short)
        with pytest.raises(ModelError, match="cannot be loaded: no memory"):
            choose_checkpoint(path)

    assert _number(path) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from dhcli.training.checkpoint import PARTS, save_checkpoint

folder, calls, link = Path(sys.argv[1]), 0, os.link
CALLS = ("open", "os.rename", "os.link", "os.remove", "os.chmod", "fcntl.flock")

def save(place, number):
    state = {name: {} for name in PARTS - {"layout"}}
    save_checkpoint(place / "c.pt", state | {"model": {"w": torch.full((3,), number)}})

def refuse(*_, **__):
    raise PermissionError

def killed_before(last):
    def audit(event, arguments):
        global calls
        if event in CALLS:
            calls += 1
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(audit)

os.fsync = lambda _: None  # for a power cut, not for a kill
for links in (True, False):
    os.link = link if links else refuse
    for last in range(1, 99):
        place = folder / str(links) / str(last)
        for number in (1.0, 2.0):
            save(place, number)
        if not (child := os.fork()):
            killed_before(last)
            save(place, 3.0)
            os._exit(0)
        if (status := os.waitpid(child, 0)[1]) == 0:
            break
        assert status == signal.SIGKILL
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_kill_between_any_two_calls_of_a_save_leaves_a_whole_state(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True)

    for links in ("True", "False"):
        found = []
        for place in sorted((tmp_path / links).iterdir(), key=lambda place: int(place.name)):
            choose_checkpoint(place / "c.pt")
            found.append(_number(place / "c.pt"))
        assert len(found) > 5
        assert found == sorted(found)
        assert set(found) == {2, 3}
