"""Files and folders appear whole, and what a killed process left is cleaned."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from dhcli import atomic
from dhcli.atomic import atomic_folder, atomic_write, require_free, require_free_file
from dhcli.errors import DhError


@pytest.fixture(autouse=True)
def forget() -> None:
    """Folders are cleaned once per process."""
    atomic._clean.cache_clear()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_cut_off_by_a_full_disk_is_an_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: io.FileIO, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.io, "FileIO", type("Full", (io.FileIO,), {"write": full}))

    with pytest.raises(DhError, match="No space left"), atomic_write(tmp_path / "x.jpg") as file:
        Image.effect_noise((200, 200), 90).save(file, kind)

    assert list(tmp_path.iterdir()) == []


def test_nothing_takes_a_files_descriptor(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "x") as file, pytest.raises(io.UnsupportedOperation):
        file.fileno()


LEFT = """
import os, sys
from pathlib import Path
from dhcli.atomic import atomic_folder, atomic_write
with atomic_write(Path(sys.argv[1]) / "model") as file, atomic_folder(Path(sys.argv[1]) / "data"):
    file.write(b"half")
    file.flush()
    print(flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_cleaned_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LEFT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert len(list(tmp_path.iterdir())) == 2
    for part in tmp_path.iterdir():
        os.utime(part, (time.time() - 9, time.time() - 9))

    with atomic_write(tmp_path / "other"):
        pass
    assert len(list(tmp_path.iterdir())) == 3

    process.kill()
    process.communicate()
    atomic._clean.cache_clear()
    with atomic_write(tmp_path / "other"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_hidden_file_of_others_is_not_cleaned(tmp_path: Path) -> None:
    (tmp_path / ".download.part").touch()
    os.utime(tmp_path / ".download.part", (1, 1))

    with atomic_write(tmp_path / "x"):
        pass

    assert (tmp_path / ".download.part").exists()


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "old").touch()

    with pytest.raises(DhError, match="already exists") as caught, atomic_folder(place):
        pass
    with pytest.raises(ZeroDivisionError), atomic_folder(place, overwrite=True):
        1 / 0  # noqa: B018
    assert [path.name for path in place.iterdir()] == ["old"]
    with atomic_folder(place, overwrite=True) as folder:
        (folder / "new").touch()

    assert "--overwrite" in str(caught.value.hint)
    assert [path.name for path in place.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_that_holds_what_is_read_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data/images").mkdir(parents=True)

    with pytest.raises(DhError, match="cannot be replaced"):
        require_free(tmp_path / "data", overwrite=True, inputs=[tmp_path / "data/images"])
    require_free(tmp_path / "data", overwrite=True, inputs=[tmp_path])
    monkeypatch.chdir(tmp_path / "data/images")
    with pytest.raises(DhError, match="cannot be replaced"):
        require_free(tmp_path / "data", overwrite=True)


def test_a_file_is_replaced_if_asked_and_never_by_what_is_made_of_it(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_text("x")

    with pytest.raises(DhError, match="already exists"):
        require_free_file(file)
    with pytest.raises(DhError, match="is one of the inputs"):
        require_free_file(file, overwrite=True, inputs=[file])
    require_free_file(file, overwrite=True)
