"""MOT: one folder per sequence of frames, `img1/000001.jpg`, `gt/gt.txt`, `seqinfo.ini`.

`frame,id,left,top,width,height,conf,class,visibility`: conf 0 says to leave the box out of account,
which makes it a region to ignore; visibility below 1 makes it occluded; both the track and the
visibility are kept. Classes are numbers, named by `gt/labels.txt`, a name a line, where it is there
(as CVAT has it), else as in MOT16. Sequences lie in the folder itself, or in one called as a split.

Written: frames get numbers for names, a sequence for every folder that images come from.

Pixels: from 1, sizes as they are, so 1 is taken off left and top. `seqinfo.ini` tells the size of
all frames of a sequence.
"""

from __future__ import annotations

import configparser
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dhcli.data.formats.boxes import READ, add, from_decimals, to_xywh
from dhcli.data.formats.columns import NO_TRACK, Columns, side_of, tracks_of, whole_or
from dhcli.data.formats.layouts import FilePerSequence, Format
from dhcli.data.formats.placing import Holds, Placing, Row, decimal, rows_of, track_of, writing
from dhcli.data.io.files import (
    confine,
    is_listed,
    list_folders,
    list_images,
    read_head,
    read_lines,
    read_text,
    split_folders,
    split_name,
)
from dhcli.data.io.text_rows import are_numbers, mostly, numbers_of, read_rows
from dhcli.data.table import DetectionTable, Flag
from dhcli.errors import DataError
from dhcli.words import counted

HOLDS = Holds(
    "from 1: left top width height",
    marks=Flag.OCCLUDED,
    columns=frozenset(("track", "visibility")),
    regions="written with conf 0",
    scores=False,
    sizes=False,
    splits=False,
)

MOT_CLASSES = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle"),
    *("static person", "distractor", "occluder", "occluder on the ground", "occluder full"),
    *("reflection", "crowd"),
)
"""MOT16's and MOT20's classes, from 1."""

_TRUTH, _NAMES, _FRAMES, _INFO = "gt/gt.txt", "gt/labels.txt", "img1", "seqinfo.ini"
_FEWEST = 6
_MOST_FRAMES = 10_000_000
_SEEN_IN_PART = 0.5


def _is_mot(path: Path) -> bool:
    return path.name == "gt.txt" and _is_truth(path)


def _is_truth(path: Path) -> bool:
    """Whether a gt.txt holds numbers, or nothing, where the sequence says that it is one."""
    if path.is_file() and (path.parent.parent / _INFO).is_file() and not read_head(path).strip():
        return True
    return mostly(_is_row, path)


def _is_row(row: list[str]) -> bool:
    return len(row) >= _FEWEST and are_numbers(row)


def _sequences(root: Path) -> list[tuple[str, str]]:
    """(split or "", folder) of the sequences below `root`, damaged ones too where one is sound."""
    if _is_truth(root / _TRUTH):
        return [("", ".")]
    found = [("", name) for name in list_folders(root)]
    for split, base in split_folders(root):
        found += [(split, f"{base}/{name}") for name in list_folders(root / base)]
    found = [(split, name) for split, name in found if (root / name / _TRUTH).is_file()]
    return found if any(_is_truth(root / name / _TRUTH) for _, name in found) else []


def _around(path: Path) -> tuple[Path, list[tuple[str, str]]]:
    return path.parent.parent, _sequences(path.parent.parent)


def read_mot(root: Path, sequences: list[tuple[str, str]]) -> DetectionTable:
    """Read sequences. Raises DataError with the file and line of what cannot be read."""
    columns = Columns(root)
    tracks, visibilities = array("q"), array("d")
    listed: dict[str, None] = {}
    for split, folder in sequences:
        start = len(columns.files)
        sequence = _Sequence(root, folder, columns)
        listed |= dict.fromkeys(sequence.read(tracks, visibilities))
        columns.end_split(split, start)
    seen = np.array(visibilities, np.float64)
    extras = tracks_of(tracks) | ({"visibility": seen} if (seen < 1).any() else {})
    return columns.table(columns.classes_after(listed), extras=extras)


class _Sequence:
    """The frames of the sequence in `folder`, put into columns, and the boxes of its gt.txt."""

    def __init__(self, root: Path, folder: str, columns: Columns) -> None:
        self._prefix = "" if folder == "." else f"{folder}/"
        self._root, self._columns = root, columns
        self._truth = root / f"{self._prefix}{_TRUTH}"
        self._info = _read_info(root / f"{self._prefix}{_INFO}")
        names = root / f"{self._prefix}{_NAMES}"
        self._listed = read_lines(names) if names.is_file() else []
        self._frames = confine(self._info.get("imdir", _FRAMES)) or _FRAMES
        self._images: dict[int, int] = {}
        place = f"{self._prefix}{self._frames}"
        for name in list_images(root / place):
            stem = Path(name).stem
            if stem.isdecimal() and len(stem) < 9:
                self._image(int(stem), name)
            else:
                columns.left_out["image not called by a number: left out"].append(f"{place}/{name}")

    def read(self, tracks: array[int], visibilities: array[float]) -> Sequence[str]:
        """Add the boxes; return the names of classes that the sequence lists.

        Frames of a sequence of which no row can be read are left out.
        """
        before, refused = len(tracks), False
        for line, row in read_rows(self._truth):
            try:
                values = _numbers(row, f"{self._truth}:{line}")
                name = self._name(values[7], f"{self._truth}:{line}")
            except DataError as error:
                self._columns.refuse(error, self._image_of(row))
                refused = True
                continue
            self._add(values, name, line)
            tracks.append(whole_or(row[1], NO_TRACK))
            visibilities.append(values[8])
        if refused and len(tracks) == before:
            self._columns.doubt(self._images.values())
        return self._listed

    def _image_of(self, row: Sequence[str]) -> int | None:
        """The image of the frame that a row names that cannot be read, if it can be told."""
        return self._images.get(whole_or(row[0], 0))

    def _add(self, values: list[float], name: str, line: int) -> None:
        frame, _, left, top, width, height, counts, _, visibility = values[:9]
        box = from_decimals(add(left, -1), add(top, -1), width, height)
        flags = (counts == 0) * Flag.IGNORE | (0 <= visibility < 1) * Flag.OCCLUDED
        image = self._image(int(frame), f"{int(frame):06d}{self._info.get('imext', '.jpg')}")
        self._columns.add(name, box, int(flags), line, image)

    def _name(self, number: float, where: str) -> str:
        """The name of a class number; -1, as in files of detections, is the first."""
        names = self._listed or MOT_CLASSES
        place = 0 if number == -1 else int(number) - 1 if number.is_integer() else -1
        if not self._listed and place >= len(names):
            return str(int(number))
        if not 0 <= place < len(names):
            what = f"class {number:g} is not one of the {len(names)}"
            raise DataError(what, where=where, hint=f"{_NAMES} names them, from 1")
        return names[place]

    def _image(self, frame: int, name: str) -> int:
        if frame not in self._images:
            sides = (side_of(self._info.get(side)) for side in ("imwidth", "imheight"))
            width, height = sides
            file = f"{self._prefix}{self._frames}/{name}"
            annotation = f"{self._prefix}{_TRUTH}"
            self._images[frame] = self._columns.add_image(file, width, height, annotation)
        return self._images[frame]


def _numbers(row: Sequence[str], where: str) -> list[float]:
    """The nine numbers of a row, those that are left out being 1. Raises DataError."""
    values = numbers_of(row, where)
    if len(values) < _FEWEST or not 0 < values[0] < _MOST_FRAMES:
        what = "expected frame, id, left, top, width, height, conf, class, visibility"
        raise DataError(what, where=where)
    return values + [1.0, 1.0, 1.0][len(values) - _FEWEST :]


def _read_info(path: Path) -> dict[str, str]:
    """What seqinfo.ini says of a sequence, {} where it is not there."""
    if not path.is_file():
        return {}
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(read_text(path).strip())
    except configparser.Error as error:
        raise DataError(f"cannot be read: {str(error).splitlines()[0][:80]}", where=path) from None
    return dict(parser["Sequence"]) if "Sequence" in parser else {}


def write_mot(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as a sequence for each folder of images, in one folder per split."""
    homes = _homes(table, placing.split_of_images())
    suffixes = [Path(name).suffix or ".jpg" for name in placing.names]
    frames: list[int] = []
    count: dict[str, int] = {}
    for home in homes:
        count[home] = count.get(home, 0) + 1
        frames.append(count[home])
    names = [f"{frame:06d}{suffix}" for frame, suffix in zip(frames, suffixes, strict=True)]
    renamed = sum(new != old for new, old in zip(names, placing.names, strict=True))
    if renamed:
        placing.lost.append(f"names of {counted(renamed, 'image')}: numbered as frames")
    placing.names = names
    placing.place([f"{home}/{_FRAMES}" for home in homes])
    for home in count:
        images = [image for image, own in enumerate(homes) if own == home]
        placing.write(f"{home}/{_INFO}", _info(table, home, images, suffixes[images[0]]))
        placing.write(f"{home}/{_NAMES}", "".join(f"{name}\n" for name in _class_names(table)))
        lines = (line for image in writing(images) for line in _lines(table, image, frames[image]))
        placing.write_lines(f"{home}/{_TRUTH}", lines)


def _homes(table: DetectionTable, splits: Sequence[str]) -> list[str]:
    """The folder of the sequence of each image: its split, and where it comes from."""
    homes = []
    for file, split in zip(table.files, splits, strict=True):
        parts = [p for p in file.split("/")[:-1] if p not in (_FRAMES, "images")]
        parts = parts[1:] if parts and split_name(parts[0]) == split else parts
        name = "_".join(parts)
        name = name if is_listed(name) else f"sequence{name}"
        homes.append(f"{split}/{name}" if split else name)
    return homes


def _class_names(table: DetectionTable) -> list[str]:
    return [" ".join(name.split()) or "_" for name in table.classes]


def _info(table: DetectionTable, home: str, images: Sequence[int], suffix: str) -> str:
    """A seqinfo.ini; the size only where all frames have it."""
    sizes = np.unique(table.sizes[images], axis=0).tolist()
    told = {"name": home.rpartition("/")[2], "imDir": _FRAMES, "frameRate": "1"}
    told |= {"seqLength": str(len(images)), "imExt": suffix}
    if len(sizes) == 1 and all(sizes[0]):
        told |= {"imWidth": str(sizes[0][0]), "imHeight": str(sizes[0][1])}
    return "[Sequence]\n" + "".join(f"{key}={value}\n" for key, value in told.items())


def _lines(table: DetectionTable, image: int, frame: int) -> Iterator[str]:
    for row in rows_of(table, image):
        x, y, width, height = to_xywh(row.box, READ)
        sides = (add(x, 1), add(y, 1), width, height)
        label, counts = int(table.labels[row.number]), int(not row.is_region)
        fields = (
            *(str(frame), str(track_of(table, row.number)), *map(decimal, sides), str(counts)),
            *(str(max(label, 0) + 1), decimal(_visibility(table, row))),
        )
        yield f"{','.join(fields)}\n"


def _visibility(table: DetectionTable, row: Row) -> float:
    """How much of a box is seen, as annotated, else as far as its mark tells."""
    degrees = table.extras.get("visibility")
    if isinstance(degrees, np.ndarray):
        return float(degrees[row.number])
    return _SEEN_IN_PART if Flag.OCCLUDED in row.flags else 1.0


LAYOUT = FilePerSequence(
    "gt/gt.txt beside img1/, in one folder per sequence", _is_mot, _sequences, _around
)
FORMAT = Format("MOT", LAYOUT, read_mot, write_mot, HOLDS)
