"""Files that hold something else than their names say: why, and what to do. None is read."""

from __future__ import annotations

from pathlib import Path

from dhcli.data.io.files import list_files, list_folders, read_ends
from dhcli.errors import DataError

_ANNOTATIONS = (".json", ".jsonl", ".csv", ".xml", ".yaml", ".yml", ".txt")
_LOOK_AT = 256
_MOST_FOLDERS, _MOST_FILES = 20, 20
_POINTER = b"version https://git-lfs.github.com/"
_PAGES = (b"<!doctype html", b"<html")


def stand_in(head: bytes) -> str | None:
    """What a file is that begins with `head`, if something else came in its place; else None."""
    if head.startswith(_POINTER):
        return "is a pointer of Git LFS, not the file itself: `git lfs pull` fetches it"
    if head.lstrip().lower().startswith(_PAGES):
        return "is a web page that was saved in place of the file: download it again"
    return None


def why_unread(path: Path) -> str | None:
    """A hint on the first file of annotations at, in or right below `path` that cannot be read.

    One that something else came in place of, or JSON that ends in its midst. None if there is none.
    """
    return next(filter(None, map(_why, _files_at(path))), None)


def _files_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    folders = [path, *(path / name for name in list_folders(path)[:_MOST_FOLDERS])]
    return [f / name for f in folders for name in list_files(f, *_ANNOTATIONS)[:_MOST_FILES]]


def _why(path: Path) -> str | None:
    try:
        head, tail, _ = read_ends(path, _LOOK_AT)
    except DataError:
        return None
    if what := stand_in(head):
        return f"{path.name} {what}"
    is_json = path.suffix.lower() == ".json" and head.lstrip()[:1] in (b"{", b"[")
    if is_json and tail.rstrip(b"\0 \t\r\n")[-1:] not in (b"}", b"]"):
        return f"{path.name} ends in the midst of its JSON: download or export it again"
    return None
