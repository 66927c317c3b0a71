"""Finding a dataset's annotation files, and the images that they speak of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dhcli.data.formats.files import (
    IMAGE_SUFFIXES,
    confine,
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

ReadFile = Callable[[Path, Path], DetectionTable]
"""Reads an annotation file (the second) of the dataset in a folder (the first)."""

_SAMPLE = 20
_MOST = 50
_DEEPEST = 8
_IMAGE_FOLDERS = ("images", "JPEGImages", "Images", "img", "data")


def find_files(root: Path, suffix: str, is_ours: Callable[[Path], bool]) -> list[Path]:
    """Annotation files of a folder: those in `annotations`, else in itself, else in its folders.

    Folders that are called as splits count as the folder itself.
    """
    return next((files for files in _groups(root, suffix, is_ours) if files), [])


def _groups(root: Path, suffix: str, is_ours: Callable[[Path], bool]) -> Iterator[list[Path]]:
    splits = (".", *(name for _, name in split_folders(root)))
    for folders in (("annotations",), splits, list_folders(root)):
        files = [root / sub / name for sub in folders for name in list_files(root / sub, suffix)]
        # A file an image is another format: one look at a few tells.
        if len(files) <= _MOST or any(map(is_ours, files[:_SAMPLE])):
            yield [file for file in files if is_ours(file)]


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
        tables.append(replace(table, splits={split: every}) if split else table)
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
    return path.parent.parent if path.parent.name == "annotations" else path.parent


def _split_names(root: Path, files: Sequence[Path]) -> list[str | None]:
    """The split that each file tells of. Raises DataError where several do not say."""
    folders = [None if file.parent == root else split_name(file.parent.name) for file in files]
    names = [split_name(f.stem) or folder for f, folder in zip(files, folders, strict=True)]
    if names.count(None) > 1:
        nameless = [f.name for f, name in zip(files, names, strict=True) if name is None]
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
    else its last part. A name without the suffix of an image gets that of the file so called.
    """
    inside = [confine(name) for name in names]
    safe = [name or last_part(given) for name, given in zip(inside, names, strict=True)]
    folder = _image_folder(root, path, safe[:: max(1, len(safe) // _SAMPLE)])
    files = [f"{folder}/{name}" if folder else name for name in safe]
    strays = [index for index, name in enumerate(inside) if name is None]
    for index in strays:
        files[index] = find_end(root, names[index], folder) or files[index]
    _add_suffixes(root, files)
    count, what = len(strays), "file names lead out of the dataset: only their ends count"
    return files, [f"{count} {what}"] if count else []


def _image_folder(root: Path, path: Path, sample: Sequence[str]) -> str:
    """The folder below `root` that holds most of the images `sample`."""
    here = path.parent.relative_to(root).as_posix().removeprefix(".")
    called = [path.stem.rpartition("_")[2], split_name(path.stem) or "", *list_folders(root)]
    options = ["", *_IMAGE_FOLDERS, *(n for each in called for n in (each, f"images/{each}"))]
    options += [f"{each}/images" for each in called]
    best, most = ("" if here == "annotations" else here), 0
    for option in dict.fromkeys([here, *options]):
        stems = set() if all(map(_has_suffix, sample)) else _stems(root / option)
        count = sum((root / option / name).is_file() or name in stems for name in sample)
        if count > most:
            best, most = option, count
        if most == len(sample):
            break
    return best


def find_end(root: Path, name: str, folder: str = "") -> str | None:
    """The longest end of the path `name` that is a file below `root`, or `folder` in it."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    parts = parts[-_DEEPEST:]
    ends = [confine("/".join(parts[start:])) for start in range(len(parts))]
    options = (option for end in ends if end for option in (end, f"{folder}/{end}".lstrip("/")))
    return next((option for option in options if (root / option).is_file()), None)


def _add_suffixes(root: Path, files: list[str]) -> None:
    """Complete, in place, the names without the suffix of an image."""
    known: dict[str, dict[str, str]] = {}
    for index, file in enumerate(files):
        if _has_suffix(file):
            continue
        folder, _, name = file.rpartition("/")
        if folder not in known:
            known[folder] = _stems(root / folder)
        found = known[folder].get(name, f"{name}.jpg")
        files[index] = f"{folder}/{found}" if folder else found


def _stems(folder: Path) -> dict[str, str]:
    """The images of a folder by their names without suffix."""
    return {stem_of(name): name for name in reversed(list_images(folder))}


def _has_suffix(name: str) -> bool:
    return name[name.rfind(".") :].lower() in IMAGE_SUFFIXES
