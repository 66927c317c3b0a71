"""Where the images lie that an annotation file speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


def locate_images(root: Path, path: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Where the images called `names` in the annotation file `path` lie, and a note on strays.

    POSIX paths from `root`, whether the images are there or not. Of a name that leads out of the
    dataset, an absolute path from where it was made, say, the longest end that is there counts,
    else its last part. Where there is no such file, one counts that differs in suffix, in case or
    in the form of accents.
    """
    inside = [confine(name) for name in names]
    safe = [name or last_part(given) for name, given in zip(inside, names, strict=True)]
    folder = _image_folder(root, path, safe[:: max(1, len(safe) // _SAMPLE)])
    files = [f"{folder}/{name}" if folder else name for name in safe]
    strays = [index for index, name in enumerate(inside) if name is None]
    for index in strays:
        files[index] = find_end(root, names[index], folder) or files[index]
    counts = {
        "name leading out of the dataset: only the end counts": len(strays),
        "name spelled otherwise than the image": _respell(root, files),
    }
    return files, [counted(count, what) for what, count in counts.items() if count]


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


def _image_folder(root: Path, path: Path, sample: Sequence[str]) -> str:
    """The folder below `root` that holds most of the images `sample`."""
    here = path.parent.relative_to(root).as_posix().removeprefix(".")
    called = [path.stem.rpartition("_")[2], split_name(path.stem) or "", *list_folders(root)]
    options = [here, *IMAGE_FOLDERS]
    for each in (here, *called):
        options += (each, *(pair for n in IMAGE_FOLDERS for pair in (f"{n}/{each}", f"{each}/{n}")))
    folders = [found.removeprefix(".") for found in dict.fromkeys(find_folders(root, options))]
    for count_in in (_count_images, _count_alike):
        counts = [0]
        for folder in folders:
            counts.append(count_in(root / folder, sample))
            if counts[-1] == len(sample):
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


def find_end(root: Path, name: str, folder: str = "") -> str | None:
    """The longest end of the path `name` that is a file below `root`, or `folder` in it."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    parts = parts[-_DEEPEST:]
    ends = [confine("/".join(parts[start:])) for start in range(len(parts))]
    options = (option for end in ends if end for option in (end, f"{folder}/{end}".lstrip("/")))
    return next((option for option in options if (root / option).is_file()), None)


def _respell(root: Path, files: list[str]) -> int:
    """Put, in place, the images that are there for names that are not; return how many."""
    there: dict[str, set[str]] = {}
    alike: dict[str, FilesByStem] = {}
    count = 0
    for index, file in enumerate(files):
        folder, _, name = file.rpartition("/")
        if folder not in there:
            there[folder] = set(list_images(root / folder))
        if name in there[folder]:
            continue
        if folder not in alike:
            alike[folder] = FilesByStem(root / folder, *IMAGE_SUFFIXES)
        found = alike[folder].find(stem_of(name))
        complete = _has_suffix(name)
        count += complete and found is not None
        files[index] = join_path(folder, found or (name if complete else f"{name}.jpg"))
    return count


def _has_suffix(name: str) -> bool:
    return name[name.rfind(".") :].lower() in IMAGE_SUFFIXES
