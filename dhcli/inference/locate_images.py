"""Which images a command line means: files, folders and patterns become names below one folder."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dhcli.data.io.files import IMAGE_SUFFIXES, list_images, read_names
from dhcli.data.io.image_kinds import VIDEOS, frames_hint
from dhcli.errors import DataError

_LIST = ".txt"
"""How the name of a list of images ends: a path per line, from the list's own folder."""
_OTHERS = (".csv", ".json", ".yaml", ".yml", ".xml", ".pdf")
"""How the names of files end that people take for images."""


@dataclass(frozen=True)
class ImageList:
    """Images below `root`, each by its POSIX path from there; no name comes twice."""

    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)


def find_images(inputs: Sequence[str], *, skip: Path | None = None) -> ImageList:
    """The images that `inputs` stand for: files, folders with all below, patterns, lists (.txt).

    The root is the deepest folder that holds all of the inputs, so that files of one name in
    different folders keep different names. What lies below `skip` (an earlier run's results) is
    left out. Raises DataError where an input is not there or no image, or nothing is found.
    """
    bases: dict[str, None] = {}
    files: list[str] = []
    for path in (path for one in inputs for path in _expand(one)):
        base = str((path if path.is_dir() else path.parent).resolve())
        bases[base] = None
        names = list_images(path, deep=True) if path.is_dir() else [path.name]
        files += [f"{base}/{name}" for name in names]
    if skip is not None:
        below = f"{skip.resolve()}/"
        files = [file for file in files if not file.startswith(below)]
    if not files:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError("no images found", where=", ".join(inputs), hint=f"images are {suffixes}")
    root = os.path.commonpath(bases)
    start = len(root.rstrip("/")) + 1
    return ImageList(Path(root), list(dict.fromkeys(file[start:] for file in files)))


def other_files(inputs: Sequence[str]) -> list[str]:
    """Names of the videos in folders among `inputs`, which `find_images` passes over."""
    folders = [Path(one) for one in inputs if Path(one).is_dir()]
    return sorted(
        path.relative_to(folder).as_posix()
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEOS
    )


def _require_image(path: Path) -> None:
    """Raise DataError for a video or a list of images: named for what it is, before any work."""
    if path.is_dir():
        return
    if path.suffix.lower() in VIDEOS:
        raise DataError("is a video", where=path, hint=frames_hint(path))
    if path.suffix.lower() in _OTHERS:
        raise DataError(f"is a {path.suffix} file, not an image", where=path)


def _listed(path: Path) -> list[Path]:
    """The images that a list names. Raises DataError with the line of one that is not there."""
    found = []
    for number, name in enumerate(read_names(path), 1):
        if name:
            place = path.parent / name
            if not place.is_file():
                raise DataError(f"no such image: {name}", where=f"{path}:{number}")
            _require_image(place)
            found.append(place)
    return found


def _expand(one: str) -> list[Path]:
    """The files and folders that an argument stands for."""
    path = Path(one)
    if path.is_file() and path.suffix.lower() == _LIST:
        return _listed(path)
    if path.exists():
        _require_image(path)
        return [path]
    if not glob.has_magic(one):
        raise DataError("no such image or folder", where=one)
    found = map(Path, sorted(glob.glob(one, recursive=True)))  # noqa: PTH207 - Path's is relative
    matches = [path for path in found if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES]
    if not matches:
        raise DataError("no image matches this pattern", where=one)
    return matches
