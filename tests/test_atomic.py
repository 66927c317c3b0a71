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
from dhcli.atomic import (
    atomic_folder,
    atomic_write,
    cleaning_told,
    folder_beside,
    require_free,
    require_free_file,
)
from dhcli.errors import DhError


@pytest.fixture(autouse=True)
def forget() -> None:
    """Folders are cleaned once per process."""
    atomic._cleaned.clear()


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
from dhcli.atomic import (
    atomic_folder,
    atomic_write,
    folder_beside,
    require_free,
    require_free_file,
)
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
    atomic._cleaned.clear()
    with atomic_write(tmp_path / "other"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_is_cleaned_is_named_once_to_who_listens(tmp_path: Path) -> None:
    left = [tmp_path / ".model.abcd_123.part", tmp_path / ".data.abcd_124.part"]
    left[0].touch()
    (left[1] / "images").mkdir(parents=True)
    for part in left:
        os.utime(part, (1, 1))
    told: list[str] = []

    with cleaning_told(told.append):
        for _ in range(2):
            with atomic_write(tmp_path / "x"):
                pass

    assert sorted(told) == sorted(f"removed what a killed command left: {part}" for part in left)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_was_too_young_to_be_cleaned_is_looked_at_again(tmp_path: Path) -> None:
    left = tmp_path / ".model.abcd_123.part"
    left.touch()
    with atomic_write(tmp_path / "x"):
        pass
    assert left.exists()

    os.utime(left, (1, 1))
    with atomic_write(tmp_path / "x"):
        pass

    assert not left.exists()


def test_a_folder_that_goes_away_while_it_is_written_is_never_put_in_place_in_part(
    tmp_path: Path,
) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "out/data") as folder:
            (folder / "first").touch()
            (tmp_path / "out").rename(tmp_path / "elsewhere")
            with atomic_write(folder / "second"):  # makes the folders anew
                pass

    with pytest.raises(DhError, match="data: cannot be written: No such file or directory"):
        write()

    assert not (tmp_path / "out/data").exists()


def test_the_file_before_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    place, previous = tmp_path / "x", tmp_path / "old"
    for text in (b"1", b"2", b"3"):
        with atomic_write(place, previous=previous) as file:
            file.write(text)
    with pytest.raises(ZeroDivisionError), atomic_write(place, previous=previous):
        1 / 0  # noqa: B018

    assert (place.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_left_before_the_clock_was_set_back_is_cleaned(tmp_path: Path) -> None:
    left = [tmp_path / ".a.abcdefgh.part", tmp_path / ".b.abcdefgh.part"]
    for file, ahead in zip(left, (60, 86400), strict=True):
        file.touch()
        os.utime(file, (time.time() + ahead,) * 2)

    with atomic_folder(tmp_path / "new"):
        pass

    assert [file.exists() for file in left] == [True, False]


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
    require_free(tmp_path / "data", overwrite=True, inputs=[tmp_path / "other"])
    monkeypatch.chdir(tmp_path / "data/images")
    with pytest.raises(DhError, match="cannot be replaced"):
        require_free(tmp_path / "data", overwrite=True)


@pytest.mark.parametrize("name", [".", "disk"])
def test_a_folder_that_cannot_be_renamed_over_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.path.ismount", lambda place: str(place) == "disk")
    (tmp_path / name).mkdir(exist_ok=True)

    with pytest.raises(DhError, match="cannot be replaced"):
        require_free(Path(name))
    require_free(Path(name), in_place=True)  # as a training does


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_leads_to_the_new_folder(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "out").symlink_to("large-disk")
    if overwrite:
        (tmp_path / "large-disk/old").touch()

    with atomic_folder(tmp_path / "out", overwrite=overwrite) as folder:
        (folder / "new").touch()

    assert (tmp_path / "out").is_symlink()
    assert [file.name for file in (tmp_path / "large-disk").iterdir()] == ["new"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large-disk", "out"]


def test_a_part_of_what_is_read_is_replaced_only_where_it_is_an_earlier_result(
    tmp_path: Path,
) -> None:
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/images/a.jpg").touch()
    (tmp_path / "data/found/drawn").mkdir(parents=True)

    with pytest.raises(DhError, match=r"is part of .*data, and cannot be replaced"):
        require_free(tmp_path / "data/images", overwrite=True, inputs=[tmp_path / "data"])
    require_free(tmp_path / "data/found", overwrite=True, inputs=[tmp_path / "data"])


def test_a_file_is_replaced_if_asked_and_never_by_what_is_made_of_it(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_text("x")

    with pytest.raises(DhError, match="already exists"):
        require_free_file(file)
    with pytest.raises(DhError, match="is one of the inputs"):
        require_free_file(file, overwrite=True, inputs=[file])
    require_free_file(file, overwrite=True)


def test_a_file_appears_when_it_is_whole_and_an_error_keeps_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "new/model"
    with atomic_write(place) as file:
        file.write(b"old")
        assert not place.exists()

    with pytest.raises(ZeroDivisionError), atomic_write(place) as file:
        file.write(b"new" * (1 // 0))

    assert place.read_bytes() == b"old"
    assert list(place.parent.iterdir()) == [place]


def test_a_new_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with atomic_folder(place) as folder, atomic_write(folder / "a/b") as file:
        file.write(b"x")
        assert not place.exists()

    assert (place / "a/b").read_bytes() == b"x"
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)]
)
def test_others_may_read_what_the_umask_lets_them(
    umask: int, file: int, folder: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "model"), atomic_folder(tmp_path / "data"):
            pass
        assert os.umask(umask) == umask
    finally:
        os.umask(before)

    assert (tmp_path / "model").stat().st_mode & 0o777 == file
    assert (tmp_path / "data").stat().st_mode & 0o777 == folder


def test_files_are_flushed_to_the_disk_each_alone_and_once_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "sync", lambda: calls.append("sync"))

    with atomic_write(tmp_path / "alone"):
        pass
    alone = calls.copy()
    calls.clear()
    with atomic_folder(tmp_path / "folder") as folder:
        for name in ("a", "b", "c"):
            with atomic_write(folder / name):
                pass

    assert alone == ["fsync", "fsync"]  # its bytes, and its name
    assert calls == ["sync", "fsync"]


@pytest.mark.parametrize("fails", [1, 2])
def test_a_folder_that_cannot_be_renamed_is_an_error_and_the_old_one_stays(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is moved away first, then the new one to its place."""
    place = tmp_path / "out"
    place.mkdir()
    (place / "old").touch()
    replace = Path.replace
    calls: list[Path] = []

    def stale(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == fails:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stale)
    with (
        pytest.raises(DhError, match="out: cannot be written: Stale file handle"),
        atomic_folder(place, overwrite=True),
    ):
        pass

    assert list(tmp_path.rglob("*")) == [place, place / "old"]


def test_a_place_below_a_file_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file/new/out"

    for require in (require_free, require_free_file):
        with pytest.raises(DhError, match="file: cannot be written: not a folder"):
            require(place)
    with pytest.raises(DhError, match="cannot be written: Not a directory"), atomic_write(place):
        pass
    with pytest.raises(DhError, match="cannot be written: Not a directory"), folder_beside(place):
        pass


def test_a_place_that_may_not_be_written_is_an_error_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)

    with pytest.raises(DhError, match="cannot be written: Permission denied"):
        require_free(tmp_path / "out/deeper")
    flags = type("Flags", (), {"f_flag": os.ST_RDONLY})
    monkeypatch.setattr(os, "statvfs", lambda _: flags)
    with pytest.raises(DhError, match="cannot be written: Read-only file system"):
        require_free(tmp_path / "out/deeper")


def test_a_folder_is_no_place_for_a_file_and_an_empty_one_is_free_for_a_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").touch()

    with pytest.raises(DhError, match="is a folder"):
        require_free_file(tmp_path, overwrite=True)
    require_free_file(tmp_path / "empty")
    (tmp_path / "empty").unlink()
    require_free(tmp_path)


def test_what_was_just_begun_is_not_cleaned_before_it_is_locked(tmp_path: Path) -> None:
    begun = tmp_path / ".model.abcd_123.part"
    begun.touch()

    with atomic_write(tmp_path / "x"):
        pass

    assert begun.exists()


def test_without_locks_all_is_written_and_nothing_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "fcntl", None)
    left = tmp_path / ".model.abcd_123.part"
    left.touch()
    os.utime(left, (1, 1))

    with atomic_write(tmp_path / "x") as file, atomic_folder(tmp_path / "y"):
        file.write(b"x")

    assert (tmp_path / "x").read_bytes() == b"x"
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "x", "y"]
