"""Where the images lie that an annotation file speaks of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.spellings import path_of, spellings
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    confine,
    find_folders,
    join_path,
    last_part,
    list_files,
    list_folders,
    list_images,
    split_name,
    stem_of,
)
from dhcli.errors import DataError
from dhcli.words import counted

_SAMPLE = 20
_DEEPEST = 8
_ELSEWHERE = re.compile(r"[/\\%?+]")
"""What stands in a name that may mean another file than one of this name in the folder."""
_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{2,3}$", re.IGNORECASE)
"""How the name of a file ends that has a suffix of its own, if not an image's."""


def locate_images(root: Path, path: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Where the images called `names` in the annotation file `path` lie, and notes on that.

    POSIX paths from `root`, whether the images are there or not. Where there is no such file, one
    counts that differs in suffix, in case or in the form of accents; else what the name means
    decoded, or without its query; else the longest end of it that is there, and that no other name
    means. Where no name is found so, the image counts that alone is called so, anywhere below
    `root`. Of a name that leads out of the dataset the last part counts at the least.
    """
    told = as_told(root, path, names, from_anywhere=True)
    files, folder = told.files, told.folder
    there, alike = _There(root), _Alike(root)
    # What is only a file's name has been looked for where it is told, and can be nowhere else.
    only_there = not folder or not list_images(root)
    options = (
        (n, find_image(root, names[n], folder, there) or alike.find(names[n], folder))
        for n in told.missing
        if not only_there or _ELSEWHERE.search(names[n])
    )
    found = {n: file for n, file in options if file}
    if not found and len(told.missing) == len(names):
        found = _find_below(root, names)
    for index, file in found.items():
        files[index] = file
    shared = _take_apart(files, names, {*told.missing, *told.respelled}, folder)
    inside = [index for index in found if confine(names[index]) and index not in shared]
    renamed = sum(last_part(found[index]) != last_part(names[index]) for index in inside)
    counts = {
        "name spelled otherwise, decoded or without its query": renamed,
        "name with other folders than the image: only the end is used": len(inside) - renamed,
        "name that could mean several images: taken as missing": len(shared),
    }
    return files, told.notes + [counted(count, what) for what, count in counts.items() if count]


def _find_below(root: Path, names: Sequence[str]) -> dict[int, str]:
    """The images below `root` that names mean by their last part alone, by the names' numbers.

    One of a name, or a stem, that images in several folders have is not known.
    """
    images = list_images(root, deep=True)
    known: dict[str, str] = {}
    for called in (map(stem_of, images), map(last_part, images)):
        pairs = [*zip(called, images, strict=True)]
        counts = Counter(name for name, _ in pairs)
        known |= {name: image for name, image in pairs if counts[name] == 1}
    parts = (last_part(path_of(name)) for name in names)
    found = (known.get(part) or known.get(stem_of(part)) for part in parts)
    return {number: image for number, image in enumerate(found) if image}


def _take_apart(
    files: list[str], names: Sequence[str], changed: Iterable[int], folder: str
) -> list[int]:
    """Undo, in place, what was `changed` so that several names mean one file; return which.

    Frames of several videos, put into one folder, are not each other's.
    """
    sought = {files[index] for index in changed}
    meaning: dict[str, set[str]] = {file: set() for file in sought}
    for file, name in zip(files, names, strict=True) if sought else ():
        if file in sought:
            meaning[file].add(name)
    shared = [index for index in sorted(changed) if len(meaning[files[index]]) > 1]
    for index in shared:
        own = confine(names[index]) or confine(path_of(names[index]))
        files[index] = join_path(folder, own or files[index])
    return shared


class Told(NamedTuple):
    """Where images lie as a file tells it: paths from the root, and the folder they are from.

    missing    numbers of the images that are not there, and of those whose name leads out
    respelled  numbers of those that are there, spelled otherwise
    """

    files: list[str]
    folder: str
    missing: list[int]
    respelled: list[int]
    notes: list[str]


def as_told(root: Path, path: Path, names: Sequence[str], *, from_anywhere: bool = False) -> Told:
    """Where the images called `names` in the annotation file `path` lie, by these names as told.

    Suffix, case and the form of accents may differ. `from_anywhere` says whether the folder of the
    images may be one where but the ends of names are found.
    """
    inside = [confine(name) for name in names]
    safe = [name or last_part(path_of(given)) for name, given in zip(inside, names, strict=True)]
    step = max(1, len(names) // _SAMPLE)
    folder = _image_folder(root, path, safe[::step], names[::step] if from_anywhere else ())
    files = [join_path(folder, name) for name in safe]
    respelled, missing = _respell(root, files)
    strays = [index for index, name in enumerate(inside) if name is None]
    counts = {
        "name leading out of the dataset: only the end is used": len(strays),
        "name spelled otherwise than the image": sum(_has_suffix(names[n]) for n in respelled),
    }
    notes = [counted(count, what) for what, count in counts.items() if count]
    return Told(files, folder, sorted({*strays, *missing}), respelled, notes)


def missing_sizes(
    sizes: NDArray[np.int32], image_of_box: NDArray[np.int64], path: Path
) -> list[str]:
    """A note on images of unknown size (I, 2), whose boxes (M,) have none then.

    Raises DataError where that is every box.
    """
    boxed = np.unique(image_of_box)
    missing = int(np.sum((sizes[boxed] == 0).any(axis=1)))
    if missing and missing == len(boxed):
        raise DataError(
            "has boxes in fractions, and none of its images can be read",
            where=path,
            hint="put the images beside it, or into `images`",
        )
    return [counted(missing, "image that cannot be read: boxes without size")] if missing else []


def _image_folder(root: Path, path: Path, sample: Sequence[str], told: Sequence[str]) -> str:
    """The folder below `root` that holds most of the images `sample`, else of those `told`."""
    here = path.parent.relative_to(root).as_posix().removeprefix(".")
    called = [path.stem.rpartition("_")[2], split_name(path.stem) or "", *list_folders(root)]
    options = [here, *IMAGE_FOLDERS]
    for each in (here, *called):
        options += (each, *(pair for n in IMAGE_FOLDERS for pair in (f"{n}/{each}", f"{each}/{n}")))
    folders = [found.removeprefix(".") for found in dict.fromkeys(find_folders(root, options))]
    counters = ((_count_images, sample), (_count_alike, sample), (_count_others, told))
    for count_in, names in counters:
        counts = [0]
        for folder in folders:
            counts.append(count_in(root / folder, names))
            if counts[-1] == len(names):
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


def _count_others(folder: Path, names: Sequence[str]) -> int:
    """How many of the images `names`, told from anywhere, are in `folder`."""
    there, alike = _There(folder), _Alike(folder)
    found = (find_image(folder, name, "", there) or alike.find(name, "") for name in names)
    return sum(file is not None for file in found)


def find_image(root: Path, name: str, folder: str = "", there: _There | None = None) -> str | None:
    """The file below `root`, or `folder` in it, that `name` means, wherever it was told.

    The whole of it counts before its ends, and what is written before what that may mean. `there`
    is kept between names, so that a folder is listed once.
    """
    there = there or _There(root)
    told = spellings(name)
    whole = (path for each in told if (path := confine(each)))
    options = (option for path in whole for option in (join_path(folder, path), path))
    ends = (end for each in told for end in _ends(each, folder))
    return next(filter(there.holds, chain(options, ends)), None)


class _There:
    """Which files are below a folder, by lists: most of what is asked for is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[str, frozenset[str]] = {}

    def holds(self, file: str) -> bool:
        """Whether the POSIX path `file` is a file below the root."""
        folder, _, name = file.rpartition("/")
        if name.startswith("."):  # lists leave these out
            return (self._root / file).is_file()
        if folder not in self._listed:
            self._listed[folder] = frozenset(list_files(self._root / folder, ""))
        return name in self._listed[folder] and (self._root / file).is_file()


class _Alike:
    """Finds images by ends of names that differ in suffix, case or the form of accents."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[str, FilesByStem] = {}

    def find(self, name: str, folder: str) -> str | None:
        """The image that the longest end of `name` means, below the root or `folder` in it."""
        ends = (end for each in spellings(name) for end in _ends(each, folder))
        return next(filter(None, map(self._at, ends)), None)

    def _at(self, file: str) -> str | None:
        folder, _, name = file.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = FilesByStem(self._root / folder, *IMAGE_SUFFIXES)
        found = _image_of(name, self._listed[folder])
        return found and join_path(folder, found)


def find_end(root: Path, name: str, folder: str = "") -> str | None:
    """The longest end of the path `name` that is a file below `root`, or `folder` in it."""
    return next((end for end in _ends(name, folder) if (root / end).is_file()), None)


def _ends(name: str, folder: str) -> Iterator[str]:
    """The ends of the path `name`, longest first, from a root and from `folder` in it."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    parts = parts[-_DEEPEST:]
    for start in range(len(parts)):
        if end := confine("/".join(parts[start:])):
            yield end
            if folder:
                yield f"{folder}/{end}"


def _respell(root: Path, files: list[str]) -> tuple[list[int], list[int]]:
    """Put, in place, the images that are there for names that are not.

    Returns the numbers of these, and of those that are not there at all.
    """
    there: dict[str, set[str]] = {}
    alike: dict[str, FilesByStem] = {}
    respelled: list[int] = []
    missing: list[int] = []
    for index, file in enumerate(files):
        folder, _, name = file.rpartition("/")
        if folder not in there:
            there[folder] = set(list_images(root / folder))
        if name in there[folder]:
            continue
        if folder not in alike:
            alike[folder] = FilesByStem(root / folder, *IMAGE_SUFFIXES)
        found = _image_of(name, alike[folder])
        (missing if found is None else respelled).append(index)
        files[index] = join_path(folder, found or (name if _has_suffix(name) else f"{name}.jpg"))
    return respelled, missing


def _image_of(name: str, images: FilesByStem) -> str | None:
    """The one of `images` that `name` means: an id may end like a file, `a.png` of `a.png.jpg`."""
    return images.find(name) or images.find(stem_of(name))


def _has_suffix(name: str) -> bool:
    return _SUFFIX.search(name.partition("?")[0]) is not None
