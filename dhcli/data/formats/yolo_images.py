"""Which images a YOLO dataset has, in which splits, and where their label files lie."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from dhcli.data.formats.locate import find_end, find_image
from dhcli.data.formats.yolo_settings import Settings, is_split_key
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    confine,
    find_folders,
    first_folder,
    has_file,
    join_path,
    last_part,
    list_files,
    list_folders,
    list_images,
    read_head,
    read_text,
    split_folders,
    split_name,
    stem_of,
    usual_split,
)
from dhcli.errors import DataError
from dhcli.words import named

OTHER_KEYS = frozenset(("path", "names", "nc", "download", "kpt_shape", "flip_idx"))
_LIST_FOLDERS = ("ImageSets/Main", "ImageSets", "splits", "data", "images")
NOT_LABELS = frozenset(
    (
        *("classes.txt", "names.txt", "labels.txt", "readme.txt", "requirements.txt"),
        *("readme.dataset.txt", "readme.roboflow.txt"),
    )
)
"""What text files beside labels are called, in any case; an image's may be called so too."""
_LABEL_LINE = re.compile(r"\s*\d+(\.0*)?(\s+[-+0-9.,eE]+){4,}\s*")
_NAME, _FRACTION = re.compile(r"[^\W\d]"), re.compile(r"0?\.\d+|[01](\.0*)?")
_LOOK_AT, _LINES = 20, 5
"""How many label files, and lines of them, are looked at."""
_DEEPEST = 4

Groups = dict[str, list[str]]
"""Split ("" where there is none) → POSIX paths of its images from the root."""


@dataclass
class Images:
    """The images of a dataset.

    groups  those of each split
    told    image → the path that a list has for it, where that is another, or the image is missing
    notes   what is said of them
    """

    groups: Groups = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def files(self) -> list[str]:
        """Every image once."""
        return list(dict.fromkeys(file for group in self.groups.values() for file in group))


def find_images(root: Path, settings: Settings) -> Images:
    """The images that the settings name, else lists called as splits, else folders.

    Raises DataError with the line of a list that names what is not within the dataset.
    """
    images = Images()
    lists = _Lists(root, images)
    _add_settings(lists, settings.told, images)
    if not images.groups:
        lists.add_usual()
    if not images.groups:
        for folder, split in image_folders(root).items():
            found = (join_path(folder, name) for name in list_images(root / folder))
            images.groups.setdefault(split, []).extend(found)
    return images


def _add_settings(lists: _Lists, settings: Mapping[str, Any], images: Images) -> None:
    """Add what the settings name; of places that are not there a note is left."""
    base = confine(str(settings.get("path") or "."))
    for key, places in settings.items():
        if key in OTHER_KEYS or not isinstance(places, str | list):
            continue
        for place in [places] if isinstance(places, str) else places:
            if not isinstance(place, str) or not place:
                continue
            found = _find_place(lists.root, base, place)
            if found is not None:
                images.groups.setdefault(usual_split(key), []).extend(_images_at(lists, found))
            elif is_split_key(key):
                images.notes.append(f"`{key}: {place}` is not within the dataset: left out")


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


def _images_at(lists: _Lists, place: str) -> list[str]:
    """Images in a folder and below it, or those that a list names."""
    if (lists.root / place).is_dir():
        return [join_path(place, name) for name in list_images(lists.root / place, deep=True)]
    return lists.read(place)


class _Lists:
    """Lists of images, a path a line, told from anywhere."""

    def __init__(self, root: Path, images: Images) -> None:
        self.root = root
        self._images = images
        self._places: dict[str, str] = {}
        self._listed: dict[str, FilesByStem] = {}
        self._folders: list[str] | None = None
        self._taken: dict[str, str] = {}

    def add_usual(self) -> None:
        """Add what lists called as splits name, such as train.txt or ImageSets/Main/val.txt.

        One of whose images not one is there is left out.
        """
        for folder in (".", *find_folders(self.root, _LIST_FOLDERS)):
            names = (join_path(folder, name) for name in list_files(self.root / folder, ".txt"))
            found = {name: split for name in names if (split := split_name(stem_of(name)))}
            groups = {name: self.read(name) for name in found if self._is_list(name)}
            there = {n: g for n, g in groups.items() if any(map(self._is_there, g))}
            for name, group in there.items():
                self._images.groups.setdefault(found[name], []).extend(group)
            if there:
                gone = [name for name in groups if name not in there]
                what = "list of images that are not there: left out"
                self._images.notes += [named(gone, what)] if gone else []
                return

    def read(self, file: str) -> list[str]:
        """The images that the lines of a list name. Raises DataError."""
        folder = file.rpartition("/")[0]
        lines = enumerate(map(str.strip, read_text(self.root / file).splitlines()), 1)
        return [self._image(line, folder, f"{self.root / file}:{n}") for n, line in lines if line]

    def _is_list(self, file: str) -> bool:
        """Whether the first line of a file names an image."""
        lines = read_head(self.root / file).split("\n")
        first = next((line.strip() for line in lines if line.strip()), "")
        if first.lower().endswith(tuple(IMAGE_SUFFIXES)):
            return True
        return bool(first) and self._find(first, file.rpartition("/")[0]) is not None

    def _is_there(self, image: str) -> bool:
        return image not in self._images.told or (self.root / image).is_file()

    def _image(self, told: str, folder: str, where: str) -> str:
        """The image that a line of a list in `folder` means, whether it is there or not."""
        image = self._find(told, folder)
        as_told = (confine(told, folder), confine(told))
        if image and self._taken.setdefault(image, told) != told and image not in as_told:
            image = None  # frames of several videos, put into one folder?
        if image is None:
            image = self._missing(told)
        else:
            self._places[_above(told)] = _above(image)
        if image is None:
            raise DataError(f"`{told[:80]}` is not within the dataset", where=where)
        if image not in as_told:
            self._images.told[image] = told
        return image

    def _missing(self, told: str) -> str | None:
        """The path of an image that is not there: as told, or with others of its folder."""
        above, name = _above(told), last_part(told)
        missing = confine(told)
        if missing is None and above in self._places:
            missing = confine(join_path(self._places[above], name))
        if missing is not None:
            self._images.told[missing] = told
        return missing

    def _find(self, told: str, folder: str) -> str | None:
        """The image that is there for a path: as told, else its longest end, else its stem's."""
        for option in (confine(told, folder), confine(told)):
            if option and (self.root / option).is_file():
                return option
        above, name = _above(told), last_part(told)
        found = None
        if above in self._places:
            found = self._alike(self._places[above], name, exactly=True)
        return found or find_image(self.root, told) or self._find_elsewhere(told, name)

    def _find_elsewhere(self, told: str, name: str) -> str | None:
        """The image of that end, else of that stem, in one of the usual folders."""
        if self._folders is None:
            usual = find_folders(self.root, IMAGE_FOLDERS)
            others = (name for name in list_folders(self.root) if has_images(self.root / name))
            self._folders = list(dict.fromkeys((*usual, *image_folders(self.root), *others)))
        ends = (find_image(self.root, told, folder) for folder in self._folders)
        stems = (self._alike(folder, name) for folder in self._folders)
        return next((found for found in (*ends, *stems) if found), None)

    def _alike(self, folder: str, name: str, *, exactly: bool = False) -> str | None:
        """The image in `folder` called `name`, or so but for its suffix and case."""
        if folder not in self._listed:
            self._listed[folder] = FilesByStem(self.root / folder, *IMAGE_SUFFIXES)
        found = self._listed[folder].find(stem_of(name))
        return join_path(folder, found) if found and (found == name or not exactly) else None


def image_folders(root: Path) -> dict[str, str]:
    """Folders of images below `root`, with the split that each is, or "".

    images/train, train/images, train, or one for all; and folders in these with labels of their
    own.
    """
    found: dict[str, str] = {}
    for split, base in split_folders(root):
        options = ([*_with_images(root, folder)] for folder in (f"{base}/images", base))
        found |= dict.fromkeys(next(filter(None, options), []), split)
    for images in [] if found else find_folders(root, ("images",)):
        for split, base in split_folders(root / images):
            found |= dict.fromkeys(_with_images(root, f"{images}/{base}"), split)
    if found:
        return found
    only = first_folder(root, IMAGE_FOLDERS, *IMAGE_SUFFIXES)
    nested = [each for f in find_folders(root, ("images",)) for each in _with_images(root, f)]
    if nested and (only in (None, nested[0]) or (only == "." and not has_labels(root))):
        return dict.fromkeys(nested, "")
    return {only: ""} if only else {}


def folders_beside(root: Path, used: Iterable[str]) -> list[str]:
    """Folders of images below `root`, up to two deep, that neither are nor hold one of `used`."""
    known = set(used)
    first = list_folders(root)
    second = [f"{name}/{below}" for name in first for below in list_folders(root / name)]
    return [
        folder
        for folder in (*first, *second)
        if has_images(root / folder)
        and folder not in known
        and not any(each.startswith(f"{folder}/") for each in known)
    ]


def _with_images(root: Path, folder: str, depth: int = _DEEPEST) -> Iterator[str]:
    """`folder`, where it has images, and folders below it that have images and label files."""
    if has_images(root / folder):
        yield folder
    for name in list_folders(root / folder) if depth and folder != "." else ():
        if name.lower() not in ("images", "labels"):
            below = _with_images(root, f"{folder}/{name}", depth - 1)
            yield from (e for e in below if _is_labelled(root, e, label_folder(root, e)))


def has_images(folder: Path) -> bool:
    """Whether images lie in `folder` itself."""
    return has_file(folder, *IMAGE_SUFFIXES)


class Labels:
    """The label files of images, below `root`; each folder of them is listed once."""

    def __init__(self, root: Path, told: Mapping[str, str]) -> None:
        self._root = root
        self._told = told
        self._folders: dict[str, list[str]] = {}
        self._listed: dict[str, FilesByStem] = {}

    def of_image(self, image: str) -> str | None:
        """The label file of an image, None if it has none.

        That goes by where the image lies, then by what lies beside it, else by where a list said
        that it would.
        """
        above, _, last = image.rpartition("/")
        for folder in self._places(above or "."):
            listed = self._list(folder)
            name = listed.get(last) or listed.find(stem_of(last))
            if name is not None and _may_be_label(self._root / folder, name):
                return join_path(folder, name)
        return self._by_end(self._told[image]) if image in self._told else None

    def _places(self, images: str) -> list[str]:
        """Where label files of images in a folder lie: the folder of all, and beside the images."""
        if images not in self._folders:
            usual = label_folder(self._root, images)
            beside = [images] if images != usual and has_labels(self._root / images) else []
            self._folders[images] = [usual, *beside]
        return self._folders[images]

    def _list(self, folder: str) -> FilesByStem:
        if folder not in self._listed:
            self._listed[folder] = FilesByStem(self._root / folder, ".txt")
        return self._listed[folder]

    def _by_end(self, told: str) -> str | None:
        """The label file at the longest end of where one of the image `told` would lie."""
        path = f"{_above(told)}/{stem_of(last_part(told))}.txt"
        head, found, tail = path.rpartition("/images/")
        options = [f"{head}/labels/{tail}", path] if found else [path]
        found_at = next(filter(None, (find_end(self._root, each) for each in options)), None)
        if found_at is not None:
            self._list(_above(found_at).lstrip("/"))
        return found_at

    def unused(self, used: Iterable[str]) -> list[str]:
        """The label files, in the folders asked for, that are not among `used`."""
        every = {
            join_path(folder, name)
            for folder, files in self._listed.items()
            for name in files.names
            if name.lower() not in NOT_LABELS
        }
        return sorted(name for name in every.difference(used) if is_label(self._root / name))


def _above(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[0]


def label_folder(root: Path, images: str) -> str:
    """Where the label files of a folder of images lie.

    The first usual place that has one of an image there; of images in the root, or in one folder
    for all, else a folder of any name that has; else the first usual place with some. Beside
    `images/`, `labels/` is of the images there: elsewhere what lies with the images comes first.
    """
    head, found, tail = f"/{images.lower()}/".rpartition("/images/")
    parent, _, last = images.rpartition("/")
    nearest = [*([f"{head}/labels/{tail}"] if found else ()), f"labels/{last}"]
    wider = [join_path(parent, "labels"), *([f"{head}/labels"] if found else ()), "labels"]
    are_others = not found and any(find_folders(root, (join_path(parent, "images"),)))
    own = [images] if are_others and has_labels(root / images) else []
    usual = [*find_folders(root, nearest), *own, *find_folders(root, wider), images]
    alike = (folder for folder in usual if _have_one(root, images, folder))
    there = (folder for folder in usual if label_names(root / folder))
    return next(alike, None) or _labels_beside(root, images) or next(there, usual[0])


def _have_one(root: Path, images: str, labels: str) -> bool:
    """Whether a file in the folder `labels` is called as an image in `images`."""
    files = list_images(root / images)
    if any((root / labels / f"{stem_of(file)}.txt").is_file() for file in files[:_LOOK_AT]):
        return True  # most often, and soon
    names = {name.lower() for name in label_names(root / labels)}
    lower = map(str.lower, files if names else ())
    return any(f"{stem_of(file)}.txt" in names or f"{file}.txt" in names for file in lower)


def _labels_beside(root: Path, images: str) -> str | None:
    """A folder in the root, without images, that has a label file of an image in `images` there."""
    if "/" in images or split_name(images):
        return None
    others = (name for name in list_folders(root) if not has_images(root / name))
    return next((name for name in others if _is_labelled(root, images, name)), None)


def _is_labelled(root: Path, images: str, labels: str) -> bool:
    """Whether the folder `labels` has label files, and one of an image in `images`."""
    stems = set(map(stem_of, list_images(root / images)))
    alike = any(stem_of(name) in stems for name in label_names(root / labels))
    return alike and has_labels(root / labels)


def first_labels(root: Path) -> str | None:
    """The first folder below `root`, four deep at most, that has label files."""
    folders = [""]
    for _ in range(_DEEPEST):
        if found := next((each for each in folders if has_labels(root / each)), None):
            return found
        folders = [join_path(each, name) for each in folders for name in list_folders(root / each)]
    return None


def label_names(folder: Path) -> Sequence[str]:
    """Names of what may be label files in `folder`."""
    return [name for name in list_files(folder, ".txt") if name.lower() not in NOT_LABELS]


def _may_be_label(folder: Path, name: str) -> bool:
    """Whether a text file may be an image's: what it says tells where its name does not."""
    return name.lower() not in NOT_LABELS or is_label(folder / name)


def has_labels(folder: Path) -> bool:
    """Whether the first few label files in `folder` that say anything are YOLO's."""
    heads = (_head(folder / name) for name in label_names(folder))
    said = islice((head for head in heads if head.strip()), _LOOK_AT)
    return any(map(_begins_as_label, said))


def _head(path: Path) -> str:
    """The beginning of a file, which is not opened where it is empty: backgrounds may be many."""
    try:
        return read_head(path) if path.stat().st_size else ""
    except OSError:
        return ""


def is_label(path: Path) -> bool:
    """Whether a file begins with a line of YOLO's."""
    return _begins_as_label(read_head(path))


def _begins_as_label(head: str) -> bool:
    lines = filter(None, (line.strip() for line in head.splitlines()))
    return any(map(is_label_line, islice(lines, _LINES)))


def is_label_line(line: str) -> bool:
    """Whether a line has a class number and four numbers at least.

    Or a name and four fractions: YOLO's, so that the reader can say what is wrong with it.
    """
    if _LABEL_LINE.fullmatch(line):
        return True
    name, *fractions = line.strip().rsplit(maxsplit=4) or ("",)
    are_four = len(fractions) == 4 and all(map(_FRACTION.fullmatch, fractions))
    return are_four and _NAME.match(name) is not None
