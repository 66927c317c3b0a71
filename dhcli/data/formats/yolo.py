"""YOLO: a text file an image, a line a box: `class x y width height [score]`, in fractions.

Lines of YOLO-seg (`class x1 y1 x2 y2 …`) become the boxes around their polygons. A missing label
file is an image without objects. Labels lie in `labels/` where the images lie in `images/`, or
beside `JPEGImages`, or with the images. `data.yaml` names classes (a list or a map) and splits
(folders or lists, within the dataset), and so does darknet's `obj.data`; without them
`classes.txt`, `obj.names` or `*.names` names the classes, and folders called train, val or test are
the splits.

Classes: in the file's order. Regions to ignore and marks (difficult, truncated, occluded) have no
place in the format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from dhcli.data.formats.columns import Columns
from dhcli.data.formats.layouts import FilePerImage, Format
from dhcli.data.formats.locate import ImagesBelow
from dhcli.data.formats.placing import LEFT_OUT, Holds, Placing, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    confine,
    decode,
    find_folders,
    first_folder,
    has_file,
    join_path,
    list_files,
    list_images,
    read_bytes,
    read_lines,
    read_text,
    split_folders,
    split_name,
    stem_of,
)
from dhcli.data.io.progress import track
from dhcli.data.io.text_rows import numbers_of
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag
from dhcli.errors import DataError
from dhcli.ops.arrays import tidy
from dhcli.words import counted

HOLDS = Holds(
    "fractions of the image: centre, width, height",
    marks=Flag(0),
    regions=LEFT_OUT,
    sizes=False,
    fractions=True,
)

_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels/classes.txt", "names")
_SPLIT_KEYS = ("train", "val", "valid", "test")
_DARKNET = ".data"
_SETTINGS = (".yaml", ".yml", _DARKNET)
_OTHER_KEYS = frozenset(("path", "names", "nc", "download"))
_NOT_LABELS = frozenset(("classes.txt", "names.txt", "readme.txt", "requirements.txt"))
_BRACKETS = re.compile(r"[\[\]{}]")
_LONGEST_YAML, _DEEPEST_YAML = 1 << 20, 100
_MOST_CLASSES = 1_000_000
_LABEL_LINE = re.compile(r"\s*\d+(\.0*)?(\s+[-+0-9.,eE]+){4,}\s*")

_Class = Annotated[int, msgspec.Meta(ge=0, lt=_MOST_CLASSES)]
_PLAIN = msgspec.json.Decoder(list[tuple[_Class, float, float, float, float]])
_TO_JSON = bytes.maketrans(b" \t,[]\r", b",,xxxx")
"""Makes JSON of a plain label file, and no JSON of one that has commas or brackets itself."""
_FROM_JSON = bytes.maketrans(b",", b" ")
_ENCODER = msgspec.json.Encoder()
_BLOCK = 1024
"""Images whose label files are made at a time."""

Groups = dict[str, list[str]]
"""Split ("" where there is none) → POSIX paths of its images from the root."""


class _Part(NamedTuple):
    """What data.yaml says, the images by split, notes on these, and whether a folder is read."""

    settings: Mapping[str, Any]
    groups: Groups
    notes: list[str]
    is_folder: bool


def _is_yolo(path: Path) -> bool:
    if path.suffix.lower() in _SETTINGS:
        return "names" in _read_settings(path)
    return path.suffix.lower() == ".txt" and _is_label(path)


def _is_folder(path: Path) -> bool:
    if _settings_of(path) is not None:
        return True
    folders = {_label_folder(path, images) for images in _image_folders(path)}
    return any(_first_label(path / folder) for folder in folders)


def read_yolo(root: Path, parts: list[_Part]) -> DetectionTable:
    """Read the label files of images.

    Raises DataError with the file and line of what cannot be read.
    """
    (part,) = parts
    names = _class_names(root, part.settings)
    columns = Columns(root)
    columns.notes += part.notes
    files = list(dict.fromkeys(file for group in part.groups.values() for file in group))
    labels = _Labels(root)
    for file in track(files, "annotation files read"):
        label_file = labels.of_image(file)
        columns.add_image(file, annotation=label_file or "")
        if label_file is not None:
            _read_labels(f"{root}/{label_file}", columns)
    unused = labels.unused(columns.annotations) if part.is_folder else 0
    columns.counts["file of labels without image: left out"] = unused
    return _finish(root, columns, names, part.groups)


def _parts(root: Path) -> list[_Part]:
    return [_part(root, _settings_of(root), is_folder=True)]


def _part(root: Path, settings_file: Path | None, *, is_folder: bool) -> _Part:
    """What a file of settings, if there is one, and the folders below `root` tell."""
    notes: list[str] = []
    settings = _read_settings(settings_file) if settings_file else {}
    groups = _groups_of_settings(root, settings, notes) if settings else {}
    return _Part(settings, groups or _groups_of_folders(root), notes, is_folder)


def _around(path: Path) -> tuple[Path, list[_Part]]:
    """What data.yaml or one label file stands for."""
    if path.suffix.lower() in _SETTINGS:
        return path.parent, [_part(path.parent, path, is_folder=False)]
    root = path.parent.parent if path.parent.name == "labels" else path.parent
    for folder in find_folders(root, IMAGE_FOLDERS):
        name = FilesByStem(root / folder, *IMAGE_SUFFIXES).find(path.stem)
        if name is not None:
            return root, [_Part({}, {"": [join_path(folder, name)]}, [], is_folder=False)]
    raise DataError("has no image of the same name beside it", where=path)


def _settings_of(root: Path) -> Path | None:
    """The file in `root` that names classes: data.yaml, or another that tells of splits."""
    found = list_files(root, *_SETTINGS)
    usual = [name for name in found if name.lower().startswith(("data.", "dataset."))]
    if usual:
        return root / usual[0]
    for name in found:
        try:
            settings = _read_settings(root / name)
        except DataError:  # not ours
            continue
        if "names" in settings and any(key in settings for key in _SPLIT_KEYS):
            return root / name
    return None


def _read_settings(path: Path) -> Mapping[str, Any]:
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
        found = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = getattr(error, "problem", None) or "cannot be read"
        raise DataError(f"is not YAML: {problem}", where=path) from None
    return found if isinstance(found, dict) else {}


def _groups_of_settings(root: Path, settings: Mapping[str, Any], notes: list[str]) -> Groups:
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
            elif key in _SPLIT_KEYS:
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
    images, below = [], ImagesBelow(root)
    for number, line in enumerate(read_text(root / place).splitlines(), 1):
        if not line.strip():
            continue
        options = [confine(line.strip(), folder), confine(line.strip())]
        there = next((option for option in options if option and (root / option).exists()), None)
        image = there or below.find(line.strip()) or options[1]
        if image is None:
            where = f"{root / place}:{number}"
            raise DataError(f"`{line.strip()[:80]}` is not within the dataset", where=where)
        images.append(image)
    return images


def _groups_of_folders(root: Path) -> Groups:
    """Images by split as folders are called: images/train, train/images, or all in one."""
    groups: Groups = {}
    for folder, split in _image_folders(root).items():
        found = (join_path(folder, name) for name in list_images(root / folder))
        groups.setdefault(split, []).extend(found)
    return groups


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


def _has_images(folder: Path) -> bool:
    return has_file(folder, *IMAGE_SUFFIXES)


class _Labels:
    """The label files of images, below `root`; each folder of them is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, str] = {}
        self._listed: dict[str, FilesByStem] = {}

    def of_image(self, image: str) -> str | None:
        """The label file of an image, None where it has none."""
        above = image.rpartition("/")[0]
        if above not in self._folders:
            folder = self._folders[above] = _label_folder(self._root, above or ".")
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
        return sum(_is_label(self._root / name) for name in every.difference(used))


def _label_folder(root: Path, images: str) -> str:
    """Where the label files of a folder of images lie."""
    head, found, tail = f"/{images.lower()}/".rpartition("/images/")
    options = [f"{head}/labels/{tail}"] if found else []
    parent, _, last = images.rpartition("/")
    options += [f"labels/{last}", join_path(parent, "labels")]
    return next(find_folders(root, options), images)


def _first_label(folder: Path) -> bool:
    """Whether the first few label files in `folder` are YOLO's."""
    names = [name for name in list_files(folder, ".txt") if name.lower() not in _NOT_LABELS]
    return any(_is_label(folder / name) for name in names[:20])


def _is_label(path: Path) -> bool:
    lines = read_lines(path)
    return bool(lines) and _LABEL_LINE.fullmatch(lines[0]) is not None


def _class_names(root: Path, settings: Mapping[str, Any]) -> list[str]:
    """Class names in order, [] where no file tells them."""
    names = settings.get("names")
    if isinstance(names, dict):
        return _names_of_map(names, root)
    if isinstance(names, list):
        return [str(name).strip() for name in names]
    files = [root / name for name in (*_NAME_FILES, *list_files(root, ".names"))]
    if isinstance(names, str) and (place := confine(names)):
        files.insert(0, root / place)
    return next((read_lines(file) for file in files if file.is_file()), [])


def _names_of_map(names: Mapping[str, Any], root: Path) -> list[str]:
    try:
        numbers = {int(number): str(name).strip() for number, name in names.items()}
    except ValueError:
        raise DataError("`names` maps something that is no number", where=root) from None
    last = max(numbers, default=-1)
    if min(numbers, default=0) < 0 or last >= 2 * len(numbers) + 1000:
        raise DataError("`names` has a class number out of range", where=root)
    return [numbers.get(number, str(number)) for number in range(last + 1)]


def _read_labels(path: str, columns: Columns) -> None:
    """Add the boxes of one label file: centre, width and height, in fractions."""
    data = read_bytes(path)
    rows = _plain_rows(data)
    if rows is None:
        return _read_carefully(data, Path(path), columns)
    boxes = list(chain.from_iterable(rows))
    del boxes[::5]
    columns.add_boxes([row[0] for row in rows], boxes, range(1, len(rows) + 1))
    return None


def _plain_rows(data: bytes) -> list[tuple[int, float, float, float, float]] | None:
    """The lines of a label file that has five columns throughout; None for any other.

    Read as JSON, which takes a seventh of Python's time for numbers.
    """
    text = data.replace(b"\r\n", b"\n").rstrip()
    if not text:
        return []
    try:
        return _PLAIN.decode(b"[[%b]]" % text.translate(_TO_JSON).replace(b"\n", b"],["))
    except msgspec.DecodeError:
        return None


def _read_carefully(data: bytes, path: Path, columns: Columns) -> None:
    """Add the boxes of one label file, line by line."""
    for line, row in enumerate(decode(data).splitlines(), 1):
        if not row.strip():
            continue
        try:
            label, box, score = _parse(row, f"{path}:{line}")
        except DataError as error:
            columns.refuse_row(error, len(columns.files) - 1)
            continue
        columns.add_box(label, box, 0, line)
        if score is not None:
            columns.scores.append(score)


def _hull(xs: list[float], ys: list[float]) -> list[float]:
    """Centre, width and height of the box around points."""
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    return [x1 / 2 + x2 / 2, y1 / 2 + y2 / 2, x2 - x1, y2 - y1]


def _parse(row: str, where: str) -> tuple[int, list[float], float | None]:
    """Class, box (centre, width, height) and score of a row. Raises DataError."""
    label, values = _numbers(row, where)
    if len(values) in (4, 5):
        return label, values[:4], next(iter(values[4:]), None)
    if len(values) >= 6 and len(values) % 2 == 0:
        return label, _hull(values[::2], values[1::2]), None
    what = f"expected 5 columns, 6 with a score, or a polygon; found {len(values) + 1}"
    raise DataError(what, where=where)


def _numbers(row: str, where: str) -> tuple[int, list[float]]:
    """Class and further numbers of a row. Raises DataError."""
    fields = row.split()
    try:
        label, *values = map(float, fields)
    except ValueError:
        label, *values = numbers_of(fields, where)  # with decimal commas, perhaps
    if not (label.is_integer() and 0 <= label < _MOST_CLASSES):
        what = f"expected a class number first, found `{fields[0][:40]}`"
        raise DataError(what, where=where, hint="classes count from 0")
    return int(label), values


def _finish(root: Path, columns: Columns, names: list[str], groups: Groups) -> DetectionTable:
    labels = np.array(columns.labels, np.int32)
    if not names:
        count = int(labels.max(initial=-1)) + 1
        names = [str(number) for number in range(count)]
        columns.notes.append("no file names the classes: they are called by their numbers")
    elif (strange := int(np.sum(labels >= len(names)))) > 0:
        known = counted(len(names), "name")
        columns.notes.append(counted(strange, f"box of a class number beyond the {known}"))
        labels[labels >= len(names)] = ANY_CLASS
    _check_distinct(names, root)
    sizes = columns.sizes()
    centre, extent = np.hsplit(np.array(columns.boxes, np.float64).reshape(-1, 4), 2)
    with np.errstate(over="ignore", invalid="ignore"):
        fractions = np.hstack([centre - extent / 2, centre + extent / 2])
        boxes = tidy(fractions * np.tile(sizes, 2)[columns.image_of_box()])
    number = {file: index for index, file in enumerate(columns.files)}
    splits = {
        split: np.array(list(dict.fromkeys(number[file] for file in files)), np.int64)
        for split, files in groups.items()
        if split
    }
    return columns.table(names, boxes=boxes, labels=labels, sizes=sizes, splits=splits)


def _check_distinct(names: list[str], root: Path) -> None:
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise DataError(f"two classes are called `{twice}`", where=root)


def write_yolo(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/, labels/ and data.yaml.

    Splits that share no image and cover all are folders; others are lists of images.
    """
    folders = _folders_of(table)
    placing.place([f"images{folder}" for folder in folders])
    names = writing(placing.names)
    for folder, name, text in zip(folders, names, label_files(table), strict=True):
        placing.write(f"labels{folder}/{stem_of(name)}.txt", text)
    settings: dict[str, Any] = {"path": "."}
    as_folders = any(folders)
    for split, images in table.splits.items():
        settings[split] = f"images/{split}" if as_folders else f"{split}.txt"
        if not as_folders:
            lines = "".join(f"./images/{placing.names[image]}\n" for image in images.tolist())
            placing.write(f"{split}.txt", lines)
    unlisted = len(table) - len(np.unique(np.concatenate([[], *table.splits.values()])))
    if table.splits and unlisted:
        placing.lost.append(counted(unlisted, "image in no split: in no list"))
    settings["names"] = dict(enumerate(table.classes))
    placing.write("data.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _folders_of(table: DetectionTable) -> list[str]:
    """For each image "/" and its split, or "" for all where splits overlap or leave some out."""
    listed: NDArray[np.int64] = np.concatenate([np.zeros(0, np.int64), *table.splits.values()])
    folders = [""] * len(table)
    known = all(split_name(split) == split for split in table.splits)
    if len(table) and known and np.array_equal(np.sort(listed), np.arange(len(table))):
        for split, images in table.splits.items():
            for image in images.tolist():
                folders[image] = f"/{split}"
    return folders


def label_files(table: DetectionTable) -> Iterator[bytes]:
    """The text of each image's label file: five columns, or six where the table has scores."""
    kept = np.flatnonzero(~table.regions())
    images = table.image_of_box[kept]
    values = fractions_of(table.boxes[kept], np.maximum(table.sizes, 1)[images])
    if table.scores is not None:
        values = np.column_stack([values, table.scores[kept]])
    values = np.nan_to_num(tidy(values, 15))  # a box of 1e308 pixels may have an infinite side
    ends = np.searchsorted(images, np.arange(len(table) + 1))
    for start in range(0, len(table), _BLOCK):
        block = ends[start : start + _BLOCK + 1]
        rows = slice(block[0], block[-1])
        yield from _cut(_lines(table.labels[kept[rows]], values[rows]), block - block[0])


def _lines(labels: NDArray[np.int32], values: NDArray[np.float64]) -> bytes:
    """A line a box: its class and its numbers, each the shortest text that reads back as it is.

    Written as JSON, in a fifth of Python's time for numbers.
    """
    rows = zip(labels.tolist(), *values.T.tolist(), strict=True)
    return _ENCODER.encode_lines(rows).translate(_FROM_JSON, b"[]")


def _cut(text: bytes, counts: NDArray[np.int64]) -> Iterator[bytes]:
    """The pieces of `text` between so many lines and so many."""
    letters = np.frombuffer(text, np.uint8)
    stops = np.append(0, np.flatnonzero(letters == ord("\n")) + 1)
    return (text[start:stop] for start, stop in pairwise(stops[counts].tolist()))


def fractions_of(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> NDArray[np.float64]:
    """(M, 4) centre, width and height of `boxes` (M, 4), in fractions of images of `sizes`.

    Those are (M, 2) or (2,) width, height in pixels.
    """
    first, last = boxes[:, :2], boxes[:, 2:]
    with np.errstate(over="ignore"):
        return np.hstack([(first + last) / 2 / sizes, (last - first) / sizes])


def prediction_row(label: int, values: Sequence[float], score: float) -> str:
    """A line of a file of predictions; `values` as `fractions_of` gives them."""
    return f"{label} {' '.join(f'{value:.6f}' for value in values)} {score:.6f}\n"


LAYOUT = FilePerImage(
    "data.yaml, obj.data, or labels/*.txt beside images/", _is_yolo, _parts, _around, _is_folder
)
FORMAT = Format("YOLO", LAYOUT, read_yolo, write_yolo, HOLDS)
