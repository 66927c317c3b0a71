"""Where the images lie that an annotation file speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, unquote_plus

import numpy as np
from numpy.typing import NDArray

from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    confine,
    find_folders,
    join_path,
    last_part,
    list_folders,
    list_images,
    split_name,
    stem_of,
)
from dhcli.errors import DataError
from dhcli.words import counted

_SAMPLE = 20
_DEEPEST = 8
_CODED = re.compile(r"[%?+]")


def locate_images(
    root: Path, path: Path, names: Sequence[str], *, by_ends: bool = False
) -> tuple[list[str], list[str]]:
    """Where the images called `names` in the annotation file `path` lie, and notes on the others.

    POSIX paths from `root`, whether the images are there or not. A name counts as it is written;
    else in another suffix, case or form of accents; else decoded (`%20`) and without the query of
    an address; else the longest end of it that is there, unless two names would have that. Of a
    name that leads out of the dataset, and is not found, the last part is left. `by_ends` says that
    names are known to tell of images by their ends, and needs no note.
    """
    inside = [confine(name) for name in names]
    safe = [name or last_part(plain_name(said)) for name, said in zip(inside, names, strict=True)]
    step = max(1, len(safe) // _SAMPLE)
    folder = _image_folder(root, path, safe[::step], names[::step])
    images = ImagesBelow(root)
    files = [f"{folder}/{name}" if folder else name for name in safe]
    strays = {index for index, name in enumerate(inside) if name is None}
    away = (index for index, file in enumerate(files) if index in strays or not images.has(file))
    respelled = 0
    ends: dict[int, str] = {}
    for index in away:
        if index not in strays and (alike := images.alike(files[index])) is not None:
            respelled += _has_suffix(files[index])
            files[index] = alike
        elif (end := images.find(names[index], folder)) is not None:
            ends[index] = end
        else:
            files[index] = _with_suffix(root, files[index])
    by_end = _take_ends(files, names, ends) - strays
    counts = {
        "name leading out of the dataset: only the end counts": len(strays),
        "name spelled otherwise than the image": respelled,
        "name found by its end, decoded or without query": 0 if by_ends else len(by_end),
    }
    return files, [counted(count, what) for what, count in counts.items() if count]


def _readings(name: str) -> list[str]:
    """What the name of an image may mean: as written, then decoded, then without its query."""
    if not _CODED.search(name):
        return [name]
    plain = plain_name(name)
    options = (name, unquote(name), _without_query(name), plain, unquote(plain), unquote_plus(name))
    return list(dict.fromkeys(options))


def plain_name(name: str) -> str:
    """The name of an image decoded, and without the query of an address.

    `a b.jpg` for `a%20b.jpg`, `https://host/a.jpg` for `https://host/a.jpg?size=1`.
    """
    return unquote(_without_query(name)) if _CODED.search(name) else name


def _without_query(name: str) -> str:
    """A question mark begins a query in an address, and behind the suffix of an image."""
    start = name.partition("?")[0]
    return start if "://" in name or _has_suffix(start) else name


class ImagesBelow:
    """The images below a folder; each folder in it is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._there: dict[str, set[str]] = {}
        self._alike: dict[str, FilesByStem] = {}

    def has(self, file: str) -> bool:
        """Whether the image is there, as it is spelled."""
        folder, _, name = file.rpartition("/")
        if folder not in self._there:
            self._there[folder] = set(list_images(self._root / folder))
        return name in self._there[folder]

    def alike(self, file: str) -> str | None:
        """The image that has another suffix, case or form of accents; itself if it is there."""
        if self.has(file):
            return file
        folder, _, name = file.rpartition("/")
        if folder not in self._alike:
            self._alike[folder] = FilesByStem(self._root / folder, *IMAGE_SUFFIXES)
        found = self._alike[folder].find(stem_of(name))
        return None if found is None else join_path(folder, found)

    def find(self, name: str, folder: str = "") -> str | None:
        """The image that the longest end of a name is, below the root or in `folder`, if any."""
        for look in (self._as_spelled, self.alike):
            for reading in _readings(name):
                options = (look(option) for option in ends_of(reading, folder))
                if (found := next((file for file in options if file), None)) is not None:
                    return found
        return None

    def _as_spelled(self, file: str) -> str | None:
        return file if self.has(file) else None


def ends_of(name: str, folder: str = "") -> Iterator[str]:
    """The ends of the path `name`, longest first, each also in `folder`."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    parts = parts[-_DEEPEST:]
    for start in range(len(parts)):
        if end := confine("/".join(parts[start:])):
            yield end
            if folder:
                yield f"{folder}/{end}"


def _take_ends(files: list[str], names: Sequence[str], ends: dict[int, str]) -> set[int]:
    """Put, in place, the images found by the ends of names; return which.

    An image that another name has too is not taken: which is meant cannot be told.
    """
    if not ends:
        return set()
    claims: dict[str, set[str]] = {}
    for index, file in enumerate(files):
        claims.setdefault(ends.get(index, file), set()).add(names[index])
    taken = {index: file for index, file in ends.items() if len(claims[file]) == 1}
    for index, file in taken.items():
        files[index] = file
    return set(taken)


def missing_sizes(sizes: NDArray[np.int32], path: Path) -> list[str]:
    """A note on images whose boxes have no size. Raises DataError where that is all of them."""
    missing = int(np.sum((sizes == 0).any(axis=1)))
    if missing and missing == len(sizes):
        raise DataError(
            "tells of boxes in fractions, and none of its images can be read",
            where=path,
            hint="put the images beside it, or into `images`",
        )
    return [counted(missing, "image that cannot be read: boxes without size")] if missing else []


def _image_folder(root: Path, path: Path, sample: Sequence[str], names: Sequence[str]) -> str:
    """The folder below `root` that holds most of the images `sample`, which files call `names`."""
    here = path.parent.relative_to(root).as_posix().removeprefix(".")
    called = [path.stem.rpartition("_")[2], split_name(path.stem) or "", *list_folders(root)]
    options = [here, *IMAGE_FOLDERS]
    for each in (here, *called):
        options += (each, *(pair for n in IMAGE_FOLDERS for pair in (f"{n}/{each}", f"{each}/{n}")))
    folders = [found.removeprefix(".") for found in dict.fromkeys(find_folders(root, options))]
    last = [last_part(plain_name(name)) for name in names]
    for looked_for in (sample, last):
        for count_in in (_count_images, _count_alike):
            counts = [0]
            for folder in folders:
                counts.append(count_in(root / folder, looked_for))
                if counts[-1] == len(looked_for):
                    break
            if any(counts):
                return folders[counts.index(max(counts)) - 1]
    return "" if here.lower() == "annotations" else here


def _count_images(folder: Path, names: Sequence[str]) -> int:
    """How many of the images `names` are in `folder`."""
    return sum((folder / name).is_file() for name in names)


def _count_alike(folder: Path, names: Sequence[str]) -> int:
    """How many of the images `names` are in `folder`, spelled otherwise."""
    places = {_above(name) for name in names}
    listed = {place: FilesByStem(folder / place, *IMAGE_SUFFIXES) for place in places}
    return sum(listed[_above(name)].find(stem_of(name)) is not None for name in names)


def _above(name: str) -> str:
    return name.rpartition("/")[0]


def _with_suffix(root: Path, file: str) -> str:
    """A name that is not found; one without the suffix of an image, nor a file, lacks `.jpg`."""
    is_whole = _has_suffix(plain_name(file)) or (root / file).is_file()
    return file if is_whole else f"{file}.jpg"


def _has_suffix(name: str) -> bool:
    return name[name.rfind(".") :].lower() in IMAGE_SUFFIXES
