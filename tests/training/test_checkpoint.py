from __future__ import annotations

import errno
import io
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dhcli.errors import DhError, ModelError
from dhcli.training.checkpoint import PARTS, load_checkpoint, save_checkpoint

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
    with pytest.raises(ModelError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.pt")


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
