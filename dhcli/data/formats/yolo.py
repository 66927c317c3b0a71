"""YOLO: a text file an image, a line a box: `class x y width height [score]`, in fractions.

Lines of YOLO-seg (`class x1 y1 x2 y2 …`) become the boxes around their polygons. Lines of YOLO-pose
are boxes with keypoints behind them, which are left out: `kpt_shape: [K, D]` in data.yaml tells how
many. Without it an even count of numbers is a polygon, unless all lines are of one length (other
than that of four corners) and begin with a box that the other points fill, or have a 0, 1 or 2 at
every third place: that is an error that asks for `kpt_shape` (`[0, 2]` says polygons).

A missing label file is an image without objects. Labels lie in `labels/` where the images lie in
`images/`, or beside `JPEGImages`, or with the images. `data.yaml` names classes (a list or a map)
and splits (folders or lists, within the dataset), and so does darknet's `obj.data`; without them
lists called `train.txt`, `val.txt` and `test.txt`, or folders called so, are the splits. An image
that is not there as a list calls it is looked for by the longest end of its path, and so is its
label file.

Classes: in the order of data.yaml, `classes.txt`, `obj.names`, `_darknet.labels`, `names.txt`,
`labels.txt`, `notes.json` (Label Studio's) or `*.names`, in the dataset's folder, that of the
images, that of the labels or above; where several are there they must agree. Regions to ignore and
marks (difficult, truncated, occluded) have no place in the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from dhcli.data.formats.columns import Columns
from dhcli.data.formats.layouts import FilePerImage, Format
from dhcli.data.formats.placing import LEFT_OUT, Holds, Placing, writing
from dhcli.data.formats.yolo_places import (
    SETTINGS,
    Labels,
    Places,
    class_names,
    find_places,
    first_label,
    image_folders,
    is_label,
    keypoint_columns,
    label_folder,
    lost,
    read_settings,
    settings_of,
)
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    decode,
    find_folders,
    join_path,
    read_bytes,
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

_MOST_CLASSES = 1_000_000
_CORNERS = 8
"""Numbers of an oriented box."""
_SLACK, _FILLED = 0.01, 0.3
"""What keypoints may lie outside their box by, and the share of its sides that they reach over."""

_Class = Annotated[int, msgspec.Meta(ge=0, lt=_MOST_CLASSES)]
_PLAIN = msgspec.json.Decoder(list[tuple[_Class, float, float, float, float]])
_TO_JSON = bytes.maketrans(b" \t,[]\r", b",,xxxx")
"""Makes JSON of a plain label file, and no JSON of one that has commas or brackets itself."""
_FROM_JSON = bytes.maketrans(b",", b" ")
_ENCODER = msgspec.json.Encoder()
_BLOCK = 1024
"""Images whose label files are made at a time."""


def _is_yolo(path: Path) -> bool:
    if path.suffix.lower() in SETTINGS:
        return "names" in read_settings(path)
    return path.suffix.lower() == ".txt" and is_label(path)


def _is_folder(path: Path) -> bool:
    if settings_of(path) is not None:
        return True
    folders = {label_folder(path, images) for images in image_folders(path)}
    return any(first_label(path / folder) for folder in folders)


def _parts(root: Path) -> list[Places]:
    return [find_places(root, settings_of(root), is_folder=True)]


def _around(path: Path) -> tuple[Path, list[Places]]:
    """What data.yaml or one label file stands for."""
    if path.suffix.lower() in SETTINGS:
        return path.parent, [find_places(path.parent, path, is_folder=False)]
    root = path.parent.parent if path.parent.name == "labels" else path.parent
    for folder in find_folders(root, IMAGE_FOLDERS):
        name = FilesByStem(root / folder, *IMAGE_SUFFIXES).find(path.stem)
        if name is not None:
            groups = {"": [join_path(folder, name)]}
            return root, [Places(groups=groups, is_folder=False)]
    raise DataError("has no image of the same name beside it", where=path)


def read_yolo(root: Path, parts: list[Places]) -> DetectionTable:
    """Read the label files of images.

    Raises DataError where not one line can be read, where files of class names disagree, and where
    there are label files and not one of an image.
    """
    (places,) = parts
    names = class_names(root, places)
    columns = Columns(root)
    columns.notes += places.notes
    columns.left_out.update(places.left_out)
    rows = _Rows(columns, keypoint_columns(places))
    files = list(dict.fromkeys(file for group in places.groups.values() for file in group))
    labels = Labels(root)
    for file in track(files, "annotation files read"):
        label_file = labels.of_image(file, places.told.get(file))
        columns.add_image(file, annotation=label_file or "")
        if label_file is not None:
            rows.read(f"{root}/{label_file}")
    if places.is_folder:
        unused = labels.unused(columns.annotations)
        columns.left_out["file of labels without image: left out"] += unused
        if files and not any(columns.annotations) and (error := lost(root)):
            raise error
    rows.require_polygons(root)
    return _finish(root, columns, names, places)


class _Rows:
    """Puts the lines of label files into columns; `keypoints` is how many numbers these are."""

    def __init__(self, columns: Columns, keypoints: int | None) -> None:
        self._columns, self._keypoints = columns, keypoints
        self._polygons, self._poses = 0, 0
        self._lengths: set[int] = set()

    def read(self, path: str) -> None:
        """Add the boxes of one label file: centre, width and height, in fractions."""
        data = read_bytes(path)
        rows = _plain_rows(data)
        if rows is None:
            return self._read_carefully(data, path)
        boxes = list(chain.from_iterable(rows))
        del boxes[::5]
        self._columns.add_boxes([row[0] for row in rows], boxes, range(1, len(rows) + 1))
        return None

    def require_polygons(self, root: Path) -> None:
        """Raise DataError where what was read as polygons may as well be boxes with keypoints."""
        one_length = len(self._lengths) == 1 and _CORNERS not in self._lengths
        if self._polygons and self._polygons == self._poses and one_length:
            count = next(iter(self._lengths)) + 1
            what = f"lines of {count} columns may be polygons, or boxes with keypoints"
            hint = (
                "data.yaml tells: `kpt_shape: [K, D]`, K keypoints of D numbers; [0, 2]: polygons"
            )
            raise DataError(what, where=root, hint=hint)

    def _read_carefully(self, data: bytes, path: str) -> None:
        """Add the boxes of one label file, line by line."""
        for line, row in enumerate(decode(data).splitlines(), 1):
            if not row.strip():
                continue
            try:
                label, box, score = self._parse(row, f"{path}:{line}")
            except DataError as error:
                self._columns.refuse_row(error, len(self._columns.files) - 1)
                continue
            self._columns.add_box(label, box, 0, line)
            if score is not None:
                self._columns.scores.append(score)

    def _parse(self, row: str, where: str) -> tuple[int, list[float], float | None]:
        """Class, box (centre, width, height) and score of a row. Raises DataError."""
        label, values = _numbers(row, where)
        count, keypoints = len(values), self._keypoints
        if keypoints and count in (4 + keypoints, 5 + keypoints):
            del values[4 : 4 + keypoints]
        if len(values) in (4, 5):
            return label, values[:4], next(iter(values[4:]), None)
        if keypoints:
            what = f"expected 5 columns and {keypoints} of keypoints (kpt_shape)"
            raise DataError(f"{what}, found {count + 1}", where=where)
        if count >= 6 and count % 2 == 0:
            self._polygons += 1
            self._lengths.add(count)
            self._poses += keypoints is None and _may_be_pose(values)
            return label, _hull(values[::2], values[1::2]), None
        what = f"expected 5 columns, 6 with a score, or a polygon; found {count + 1}"
        more = " (of keypoints `kpt_shape` in data.yaml tells)" if count > 5 else ""
        raise DataError(what + more, where=where)


def _may_be_pose(values: Sequence[float]) -> bool:
    """Whether numbers begin with a box that the points behind it fill, or have marks of keypoints.

    Those are 0, 1 or 2, the third number of each. Points fill a box where they lie within it, on
    both sides of its centre, and reach over a part of both its sides.
    """
    x, y, width, height, *rest = values
    if len(rest) % 3 == 0 and all(mark in (0, 1, 2) for mark in rest[2::3]):
        return True
    return _fill(rest[::2], x, width) and _fill(rest[1::2], y, height)


def _fill(points: Sequence[float], centre: float, side: float) -> bool:
    first, last = centre - side / 2 - _SLACK, centre + side / 2 + _SLACK
    low, high = min(points), max(points)
    within = first + _SLACK >= -_SLACK and last <= 1 + 2 * _SLACK and first <= low and high <= last
    return within and low < centre < high and high - low >= _FILLED * side > 0


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


def _hull(xs: list[float], ys: list[float]) -> list[float]:
    """Centre, width and height of the box around points."""
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    return [x1 / 2 + x2 / 2, y1 / 2 + y2 / 2, x2 - x1, y2 - y1]


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


def _finish(root: Path, columns: Columns, names: list[str], places: Places) -> DetectionTable:
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
    rows = np.array(columns.boxes, np.float64).reshape(-1, 4)
    _require_fractions(root, columns, rows)
    _require_images(root, columns, sizes)
    centre, extent = np.hsplit(rows, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        fractions = np.hstack([centre - extent / 2, centre + extent / 2])
        boxes = tidy(fractions * np.tile(sizes, 2)[columns.image_of_box()])
    number = {file: index for index, file in enumerate(columns.files)}
    splits = {
        split: np.array(list(dict.fromkeys(number[file] for file in files)), np.int64)
        for split, files in places.groups.items()
        if split
    }
    return columns.table(names, boxes=boxes, labels=labels, sizes=sizes, splits=splits)


def _require_fractions(root: Path, columns: Columns, rows: NDArray[np.float64]) -> None:
    """Raise DataError where every box is told in pixels: all are beyond 1 in x and in y."""
    beyond = (rows[:, :2] > 1) | (rows[:, 2:] > 1)
    if len(rows) and beyond.all() and (rows.max(axis=1) > 2).all() and np.isfinite(rows).all():
        file, line = columns.annotations[int(columns.image_of_box()[0])], columns.lines[0]
        numbers = " ".join(f"{value:g}" for value in rows[0].tolist())
        raise DataError(
            f"`{numbers}` is in pixels, not fractions of the image, and so are all boxes",
            where=f"{root / file}:{line}",
            hint="YOLO's are divided by the image's width and height: centre, width, height",
        )


def _require_images(root: Path, columns: Columns, sizes: NDArray[np.int32]) -> None:
    """Raise DataError where there are boxes, and not one of the images that they lie in."""
    told = np.unique(columns.image_of_box()).tolist()
    if sizes[told].any() or any((root / columns.files[image]).exists() for image in told):
        return
    if told:
        name = columns.files[told[0]]
        raise DataError(
            f"tells of boxes in fractions, and none of its images is there, such as {name}",
            where=root,
            hint="put the images beside the labels, or into `images`",
        )


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
    settings: dict[str, Any] = {}  # a `path: .` would be that of the working directory
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
