"""Pascal VOC: an XML file an image, lists of images in ImageSets/Main.

Kept: boxes as integers or decimals, difficult, truncated, occluded, pose, scores (`<score>`, as
there is no custom to follow). Not kept: parts of objects, and what a file tells of its image beside
the size (source, owner, depth).

Pixels. VOC counts from 1 and includes the maximum, so a box over the whole image is [1, 1, W, H].
Minus 1 on the minimum only makes it [0, 0, W, H], 0-based with an exclusive maximum. Many tools
write 0-based files; `voc_offset` "auto" takes a set that has any xmin or ymin of 0 for 0-based.

Classes: VOC's own order where all are among its twenty, else sorted by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.columns import DONT_CARE, Columns, flags_told, number_of, side_of, tidy
from dhcli.data.formats.format import Format
from dhcli.data.formats.placing import Holds, Placing, decimal, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    first_folder,
    join_path,
    last_part,
    list_files,
    list_images,
    read_head,
    read_lines,
    read_split,
    split_folders,
    split_name,
    stem_of,
)
from dhcli.data.io.progress import track
from dhcli.data.io.xml_text import escape_xml, read_xml
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag, Strings
from dhcli.errors import DataError
from dhcli.words import counted

LOOKS_FOR = "Annotations/*.xml (Pascal VOC)"
OFFSET = "voc_offset"
"""What the table's `about` calls the first pixel of the files: "0" or "1"."""
HOLDS = Holds(
    "from 1, maximum included; files from 0 are recognised",
    columns=frozenset(("pose",)),
    classes=False,
)

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

_XML_FOLDERS = (
    *("annotations", "annotation", "annotations/xmls", "annotations/xml"),
    *("xmls", "xml", "labels", "label", "."),
)
_ROOT_TAG = re.compile(r"<annotation[\s>]", re.IGNORECASE)
_LOOK_AT = 20
_SIDES = ("xmin", "ymin", "xmax", "ymax")
Part = tuple[str, str, str]
"""A split or "", a folder of XML files, and that of their images."""

_WRITTEN = "Written by dh, 1-based"
_NO_POSE = "Unspecified"
_REGION = Flag.CROWD.value | Flag.IGNORE.value
_NOT_DIFFICULT = ~Flag.DIFFICULT.value


def sniff_voc(path: Path) -> bool:
    """Whether `path` holds, or is, annotations in VOC's XML."""
    if path.is_file():
        return path.suffix.lower() == ".xml" and is_voc(path)
    for _, xml_folder, _ in _parts(path):
        return holds_voc(path / xml_folder)
    return False


def holds_voc(folder: Path) -> bool:
    """Whether any of the first XML files in `folder` is VOC's."""
    return any(is_voc(folder / name) for name in list_files(folder, ".xml")[:_LOOK_AT])


def is_voc(path: Path) -> bool:
    """Whether an XML file begins with VOC's tag; CVAT's is <annotations>."""
    return _ROOT_TAG.search(read_head(path, 4096)) is not None


def read_voc(path: Path, offset: str = "auto") -> DetectionTable:
    """Read a VOC folder, or one XML file beside or above its images.

    `offset` is what the files' first pixel is called: "1", "0", or "auto" (see above). Raises
    DataError with the file and line of what cannot be read.
    """
    if path.is_dir():
        return read_parts(path, _parts(path), offset)
    root, part = _part_of_file(path)
    return read_parts(root, [part], offset, only=path.name)


def read_parts(
    root: Path, parts: Iterable[Part], offset: str, *, only: str | None = None
) -> DetectionTable:
    """Read the XML files of all `parts` below `root`, or in each the file `only`."""
    columns = Columns()
    reader = _Reader(root, columns)
    for split, xml_folder, image_folder in parts:
        start = len(columns.files)
        names = [only] if only else list_files(root / xml_folder, ".xml")
        reader.read_folder(xml_folder, names, image_folder)
        if not only:
            reader.add_listed(image_folder, _listed(root / Path(xml_folder).parent))
        columns.end_split(split, start)
    return _finish(root, columns, reader, offset)


def _parts(root: Path) -> list[Part]:
    """The folders of XML below `root`, for each split folder or one."""
    found = []
    for split, base in [("", "."), *split_folders(root)]:
        xml_folder = first_folder(root / base, _XML_FOLDERS, ".xml")
        if xml_folder is None:
            continue
        images = first_folder(root / base, IMAGE_FOLDERS, *IMAGE_SUFFIXES)
        if images is None:
            images = "." if list_images(root / base, deep=True) else "JPEGImages"
        found.append((split, join_path(base, xml_folder), join_path(base, images)))
        if not split:
            break
    return found


def _part_of_file(path: Path) -> tuple[Path, Part]:
    root = path.parent.parent if path.parent.name.lower() in _XML_FOLDERS else path.parent
    images = first_folder(root, IMAGE_FOLDERS, *IMAGE_SUFFIXES) or "."
    return root, ("", path.parent.relative_to(root).as_posix(), images)


def _lists(base: Path) -> list[tuple[str, Path]]:
    """(name, file) of the image lists in ImageSets/Main; those of single classes left out."""
    folder = base / "ImageSets/Main"
    if not folder.is_dir():
        folder = base / "ImageSets"
    found = []
    for name in list_files(folder, ".txt"):
        lines = read_lines(folder / name)
        if not lines or len(lines[0].split()) == 1:
            found.append((name[: -len(".txt")], folder / name))
    return found


def _listed(base: Path) -> list[str]:
    """Stems of the images that any list names."""
    lines = [line for _, path in _lists(base) for line in read_lines(path)]
    return list(dict.fromkeys(stem_of(line.split()[0]) for line in lines))


class _Reader:
    """Reads XML files into columns, counting what it meets on the way."""

    def __init__(self, root: Path, columns: Columns) -> None:
        self.root = root
        self.columns = columns
        self.poses: list[str] = []
        self.number_of: dict[str, int] = {}  # by stem, in the folder read last
        self.one_based = True
        self.parts_of_objects = 0
        self.unlisted = 0
        self._file = ""
        self._by_stem: FilesByStem

    def read_folder(self, xml_folder: str, names: Sequence[str], image_folder: str) -> None:
        """Read the XML files `names`."""
        folder, start = self.root / image_folder, len(self.columns.files)
        self._by_stem = FilesByStem(folder, *IMAGE_SUFFIXES)
        deeper = not self._by_stem
        if deeper:
            self._by_stem = FilesByStem(folder, *IMAGE_SUFFIXES, deep=True)
        self.number_of = {}
        for name in track(names, "annotation files read"):
            stem = name[: -len(".xml")]
            self.number_of[stem] = len(self.columns.files)
            self._read(join_path(xml_folder, name), stem, image_folder)
        if deeper:
            self._split_by_folders(start)

    def _split_by_folders(self, start: int) -> None:
        """Put the images from number `start` on into the splits that their folders are called."""
        for number, file in enumerate(self.columns.files[start:], start):
            named = (split_name(folder) for folder in file.split("/")[:-1])
            split = next((name for name in named if name), None)
            if split:
                self.columns.splits[split].append(number)

    def add_listed(self, image_folder: str, stems: Iterable[str]) -> None:
        """Add images of the folder just read that only lists name, without objects."""
        for stem in stems:
            if stem not in self.number_of and stem in self._by_stem:
                self.number_of[stem] = len(self.columns.files)
                self.columns.add_image(join_path(image_folder, self._by_stem[stem]), 0, 0)
        self.unlisted += sum(stem not in self.number_of for stem in self._by_stem)

    def _read(self, xml: str, stem: str, folder: str) -> None:
        self._file = xml
        document = _Document(self.root / xml)
        self.one_based &= document.head.get("database") == _WRITTEN
        said = document.head.get("filename", "")
        find = self._by_stem.find
        image = find(stem) or find(stem_of(said)) or _named(said, stem)
        width, height = (side_of(document.head.get(side, "")) for side in ("width", "height"))
        self.columns.add_image(join_path(folder, image), width, height, xml)
        for line, fields in document.objects:
            self._add_object(fields, line)
        self.parts_of_objects += document.parts

    def _add_object(self, fields: dict[str, str], line: int) -> None:
        try:
            xyxy = [number_of(fields.get(side) or "nan") for side in _SIDES]
        except ValueError as error:
            what = f"has a coordinate that is not a number: {error}"
            raise DataError(what, where=self._where(line)) from None
        name = fields.get("name")
        label = self.columns.label_of(name) if name else ANY_CLASS
        self.columns.add_box(label, xyxy, _flags(fields), line)
        pose = fields.get("pose", "")
        self.poses.append("" if pose == _NO_POSE else pose)
        if "score" in fields:
            self.columns.scores.append(_score(fields["score"], self._where(line)))

    def _where(self, line: int) -> str:
        return f"{self.root / self._file}:{line}"


class _Document:
    """One XML file, parsed: `head` (tags of the image) and `objects` (line, tags of an object)."""

    def __init__(self, path: Path) -> None:
        self.head: dict[str, str] = {}
        self.objects: list[tuple[int, dict[str, str]]] = []
        self.parts = 0
        self._path = path
        self._depth = 0
        self._text = ""
        self._group = ""
        self._line = 0
        self._fields: dict[str, str] = {}
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.CharacterDataHandler = self._say
        parser.EndElementHandler = self._end
        try:
            parser.Parse(read_xml(path), True)
        except expat.ExpatError as error:
            where = f"{path}:{error.lineno}"
            what = expat.ErrorString(error.code)
            raise DataError(f"is not well-formed XML: {what}", where=where) from None
        finally:
            del self._parser  # its handlers and this object hold each other

    def _refuse(self, *_: Any) -> None:
        where = f"{self._path}:{self._parser.CurrentLineNumber}"
        raise DataError("declares a DOCTYPE; annotations need none", where=where)

    def _start(self, tag: str, _: Any) -> None:
        self._depth += 1
        self._text = ""
        if self._depth == 3:
            self._group = tag.lower()
            self.parts += self._group == "part"
        elif self._depth == 2:
            self._fields = {}
            self._line = self._parser.CurrentLineNumber
        elif self._depth == 1 and tag.lower() != "annotation":
            where = f"{self._path}:{self._parser.CurrentLineNumber}"
            raise DataError(f"begins with <{tag[:40]}>, not <annotation>", where=where)

    def _say(self, text: str) -> None:
        self._text = text

    def _end(self, tag: str) -> None:
        depth = self._depth
        self._depth = depth - 1
        if depth == 3 or (depth == 4 and self._group == "bndbox"):
            self._fields[tag.lower()] = self._text.strip()
        elif depth == 2:
            self._close(tag.lower())
        self._text = ""

    def _close(self, tag: str) -> None:
        if tag == "object":
            self.objects.append((self._line, self._fields))
        elif tag == "filename":
            self.head["filename"] = self._text.strip()
        elif tag in ("size", "source"):
            self.head |= self._fields


def _named(said: str, stem: str) -> str:
    """The name of an image that is not in its folder."""
    suffix = Path(last_part(said)).suffix.lower()
    return f"{stem}{suffix if suffix in IMAGE_SUFFIXES else '.jpg'}"


def _score(text: str, where: str) -> float:
    try:
        return number_of(text)
    except ValueError as error:
        raise DataError(f"has a score that is not a number: {error}", where=where) from None


def _flags(fields: dict[str, str]) -> int:
    told = flags_told(fields) | (fields.get("name") == DONT_CARE) * Flag.IGNORE.value
    # Regions are written as difficult too, for tools that know no others.
    return told & _NOT_DIFFICULT if told & _REGION else told


def _finish(root: Path, columns: Columns, reader: _Reader, offset: str) -> DetectionTable:
    boxes = np.array(columns.boxes, np.float64).reshape(-1, 4)
    boxes, first, rule = _to_zero_based(boxes, offset, reader.one_based and bool(columns.files))
    notes = [rule]
    lists, unknown = {}, 0
    for name, path in _lists(root) if not columns.splits else []:
        lists[name], missing = read_split(path, reader.number_of)
        unknown += missing
    for count, what in (
        (unknown, "name in ImageSets with neither annotation nor image: left out"),
        (reader.unlisted, "image without annotation file, in no list: left out"),
        (reader.parts_of_objects, "part of objects: not kept"),
    ):
        notes += [counted(count, what)] if count else []
    names = columns.class_names()
    known = set(names) <= set(VOC_CLASSES)
    return columns.table(
        root,
        sorted(names, key=VOC_CLASSES.index if known else None),
        boxes=boxes,
        splits=lists,
        extras={"pose": Strings.pack(reader.poses)} if any(reader.poses) else {},
        about={OFFSET: str(first)},
        format="voc",
        notes=tuple(notes),
    )


def _to_zero_based(
    boxes: NDArray[np.float64], offset: str, written_by_dh: bool
) -> tuple[NDArray[np.float64], int, str]:
    """Boxes with 1 taken off the minimum where the files count from 1; the rule, also in words."""
    if offset == "auto":
        zeros = int(np.sum((boxes[:, :2] == 0).any(axis=1)))
        offset = "0" if zeros and not written_by_dh else "1"
        why = f"{counted(zeros, 'box')} beginning at 0" if zeros else "no box begins at 0"
        why = "the files say so" if written_by_dh else why
    else:
        why = "as asked"
    shifted = tidy(boxes[:, :2] - int(offset))
    rule = f"pixels counted from {offset} ({why}; see --voc-offset)"
    return np.hstack([shifted, boxes[:, 2:]]), int(offset), rule


def write_voc(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as a VOC folder: JPEGImages, Annotations, and ImageSets/Main for its splits."""
    placing.place("JPEGImages")
    for image, name in enumerate(writing(placing.names)):
        placing.write(f"Annotations/{stem_of(name)}.xml", xml_of(table, image, name))
    for split, images in table.splits.items():
        stems = (stem_of(placing.names[image]) for image in images.tolist())
        placing.write(f"ImageSets/Main/{split}.txt", "".join(f"{stem}\n" for stem in stems))


def xml_of(table: DetectionTable, image: int, name: str, folder: str = "JPEGImages") -> str:
    """The XML file of image number `image`, called `name`; pixels counted from 1."""
    width, height = table.sizes[image].tolist()
    rows = table.rows(image)
    return "\n".join(
        (
            "<annotation>",
            f"\t<folder>{escape_xml(folder)}</folder>",
            f"\t<filename>{escape_xml(name)}</filename>",
            f"\t<source>\n\t\t<database>{_WRITTEN}</database>\n\t</source>",
            f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>",
            "\t\t<depth>3</depth>\n\t</size>",
            "\t<segmented>0</segmented>",
            *(_object_xml(table, row) for row in range(rows.start, rows.stop)),
            "</annotation>\n",
        )
    )


def _object_xml(table: DetectionTable, row: int) -> str:
    label, flags = int(table.labels[row]), Flag(int(table.flags[row]))
    name = DONT_CARE if label == ANY_CLASS else table.classes[label]
    pose = table.extras.get("pose")
    tags = {
        "name": escape_xml(name),
        "pose": escape_xml((pose[row] if isinstance(pose, Strings) else "") or _NO_POSE),
        "truncated": int(Flag.TRUNCATED in flags),
        "difficult": int(bool(flags & (Flag(_REGION) | Flag.DIFFICULT)) or label == ANY_CLASS),
    }
    marks = {"occluded": Flag.OCCLUDED, "iscrowd": Flag.CROWD, "ignore": Flag.IGNORE}
    tags |= {tag: 1 for tag, flag in marks.items() if flag in flags}
    if table.scores is not None:
        tags["score"] = decimal(table.scores[row])
    box = zip(_SIDES, (table.boxes[row] + [1, 1, 0, 0]).tolist(), strict=True)
    return "\n".join(
        (
            "\t<object>",
            *(f"\t\t<{tag}>{value}</{tag}>" for tag, value in tags.items()),
            "\t\t<bndbox>",
            *(f"\t\t\t<{side}>{decimal(value)}</{side}>" for side, value in box),
            "\t\t</bndbox>",
            "\t</object>",
        )
    )


FORMAT = Format("Pascal VOC", LOOKS_FOR, sniff_voc, read_voc, write_voc, HOLDS)
