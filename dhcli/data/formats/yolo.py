"""YOLO: one text file per image, one line per box: `class x y width height [score]`, in fractions.

Lines of YOLO-seg (`class x1 y1 x2 y2 …`) become the boxes around their polygons. Of YOLO-pose, told
by `kpt_shape: [K, D]` in data.yaml, the K × D columns behind the box are left out; without it an
even count of 6 or more numbers is a polygon, and an odd one, as of 17 × 3, an error. Where all such
lines have one length, not that of four corners, and begin with a box that the other points fill (or
have a 0, 1 or 2 at every third place, or a score and the track 1), both may be meant: an error that
asks for `kpt_shape`, `[0, 2]` for polygons.

A missing label file is an image without objects; files that go with no image, and images and
folders beside those read, are named, and not one label file with an image is an error. Labels lie
in `labels/` where the images lie in `images/`, or beside `JPEGImages`, or in a folder of any name;
or with the images, as do those of images that have none there.

`data.yaml` names classes (a list or a map) and splits (folders or lists, within the dataset), and
so does darknet's `obj.data`. Without them lists called as splits (`train.txt`,
`ImageSets/Main/val.txt`) tell the splits, else folders called so. Of a path in a list the longest
end counts that is there, for images and labels, else an image of the same stem. Names of classes
are looked for in `classes.txt`, `obj.names`, `_darknet.labels`, `labels.txt`, `names.txt` and Label
Studio's `notes.json`, in the root and beside images and labels, else in another `*.names`; all that
are there, and `nc`, must agree. Where each line begins with its own number, `0: cat`, that is no
part of the name. A number that no file names is not a class.

Classes: in the file's order. Regions to ignore and marks (difficult, truncated, occluded) have no
place in the format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from dhcli.data.formats.columns import Columns
from dhcli.data.formats.corners import notes_on_corners
from dhcli.data.formats.layouts import FilePerImage, Format
from dhcli.data.formats.locate import missing_sizes
from dhcli.data.formats.placing import LEFT_OUT, Holds, Placing, writing
from dhcli.data.formats.yolo_images import (
    OTHER_KEYS,
    Groups,
    Images,
    Labels,
    find_images,
    first_labels,
    folders_beside,
    has_labels,
    image_folders,
    is_label,
    label_folder,
)
from dhcli.data.formats.yolo_names import Names, class_names
from dhcli.data.formats.yolo_rows import BEYOND, Polygons, read_labels, require_polygons
from dhcli.data.formats.yolo_settings import (
    SETTINGS,
    Settings,
    find_settings,
    keypoint_columns,
    read_settings,
)
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    confine,
    find_folders,
    join_path,
    list_images,
    split_name,
    stem_of,
)
from dhcli.data.io.progress import track
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
    split_names="any",
)

_FROM_JSON = bytes.maketrans(b",", b" ")
_ENCODER = msgspec.json.Encoder()
_BLOCK = 1024
"""Images whose label files are made at a time."""


class _Part(NamedTuple):
    """What data.yaml says, the images, and whether these are a dataset, or of one label file."""

    settings: Settings
    images: Images
    is_whole: bool = True


def _is_yolo(path: Path) -> bool:
    if path.suffix.lower() in SETTINGS:
        return "names" in read_settings(path).told
    return path.suffix.lower() == ".txt" and is_label(path)


def _is_folder(path: Path) -> bool:
    if find_settings(path) is not None:
        return True
    folders = {label_folder(path, images) for images in image_folders(path)}
    return any(has_labels(path / folder) for folder in folders)


def read_yolo(root: Path, parts: list[_Part]) -> DetectionTable:
    """Read the label files of images.

    Raises DataError with the file and line of what cannot be read, where settings name no image, or
    no label file goes with one.
    """
    (part,) = parts
    _require_images(root, part)
    keypoints = keypoint_columns(root, part.settings)
    columns, labels = Columns(root), Labels(root, part.images.told)
    polygons: Polygons = Counter()
    columns.notes += part.images.notes
    for file in track(part.images.files(), "annotation files read"):
        label_file = labels.of_image(file)
        columns.add_image(file, annotation=label_file or "")
        if label_file is not None:
            read_labels(f"{root}/{label_file}", columns, keypoints, polygons)
    if "kpt_shape" not in part.settings.told:
        require_polygons(polygons, root)
    columns.left_out["file of settings beside that read: left out"] += part.settings.beside
    if part.is_whole:
        _tell_left_out(root, columns, labels)
    folders = {file.rpartition("/")[0] or "." for file in (*columns.files, *columns.annotations)}
    names = class_names(root, part.settings, folders)
    return _finish(root, columns, names, part.images.groups)


def _require_images(root: Path, part: _Part) -> None:
    """Raise DataError where there are settings, and of what they name no image is there."""
    name, path = part.settings.name, str(part.settings.told.get("path") or ".")
    if not name or part.images.files():
        return
    what, inside = "names no images within its folder", confine(path)
    hint = "put it beside the folders and lists that it names"
    if inside is None:
        what = f"{what}; `path: {path}` leads out of it"
        hint = f"move {name} into `{path}`, without `path`, and give that folder"
    elif not (root / inside).is_dir():
        what = f"{what}; `path: {path}` is not there"
    raise DataError(what, where=root / name, hint=hint)


def _tell_left_out(root: Path, columns: Columns, labels: Labels) -> None:
    """Name what is not read beside what is. Raises DataError where that is every label file."""
    read, folders = set(columns.files), {file.rpartition("/")[0] for file in columns.files}
    folders |= image_folders(root).keys() | ({""} if has_labels(root) else set())
    beside = (join_path(f, name) for f in sorted(folders) for name in list_images(root / f))
    others = [file for file in beside if file not in read]
    of_others = [name for file in others if (name := labels.of_image(file))]
    unused = labels.unused([*columns.annotations, *of_others])
    left_out = columns.left_out
    left_out["image that no split names: left out"] += others
    left_out["folder of images beside those read: left out"] += folders_beside(root, folders)
    left_out["file of labels without image: left out"] += unused
    left_out["folder of another name taken for that of labels"] += _unusual(columns)
    used = Counter(filter(None, columns.annotations))
    shared = "file of labels that goes with several images: read for each"
    left_out[shared] += [name for name, count in used.items() if count > 1]
    if not columns.labels and not columns.remarks:
        strays = unused or [f"some in `{f}`" for f in [first_labels(root)] if f]
        _require_labels(root, columns, strays)


def _unusual(columns: Columns) -> list[str]:
    """The folders of label files that are not called so, and where no images lie."""
    images, labels = (
        {file.rpartition("/")[0] for file in files}
        for files in (columns.files, filter(None, columns.annotations))
    )
    return sorted(f for f in labels - images if "labels" not in f.lower().split("/"))


def _require_labels(root: Path, columns: Columns, strays: Sequence[str]) -> None:
    """Raise DataError where there are label files, and not one goes with an image."""
    if strays:
        what = f"no label file goes with {counted(len(columns.files), 'image')}"
        hint = "label files are named like their images, with .txt, in `labels` or beside them"
        raise DataError(f"{what}; there are {', '.join(strays[:3])}", where=root, hint=hint)


def _parts(root: Path) -> list[_Part]:
    settings = find_settings(root) or Settings()
    return [_Part(settings, find_images(root, settings))]


def _around(path: Path) -> tuple[Path, list[_Part]]:
    """What data.yaml or one label file stands for."""
    if path.suffix.lower() in SETTINGS:
        settings = read_settings(path)
        return path.parent, [_Part(settings, find_images(path.parent, settings))]
    root = path.parent.parent if path.parent.name == "labels" else path.parent
    for folder in find_folders(root, IMAGE_FOLDERS):
        name = FilesByStem(root / folder, *IMAGE_SUFFIXES).find(path.stem)
        if name is not None:
            images = Images({"": [join_path(folder, name)]})
            return root, [_Part(Settings(), images, is_whole=False)]
    raise DataError("has no image of the same name beside it", where=path)


def _finish(root: Path, columns: Columns, names: Names, groups: Groups) -> DetectionTable:
    classes, labels = _classes_of(columns, names)
    told = np.array(columns.boxes, np.float64).reshape(-1, 4)
    _require_fractions(root, columns, told)
    sizes = columns.sizes()
    columns.notes += missing_sizes(sizes, columns.image_of_box(), root)
    centre, extent = np.hsplit(told, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        fractions = np.hstack([centre - extent / 2, centre + extent / 2])
        columns.notes += notes_on_corners(told, fractions, np.ones_like(centre))
        boxes = tidy(fractions * np.tile(sizes, 2)[columns.image_of_box()])
    number = {file: index for index, file in enumerate(columns.files)}
    splits = {
        split: np.array(list(dict.fromkeys(number[file] for file in files)), np.int64)
        for split, files in groups.items()
        if split
    }
    return columns.table(classes, boxes=boxes, labels=labels, sizes=sizes, splits=splits)


def _classes_of(columns: Columns, names: Names) -> tuple[list[str], NDArray[np.int32]]:
    """The classes that are named, and (M,) the label of each box among them.

    ANY_CLASS for a number that has no name. Where none has, the numbers that boxes have are names.
    """
    told = np.array(columns.labels, np.int32)
    if not names:
        columns.notes.append("no file names the classes: their numbers are used")
        names = {number: str(number) for number in np.unique(told).tolist()}
    known = np.array(sorted(names), np.int32)
    labels = np.searchsorted(known, told).astype(np.int32)
    strange = np.append(known, -1)[labels] != told
    labels[strange] = ANY_CLASS
    beyond = told > max(names, default=-1)
    listed = counted(len(names), "name")
    columns.counts[f"box of a class number beyond the {listed}"] += int(np.sum(beyond))
    columns.counts["box of a class number that has no name"] += int(np.sum(strange & ~beyond))
    if beyond.any() and told.min() == 1 and told.max() == len(names) > 1:
        columns.notes.append("no box has the class number 0: if they count from 1, they are wrong")
    return [names[number] for number in known.tolist()], labels


def _require_fractions(root: Path, columns: Columns, boxes: NDArray[np.float64]) -> None:
    """Raise DataError where most `boxes` (M, 4), centre, width and height, are no fractions."""
    beyond = np.asarray(boxes.max(axis=1, initial=-np.inf) >= BEYOND)
    if 2 * np.sum(beyond) <= len(boxes):
        return
    row = int(np.argmax(beyond))
    x, y, width, height = boxes[row].tolist()
    annotation = columns.annotations[int(columns.image_of_box()[row])]
    raise DataError(
        f"is in pixels, not fractions: centre {x:g}, {y:g}, size {width:g} × {height:g}",
        where=f"{root / annotation}:{columns.lines[row]}",
        hint="divide x and width by the width of the image, y and height by its height",
    )


def write_yolo(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/, labels/ and data.yaml.

    Splits that share no image and cover all are folders; others are lists of images. data.yaml has
    no `path`: Ultralytics takes its own folder then, but a relative one from where it is started.
    Raises DataError for a split that is called as another entry of data.yaml.
    """
    for split in OTHER_KEYS.intersection(table.splits):
        raise DataError(f"a split cannot be called `{split}`, as an entry of data.yaml is")
    folders = _folders_of(table)
    placing.place([f"images{folder}" for folder in folders])
    names = writing(placing.names)
    for folder, name, text in zip(folders, names, label_files(table), strict=True):
        placing.write(f"labels{folder}/{stem_of(name)}.txt", text)
    settings: dict[str, Any] = {}
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
