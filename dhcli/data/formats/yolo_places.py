"""Where the images, the labels and the class names of a YOLO dataset lie, and what its splits are.

`data.yaml` and darknet's `obj.data` tell it; else lists (`train.txt`) and folders called so do.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from dhcli.config.text import read_as_written
from dhcli.data.formats.locate import ImagesBelow, ends_of
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    confine,
    filled_files,
    find_folders,
    first_folder,
    has_file,
    join_path,
    list_files,
    list_folders,
    list_images,
    read_head,
    read_lines,
    read_text,
    split_folders,
    stem_of,
)
from dhcli.errors import DataError
from dhcli.words import counted

_NAME_FILES = (
    *("classes.txt", "obj.names", "_darknet.labels", "names.txt", "labels.txt", "names"),
    "notes.json",
)
_SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_DARKNET = ".data"
SETTINGS = (".yaml", ".yml", _DARKNET)
_OTHER_KEYS = frozenset(("path", "names", "nc", "download", "kpt_shape", "flip_idx"))
_LISTS = tuple(f"{name}.txt" for name in _SPLIT_KEYS)
_NOT_LABELS = frozenset((*_NAME_FILES, *_LISTS, "readme.txt", "requirements.txt"))
_BRACKETS = re.compile(r"[\[\]{}]")
_LONGEST_YAML, _DEEPEST_YAML = 1 << 20, 100
_LABEL_LINE = re.compile(r"\s*\d+(\.0*)?(\s+[-+0-9.,eE]+){4,}\s*")

Groups = dict[str, list[str]]
"""Split ("" where there is none) → POSIX paths of its images from the root."""


@dataclass
class Places:
    """What the files of a dataset tell of their places.

    settings   what data.yaml or obj.data says; {} without one
    file       its name, ""
    groups     images by split
    told       image → what a list calls it, where that is not there
    notes      on what was not found
    left_out   what is left out → the names of it
    is_folder  whether a folder is read, not one file of it
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    groups: Groups = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    is_folder: bool = True


def find_places(root: Path, file: Path | None, *, is_folder: bool) -> Places:
    """What a file of settings, if there is one, and the lists and folders below `root` tell."""
    places = Places(is_folder=is_folder)
    if file is not None:
        places.settings, places.file = read_settings(file), file.relative_to(root).as_posix()
        _follow_settings(root, places)
    if not places.groups:
        _follow_folders(root, places)
    return places


def settings_of(root: Path) -> Path | None:
    """The file in `root` that names classes: data.yaml, or another that tells of splits."""
    found = list_files(root, *SETTINGS)
    usual = [name for name in found if name.lower().startswith(("data.", "dataset."))]
    if usual:
        return root / usual[0]
    for name in found:
        try:
            settings = read_settings(root / name)
        except DataError:  # not ours
            continue
        if "names" in settings and any(key in settings for key in _SPLIT_KEYS):
            return root / name
    return None


def read_settings(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file, every scalar as it is written: a class may be called `no`.

    Or that of darknet's `key = value` lines.
    """
    if path.suffix.lower() == _DARKNET:
        pairs = (line.partition("=") for line in read_lines(path) if not line.startswith("#"))
        told = {key.strip(): value.strip() for key, _, value in pairs}
        return {key: value for key, value in told.items() if key in (*_SPLIT_KEYS, "names")}
    text = read_text(path)
    if len(text) > _LONGEST_YAML:
        raise DataError("is too long to tell of classes and splits", where=path)
    # PyYAML takes time in the square of the depth, and its C loader all of the stack.
    depths = accumulate(1 if letter in "[{" else -1 for letter in _BRACKETS.findall(text))
    if max(depths, default=0) > _DEEPEST_YAML:
        raise DataError("is not YAML: nested too deep", where=path)
    try:
        found = read_as_written(text)
    except ValueError as error:
        raise DataError(f"is not YAML: {error}", where=path) from None
    return found if isinstance(found, dict) else {}


def _follow_settings(root: Path, places: Places) -> None:
    """Images by split as the settings name them, and what these leave out."""
    base = confine(str(places.settings.get("path") or "."))
    has_lists = False
    for key, told in places.settings.items():
        for place in [told] if isinstance(told, str) else told or ():
            if key in _OTHER_KEYS or not isinstance(place, str) or not place:
                continue
            found = _find_place(root, base, place)
            if found is not None:
                split = _SPLIT_KEYS.get(str(key), str(key))
                places.groups.setdefault(split, []).extend(_images_at(root, found, places.told))
                has_lists |= (root / found).is_file()
            elif key in _SPLIT_KEYS:
                places.notes.append(f"`{key}: {place}` is not within the dataset: left out")
    if places.groups and places.is_folder:
        listed = {image for images in places.groups.values() for image in images}
        folders = {image.rpartition("/")[0] for image in listed}
        beside = [folder for folder in _image_folders(root) if not _holds(folder, folders)]
        places.left_out[f"folder of images that {places.file} does not name, left out"] = beside
        every = _images_in(root, folders if has_lists else ())
        places.left_out["image in no list, left out"] = [i for i in every if i not in listed]


def _holds(folder: str, folders: Iterable[str]) -> bool:
    """Whether one of `folders` is `folder`, or is in it."""
    return folder == "." or any(f"{each}/".startswith(f"{folder}/") for each in folders)


def _images_in(root: Path, folders: Iterable[str]) -> list[str]:
    return [
        join_path(folder, name) for folder in sorted(folders) for name in list_images(root / folder)
    ]


def _find_place(root: Path, base: str | None, place: str) -> str | None:
    """The folder or list from the root that `place` means.

    Exports say `../train/images`, or an absolute path of where they were made: then the longest
    end of it that is there counts.
    """
    options = [] if base is None else [confine(place, "" if base == "." else base)]
    options += [confine(place), *ends_of(place)]
    return next((option for option in options if option and _is_place(root / option)), None)


def _is_place(path: Path) -> bool:
    """Whether images can be had there: a folder, or a list."""
    return path.is_dir() or (path.suffix == ".txt" and path.is_file())


def _images_at(root: Path, place: str, told: dict[str, str]) -> list[str]:
    """Images in a folder and below it, or those that a list names.

    `told` gets what the list calls those that are not there as written.
    """
    if (root / place).is_dir():
        return [join_path(place, name) for name in list_images(root / place, deep=True)]
    lines = {n: line.strip() for n, line in enumerate(read_text(root / place).splitlines(), 1)}
    lines = {number: line for number, line in lines.items() if line}
    folder = place.rpartition("/")[0]
    images = {number: _as_written(root, folder, line) for number, line in lines.items()}
    by_end = _by_ends(root, lines, images)
    for number, line in lines.items():
        if images[number] is None:
            image = by_end.get(line) or confine(line)
            if image is None:
                where = f"{root / place}:{number}"
                raise DataError(f"`{line[:80]}` is not within the dataset", where=where)
            images[number], told[image] = image, line
    return [image for image in images.values() if image]


def _as_written(root: Path, folder: str, line: str) -> str | None:
    """The image that a line of a list in `folder` names, if it is there."""
    options = (confine(line, folder), confine(line))
    return next((option for option in options if option and (root / option).exists()), None)


def _by_ends(
    root: Path, lines: Mapping[int, str], images: Mapping[int, str | None]
) -> dict[str, str]:
    """Line → image that it has the longest end of, of lines that name none as written.

    One that another line has too is not taken: which is meant cannot be told.
    """
    missing = dict.fromkeys(line for number, line in lines.items() if images[number] is None)
    folders = ["", *(name for name in find_folders(root, IMAGE_FOLDERS) if name != ".")]
    below = ImagesBelow(root)
    found = {}
    for line in missing:
        options = (below.find(line, folder) for folder in folders)
        if image := next((option for option in options if option), None):
            found[line] = image
    claims = Counter([*found.values(), *{image for image in images.values() if image}])
    return {line: image for line, image in found.items() if claims[image] == 1}


def _follow_folders(root: Path, places: Places) -> None:
    """Images by split as lists name them, or as folders are called: images/train, train/images."""
    folders = _image_folders(root)
    if not any(folders.values()) and places.is_folder:
        for name in list_files(root, *_LISTS):
            if name.lower() in _LISTS and _is_list(root / name):
                split = _SPLIT_KEYS[stem_of(name).lower()]
                images = _images_at(root, name, places.told)
                places.groups.setdefault(split, []).extend(images)
    listed = {image for images in places.groups.values() for image in images}
    for folder, split in folders.items():
        images = [image for image in _images_in(root, [folder]) if image not in listed]
        places.groups.setdefault(split, []).extend(images)
    if places.is_folder:
        left_out = list(_folders_beside(root, folders))
        places.left_out["folder of images in no split, left out"] = left_out


def _is_list(path: Path) -> bool:
    """Whether the first line of a file names an image."""
    first = read_head(path, 4096).lstrip().partition("\n")[0].strip()
    return first.lower().endswith(tuple(IMAGE_SUFFIXES))


def image_folders(root: Path) -> list[str]:
    """Folders of images below `root`."""
    return list(_image_folders(root))


def _image_folders(root: Path) -> dict[str, str]:
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


def _folders_beside(root: Path, folders: Mapping[str, str]) -> Iterator[str]:
    """Folders with images beside those of the splits: in `images/`, or in `root`."""
    if not any(folders.values()):
        return
    first = next(iter(folders)).split("/")
    within = first[0] if len(first) == 2 and first[1].lower() != "images" else ""
    if within and _has_images(root / within):
        yield within
    for name in list_folders(root / within):
        for folder in (join_path(within, name), join_path(within, f"{name}/images")):
            if folder not in folders and _has_images(root / folder):
                yield folder


def _has_images(folder: Path) -> bool:
    return has_file(folder, *IMAGE_SUFFIXES)


class Labels:
    """The label files of images, below `root`; each folder of them is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, str] = {}
        self._listed: dict[str, FilesByStem] = {}

    def of_image(self, image: str, told: str | None = None) -> str | None:
        """The label file of an image, None where it has none.

        Of one that a list calls `told`, which is not there, the label file is looked for by that.
        """
        above = image.rpartition("/")[0]
        if above not in self._folders:
            self._folders[above] = label_folder(self._root, above or ".")
        found = self._find(self._folders[above], image)
        return self._of_told(told) if found is None and told is not None else found

    def _find(self, folder: str, image: str) -> str | None:
        if folder not in self._listed:
            self._listed[folder] = FilesByStem(self._root / folder, ".txt")
        name = self._listed[folder].find(stem_of(image))
        return None if name is None else join_path(folder, name)

    def _of_told(self, told: str) -> str | None:
        head, found, tail = told.replace("\\", "/").rpartition("/images/")
        for name in [f"{head}/labels/{tail}"] * bool(found) + [told]:
            for end in ends_of(name):
                label = self._find(end.rpartition("/")[0], end)
                if label is not None:
                    return label
        return None

    def unused(self, used: Iterable[str]) -> list[str]:
        """The label files, of those in the folders asked for, that are not among `used`."""
        every = {
            join_path(folder, name)
            for folder, files in self._listed.items()
            for name in files.names
            if name.lower() not in _NOT_LABELS
        }
        return sorted(name for name in every.difference(used) if is_label(self._root / name))


def label_folder(root: Path, images: str) -> str:
    """Where the label files of a folder of images lie."""
    head, found, tail = f"/{images.lower()}/".rpartition("/images/")
    options = [f"{head}/labels/{tail}"] if found else []
    parent, _, last = images.rpartition("/")
    options += [f"labels/{last}", join_path(parent, "labels")]
    return next(find_folders(root, options), images)


def labels_anywhere(root: Path) -> list[str]:
    """The label files in `root` and in the folders in it, two deep."""
    folders = [".", *list_folders(root)]
    folders += [
        f"{folder}/{name}" for folder in folders[1:] for name in list_folders(root / folder)
    ]
    return [
        join_path(folder, name)
        for folder in folders
        if first_label(root / folder)
        for name in _label_names(root / folder)
    ]


def first_label(folder: Path) -> bool:
    """Whether the first few label files in `folder` that hold anything are YOLO's."""
    return any(is_label(folder / name) for name in filled_files(folder, _label_names(folder)))


def _label_names(folder: Path) -> list[str]:
    return [name for name in list_files(folder, ".txt") if name.lower() not in _NOT_LABELS]


def is_label(path: Path) -> bool:
    """Whether a text file begins as a label file does."""
    first = read_head(path).lstrip().partition("\n")[0]
    return _LABEL_LINE.fullmatch(first) is not None


def class_names(root: Path, places: Places) -> list[str]:
    """Class names in order, [] where no file tells them. Raises DataError where files disagree."""
    sources = {}
    names = places.settings.get("names")
    if isinstance(names, dict | list):
        sources[places.file] = _names_in_settings(names, root / places.file)
    elif isinstance(names, str):
        options = (confine(names), *ends_of(names))
        file = next((each for each in options if each and (root / each).is_file()), None)
        sources |= {file: _names_in_file(root / file)} if file else {}
    for folder in _folders_of(root, places):
        for name in list_files(root / folder, *_NAME_FILES):
            if name.lower() in _NAME_FILES:
                file = join_path(folder, name)
                sources.setdefault(file, _names_in_file(root / file))
    if not any(sources.values()):
        sources |= {name: _names_in_file(root / name) for name in list_files(root, ".names")}
    return _agreed(root, {file: told for file, told in sources.items() if told})


def _folders_of(root: Path, places: Places) -> list[str]:
    """The root, the folders of images and of labels, and all between."""
    folders = {
        image.rpartition("/")[0]: None for group in places.groups.values() for image in group
    }
    found = ["."]
    for folder in folders:
        for inner in (folder, label_folder(root, folder or ".")):
            parts = inner.split("/")
            found += ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return list(dict.fromkeys(each or "." for each in found))


def _agreed(root: Path, sources: Mapping[str, list[str]]) -> list[str]:
    """The longest of the lists of names, of which all others must be the beginning."""
    if not sources:
        return []
    most = max(sources, key=lambda file: len(sources[file]))
    for file, names in sources.items():
        for number, (one, other) in enumerate(zip(sources[most], names, strict=False)):
            if one != other:
                told = f"class {number} is `{one}` in {most}, `{other}` in {file}"
                raise DataError(
                    f"two files name the classes otherwise: {told}",
                    where=root,
                    hint="correct or remove the one that is wrong",
                )
    return sources[most]


def _names_in_file(path: Path) -> list[str]:
    """The names in a file, a line each, or of Label Studio's notes.json; [] where it has others."""
    if path.suffix.lower() == ".json":
        return _names_in_notes(path)
    lines = read_lines(path)
    is_other = bool(lines) and (_LABEL_LINE.fullmatch(lines[0]) is not None or _is_list(path))
    return [] if is_other else lines


def _names_in_notes(path: Path) -> list[str]:
    try:
        rows = json.loads(read_text(path))["categories"]
        return _in_places({int(row["id"]): str(row["name"]).strip() for row in rows}, path)
    except (ValueError, KeyError, TypeError, RecursionError):  # another's notes
        return []


def _names_in_settings(names: Mapping[str, Any] | Sequence[Any], path: Path) -> list[str]:
    """The names in a list, or in a map from their numbers. Raises DataError."""
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    numbered = {}
    for number, name in pairs:
        if not isinstance(name, str):
            raise DataError(f"class {number} is not text", where=path)
        try:
            numbered[int(number)] = name.strip()
        except ValueError:
            raise DataError("`names` maps something that is no number", where=path) from None
    return _in_places(numbered, path)


def _in_places(numbers: Mapping[int, str], path: Path) -> list[str]:
    """Names by their numbers; a number that is left out is its own name."""
    last = max(numbers, default=-1)
    if min(numbers, default=0) < 0 or last >= 2 * len(numbers) + 1000:
        raise DataError("`names` has a class number out of range", where=path)
    return [numbers.get(number, str(number)) for number in range(last + 1)]


def keypoint_columns(places: Places) -> int | None:
    """How many columns of a row are keypoints, K × D of `kpt_shape`; None where it is not told."""
    told = places.settings.get("kpt_shape")
    if told is None:
        return None
    whole = isinstance(told, list) and all(isinstance(n, str) and n.isdecimal() for n in told)
    if not whole or len(told) != 2 or int(told[1]) not in (2, 3) or len(told[0]) > 4:
        what = "`kpt_shape` is not a number of keypoints and 2 or 3, such as [17, 3]"
        raise DataError(what, where=places.file)
    return int(told[0]) * int(told[1])


def lost(root: Path) -> DataError | None:
    """The error of labels that all go without an image; None where there are none."""
    found = labels_anywhere(root)
    if not found:
        return None
    what = (
        f"{counted(len(found), 'file of labels')}, such as {found[0]}, and none goes with an image"
    )
    hint = "a label file is called as its image: labels/a.txt for images/a.jpg"
    return DataError(what, where=root, hint=hint)
