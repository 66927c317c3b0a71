"""Which images a YOLO dataset has, in which splits, and where their label files lie."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dhcli.data.formats.locate import find_end
from dhcli.data.formats.yolo_settings import SPLIT_KEYS
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    confine,
    find_folders,
    first_folder,
    has_file,
    join_path,
    list_files,
    list_images,
    read_lines,
    read_text,
    split_folders,
    stem_of,
)
from dhcli.errors import DataError

_NOT_LABELS = frozenset(("classes.txt", "names.txt", "readme.txt", "requirements.txt"))
_LABEL_LINE = re.compile(r"\s*\d+(\.0*)?(\s+[-+0-9.,eE]+){4,}\s*")
_OTHER_KEYS = frozenset(("path", "names", "nc", "download", "kpt_shape", "flip_idx"))

Groups = dict[str, list[str]]
"""Split ("" where there is none) → POSIX paths of its images from the root."""


def groups_of_settings(root: Path, settings: Mapping[str, Any], notes: list[str]) -> Groups:
    """Images by split as the settings name them; `notes` gets the places that are not there."""
    base = confine(str(settings.get("path") or "."))
    groups: Groups = {}
    for key, places in settings.items():
        for place in [places] if isinstance(places, str) else places or ():
            if key in _OTHER_KEYS or not isinstance(place, str) or not place:
                continue
            found = _find_place(root, base, place)
            if found is not None:
                split = "val" if key == "valid" else str(key)
                groups.setdefault(split, []).extend(_images_at(root, found))
            elif key in SPLIT_KEYS:
                notes.append(f"`{key}: {place}` is not within the dataset: left out")
    return groups


def _find_place(root: Path, base: str | None, place: str) -> str | None:
    """The folder or list from the root that `place` means.

    Exports say `../train/images`, or an absolute path of where they were made: then the longest
    end of it that is there counts.
    """
    ends = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    options = [] if base is None else [confine(place, "" if base == "." else base)]
    options += [confine(place), *(confine("/".join(ends[i:])) for i in range(len(ends)))]
    return next((option for option in options if option and _is_place(root / option)), None)


def _is_place(path: Path) -> bool:
    """Whether images can be had there: a folder, or a list."""
    return path.is_dir() or (path.suffix == ".txt" and path.is_file())


def _images_at(root: Path, place: str) -> list[str]:
    """Images in a folder and below it, or those that a list names, a line each."""
    if (root / place).is_dir():
        return [join_path(place, name) for name in list_images(root / place, deep=True)]
    folder = place.rpartition("/")[0]
    images = []
    for number, line in enumerate(read_text(root / place).splitlines(), 1):
        if not line.strip():
            continue
        options = [confine(line.strip(), folder), confine(line.strip())]
        there = next((option for option in options if option and (root / option).exists()), None)
        image = there or find_end(root, line.strip()) or options[1]
        if image is None:
            where = f"{root / place}:{number}"
            raise DataError(f"`{line.strip()[:80]}` is not within the dataset", where=where)
        images.append(image)
    return images


def groups_of_folders(root: Path) -> Groups:
    """Images by split as folders are called: images/train, train/images, or all in one."""
    groups: Groups = {}
    for folder, split in image_folders(root).items():
        found = (join_path(folder, name) for name in list_images(root / folder))
        groups.setdefault(split, []).extend(found)
    return groups


def image_folders(root: Path) -> dict[str, str]:
    """Folders of images below `root`, with the split that each is, or ""."""
    found: dict[str, str] = {}
    for split, base in split_folders(root):
        folder = next((f for f in (f"{base}/images", base) if _has_images(root / f)), None)
        if folder is not None:
            found[folder] = split
    for images in [] if found else find_folders(root, ("images",)):
        for split, base in split_folders(root / images):
            if _has_images(root / images / base):
                found[f"{images}/{base}"] = split
    if found:
        return found
    only = first_folder(root, IMAGE_FOLDERS, *IMAGE_SUFFIXES)
    return {only: ""} if only else {}


def _has_images(folder: Path) -> bool:
    return has_file(folder, *IMAGE_SUFFIXES)


class Labels:
    """The label files of images, below `root`; each folder of them is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, str] = {}
        self._listed: dict[str, FilesByStem] = {}

    def of_image(self, image: str) -> str | None:
        """The label file of an image, None where it has none."""
        above = image.rpartition("/")[0]
        if above not in self._folders:
            folder = self._folders[above] = label_folder(self._root, above or ".")
            self._listed[folder] = FilesByStem(self._root / folder, ".txt")
        folder = self._folders[above]
        name = self._listed[folder].find(stem_of(image))
        return None if name is None else join_path(folder, name)

    def unused(self, used: Iterable[str]) -> int:
        """How many label files, of those in the folders asked for, are not among `used`."""
        every = {
            join_path(folder, name)
            for folder, files in self._listed.items()
            for name in files.names
            if name.lower() not in _NOT_LABELS
        }
        return sum(is_label(self._root / name) for name in every.difference(used))


def label_folder(root: Path, images: str) -> str:
    """Where the label files of a folder of images lie."""
    head, found, tail = f"/{images.lower()}/".rpartition("/images/")
    options = [f"{head}/labels/{tail}"] if found else []
    parent, _, last = images.rpartition("/")
    options += [f"labels/{last}", join_path(parent, "labels")]
    return next(find_folders(root, options), images)


def has_labels(folder: Path) -> bool:
    """Whether the first few label files in `folder` are YOLO's."""
    names = [name for name in list_files(folder, ".txt") if name.lower() not in _NOT_LABELS]
    return any(is_label(folder / name) for name in names[:20])


def is_label(path: Path) -> bool:
    lines = read_lines(path)
    return bool(lines) and _LABEL_LINE.fullmatch(lines[0]) is not None
