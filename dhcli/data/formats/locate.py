"""Finding a dataset's annotation files, and the images that they speak of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
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
    list_files,
    list_folders,
    list_images,
    split_folders,
    split_name,
    stem_of,
)
from dhcli.data.merge import merge_tables
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError
from dhcli.words import counted

ReadFile = Callable[[Path, Path], DetectionTable]
"""Reads an annotation file (the second) of the dataset in a folder (the first)."""

_SAMPLE = 20
_MOST = 50
_DEEPEST = 8


def find_files(root: Path, suffix: str, is_ours: Callable[[Path], bool]) -> list[Path]:
    """Annotation files of a folder: those in `annotations`, else in itself, else in its folders.

    Folders that are called as splits count as the folder itself. One that has images of its own,
    and does not speak of a split, is another dataset.
    """
    return next((files for files in _groups(root, suffix, is_ours) if files), [])


def _groups(root: Path, suffix: str, is_ours: Callable[[Path], bool]) -> Iterator[list[Path]]:
    splits = (".", *(name for _, name in split_folders(root)))
    within = (n for n in list_folders(root) if split_name(n) or not _has_images(root / n))
    for folders in (find_folders(root, ("annotations",)), splits, within):
        files = [root / sub / name for sub in folders for name in list_files(root / sub, suffix)]
        # A file an image is another format: one look at a few tells.
        if len(files) <= _MOST or any(map(is_ours, files[:_SAMPLE])):
            yield [file for file in files if is_ours(file)]


def _has_images(folder: Path) -> bool:
    """Whether images lie in `folder` or in a folder in it."""
    return any(
        list_images(place) for place in (folder, *map(folder.joinpath, list_folders(folder)))
    )


def read_as_splits(
    path: Path,
    files: Sequence[Path],
    read_file: ReadFile,
    looks_for: str,
    title: str,
    *,
    has_ids: bool = False,
) -> DetectionTable:
    """The dataset at `path`: that file, or the `files` found in that folder as its splits.

    A file that tells the splits of its images keeps them.
    Where the format has no ids of its own (`has_ids`), images, boxes and classes are numbered on.
    Raises DataError where there are none, or several that do not say which split they are.
    """
    if path.is_file():
        return read_file(root_of(path), path)
    if not files:
        raise DataError(f"holds no {title} file", where=path, hint=f"looked for {looks_for}")
    tables = []
    for file, split in zip(files, _split_names(path, files), strict=True):
        table = read_file(path, file)
        every = np.arange(len(table), dtype=np.int64)
        tables.append(
            replace(table, splits={split: every}) if split and not table.splits else table
        )
    if len(tables) == 1:
        return tables[0]
    return merge_tables(tables if has_ids else _numbered_on(tables))


def _numbered_on(tables: Sequence[DetectionTable]) -> list[DetectionTable]:
    """The tables with the same classes, sorted if they are in each, and ids that go on."""
    names = list(dict.fromkeys(name for table in tables for name in table.classes))
    if all(list(table.classes) == sorted(table.classes) for table in tables):
        names.sort()
    numbered, images, boxes = [], 0, 0
    for table in tables:
        numbered.append(
            replace(
                table.with_classes(names),
                image_ids=table.image_ids + images,
                box_ids=table.box_ids + boxes,
                category_ids=np.arange(1, len(names) + 1, dtype=np.int64),
            )
        )
        images, boxes = images + len(table), boxes + len(table.boxes)
    return numbered


def root_of(path: Path) -> Path:
    """The folder of the dataset that an annotation file alone stands for."""
    return path.parent.parent if path.parent.name.lower() == "annotations" else path.parent


def _split_names(root: Path, files: Sequence[Path]) -> list[str | None]:
    """The split that each file tells of. Raises DataError where several do not say."""
    folders = [None if file.parent == root else split_name(file.parent.name) for file in files]
    names = [split_name(f.stem) or folder for f, folder in zip(files, folders, strict=True)]
    if names.count(None) > 1:
        nameless = [
            f.relative_to(root).as_posix()
            for f, name in zip(files, names, strict=True)
            if name is None
        ]
        raise DataError(
            f"several annotation files, and no telling of which split: {', '.join(nameless[:5])}",
            where=root,
            hint="name the one to read instead of the folder",
        )
    if len(set(names)) < len(names):  # train2014 beside train2017
        return [name and file.stem for name, file in zip(names, files, strict=True)]
    return names


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
