"""Pascal VOC: an XML file an image, lists of images in ImageSets/Main.

Kept: boxes as integers or decimals, difficult, truncated, occluded, pose, scores (`<score>`, as
there is no custom to follow). Not kept: parts of objects, and what a file tells of its image beside
the size (source, owner, depth).

Pixels. VOC counts from 1 and includes the maximum, so a box over the whole image is [1, 1, W, H].
Minus 1 on the minimum only makes it [0, 0, W, H], 0-based with an exclusive maximum. Many tools
write 0-based files; `voc_offset` "auto" takes a set that has any xmin or ymin of 0 for 0-based.

roLabelImg's turned boxes are read as the upright boxes around them. An image without objects has a
file all the same; one that a list names and that has none is not annotated, and is left out.

Classes: VOC's own order where all are among its twenty, else sorted by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.boxes import Box, turned
from dhcli.data.formats.columns import DONT_CARE, Columns, flags_told, side_of
from dhcli.data.formats.layouts import FilePerImage, Format, Part, folders_beside
from dhcli.data.formats.placing import Holds, Placing, Row, decimal, rows_of, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    first_folder,
    join_path,
    last_part,
    list_files,
    list_images,
    listed_stem,
    read_head,
    read_lines,
    read_splits,
    split_folders,
    split_name,
    stem_of,
)
from dhcli.data.io.progress import track
from dhcli.data.io.text_rows import number_of
from dhcli.data.io.xml_text import XmlReader, escape_xml
from dhcli.data.strings import Strings
from dhcli.data.table import ANY_CLASS, FIRST_PIXEL, REGION, DetectionTable, Flag, Remark
from dhcli.errors import DataError
from dhcli.ops.arrays import tidy
from dhcli.words import counted

HOLDS = Holds(
    "from 1, maximum included; files from 0 are recognised",
    columns=frozenset(("pose",)),
    classes=False,
    split_names="file",
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
_WEB_TAGS = re.compile(
    r"<(?:polygon|deleted|sourceImage|sourceAnnotation|imagesize)>", re.IGNORECASE
)
"""Tags of LabelMe's web tool."""
_LOOK_AT = 20
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_TURNED = ("cx", "cy", "w", "h", "angle")
_BOXES = ("bndbox", "robndbox")
_ONCE = frozenset(("name", *_SIDES, *_TURNED))
"""Tags that an object has once: of two that differ it is not known which is meant."""
UNANNOTATED = "image-unannotated"
_WRITTEN = "Written by dh, 1-based"
_NO_POSE = "Unspecified"
_REGION, _NOT_DIFFICULT = REGION.value, ~Flag.DIFFICULT.value


def _is_folder(path: Path) -> bool:
    first = next(iter(_parts(path)), None)
    return first is not None and holds_voc(path / first.labels)


def holds_voc(folder: Path) -> bool:
    """Whether any of the first XML files in `folder` is VOC's."""
    return any(is_voc(folder / name) for name in list_files(folder, ".xml")[:_LOOK_AT])


def is_voc(path: Path) -> bool:
    """Whether a file is XML that begins with VOC's tag; CVAT's is <annotations>."""
    is_xml = path.suffix.lower() == ".xml"
    return is_xml and bool(_ROOT_TAG.search(read_head(path, 4096))) and not is_labelme_web(path)


def is_labelme_web(path: Path) -> bool:
    """Whether a file is of LabelMe's web tool: VOC's tag around it, but polygons for boxes."""
    head = read_head(path) if path.suffix.lower() == ".xml" else ""
    return bool(_ROOT_TAG.search(head) and _WEB_TAGS.search(head)) and "<bndbox" not in head


def read_voc(root: Path, parts: Iterable[Part], offset: str = "auto") -> DetectionTable:
    """Read XML files.

    `offset` is what the files' first pixel is called: "1", "0", or "auto" (see above). Raises
    DataError with the file and line of what cannot be read.
    """
    columns, parts = Columns(root), list(parts)
    reader = _Reader(root, columns)
    left = folders_beside(root, parts, ".xml")
    columns.left_out["folder of XML files beside those of the splits: left out"] += left
    for part in parts:
        start = len(columns.files)
        are_deeper = reader.read_folder(part.labels, part.files(root, ".xml"), part.images)
        if not part.names:
            reader.leave_out(part.images, _listed((root / part.labels).parent))
        columns.end_split(part.split, start)
        if are_deeper and not part.split:
            reader.split_by_folders(start)
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
        found.append(Part(split, join_path(base, xml_folder), join_path(base, images)))
        if not split:
            break
    return found


def around(path: Path) -> tuple[Path, list[Part]]:
    """The root of one XML file, beside or above its images, and its part."""
    root = path.parent.parent if path.parent.name.lower() in _XML_FOLDERS else path.parent
    images = first_folder(root, IMAGE_FOLDERS, *IMAGE_SUFFIXES) or "."
    return root, [Part("", path.parent.relative_to(root).as_posix(), images, [path.name])]


def _lists(base: Path) -> list[Path]:
    """The image lists in ImageSets/Main; those of single classes left out."""
    folder = base / "ImageSets/Main"
    if not folder.is_dir():
        folder = base / "ImageSets"
    found = []
    for name in list_files(folder, ".txt"):
        stem = name[: -len(".txt")]
        if not _is_of_class(stem, read_lines(folder / name)):
            found.append(folder / name)
    return found


def _is_of_class(stem: str, lines: Sequence[str]) -> bool:
    """Whether a list tells of each image whether a class is in it (1), is not (-1) or hardly (0).

    Names have spaces too, and may end in 0 or 1.
    """
    ends = [line.split()[-1] for line in lines if len(line.split()) > 1]
    named = "_" in stem and split_name(stem.rpartition("_")[2]) is not None
    all_flags = len(ends) == len(lines) and set(ends) <= {"-1", "0", "1"}
    return all_flags and (named or "-1" in ends)


def _listed(base: Path) -> list[str]:
    """The lines of all lists of images."""
    return [line for path in _lists(base) for line in read_lines(path)]


class _Reader:
    """Reads XML files into columns, counting what it meets on the way."""

    def __init__(self, root: Path, columns: Columns) -> None:
        self.root = root
        self.columns = columns
        self.poses: list[str] = []
        self.number_of: dict[str, int] = {}  # by stem, in the folder read last
        self.one_based = True
        self.parts_of_objects = 0
        self.turned: list[int] = []  # numbers of boxes told as turned ones
        self.strange: DataError | None = None
        self.unannotated = 0
        self.damaged: set[str] = set()  # stems of files that cannot be read
        self._file = ""
        self._by_stem: FilesByStem
        self._used: set[str] = set()

    def read_folder(self, xml_folder: str, names: Sequence[str], image_folder: str) -> bool:
        """Read the XML files `names`; return whether their images lie in folders of the folder."""
        folder = self.root / image_folder
        self._by_stem = FilesByStem(folder, *IMAGE_SUFFIXES)
        deeper = not self._by_stem
        if deeper:
            self._by_stem = FilesByStem(folder, *IMAGE_SUFFIXES, deep=True)
        self.number_of, self._used = {}, set()
        for name in track(names, "annotation files read"):
            stem, before = name[: -len(".xml")], len(self.columns.labels)
            try:
                self._read(join_path(xml_folder, name), stem, image_folder)
            except _NotVoc as error:
                self.strange = self.strange or error
                self.columns.left_out["file not of Pascal VOC: left out"].append(name)
            except DataError as error:
                self.damaged.add(stem)
                self._used.add(self._find(stem, "") or "")
                self.columns.refuse_file(error, before)
        return deeper

    def split_by_folders(self, start: int) -> None:
        """Put the images from number `start` on into the splits that their folders are called."""
        for number, file in enumerate(self.columns.files[start:], start):
            named = (split_name(folder) for folder in file.split("/")[:-1])
            split = next((name for name in named if name), None)
            if split:
                self.columns.splits[split].append(number)

    def leave_out(self, image_folder: str, lines: Iterable[str]) -> None:
        """Leave out the images of the folder just read that no file tells of.

        Those that a list names, in its `lines`, are remarked: an empty image would have a file.
        """
        stems = [listed_stem(line, self._by_stem) for line in lines]
        listed = {self._by_stem[s]: s for s in stems if s in self._by_stem}
        for name in self._by_stem.values():
            if name in self._used:
                continue
            file, is_listed = join_path(image_folder, name), name in listed
            where = "in a list" if is_listed else "in no list"
            self.columns.left_out[f"image without annotation file, {where}: left out"].append(file)
            if is_listed and listed[name] not in self.number_of:
                self.unannotated += 1
                what = "is listed, but has no annotation file: it is not annotated"
                self.columns.remarks.append(Remark(UNANNOTATED, file, what))

    def _find(self, stem: str, said: str) -> str | None:
        """The image that an annotation file is called after, `a.jpg.xml` too, or that it names."""
        find = self._by_stem.find
        return find(stem) or find(stem_of(stem)) or find(stem_of(said))

    def _read(self, xml: str, stem: str, folder: str) -> None:
        self._file = xml
        document = _Document(self.root / xml)
        document.parse()
        self.one_based &= document.head.get("database") == _WRITTEN
        said = document.head.get("filename", "")
        image = self._find(stem, said) or _named(said, stem)
        self._used.add(image)
        for name in (stem, stem_of(image)):
            self.number_of.setdefault(name, len(self.columns.files))
        width, height = (side_of(document.head.get(side, "")) for side in ("width", "height"))
        self.columns.add_image(join_path(folder, image), width, height, xml)
        for line, fields, clash in document.objects:
            if clash:
                self._refuse(f"has {clash}: an <object> is one box of one name", line)
            else:
                self._add_object(fields, line)
        self.parts_of_objects += document.parts

    def _add_object(self, fields: dict[str, str], line: int) -> None:
        part = "coordinate"
        try:
            xyxy = [number_of(fields.get(side) or "nan") for side in _SIDES]
            upright = None if "xmin" in fields else _around_turned(fields)
            part = "score"
            score = number_of(fields["score"]) if "score" in fields else None
        except ValueError as odd:
            self._refuse(f"has a {part} that is not a number: {odd}", line)
            return
        if upright:
            self.turned.append(len(self.columns.labels))
            self.columns.counts["box turned (robndbox): read as the upright box around"] += 1
        name = fields.get("name")
        label = self.columns.label_of(name) if name else ANY_CLASS
        self.columns.add_box(label, upright or xyxy, _flags(fields), line)
        pose = fields.get("pose", "")
        self.poses.append("" if pose == _NO_POSE else pose)
        if score is not None:
            self.columns.scores.append(score)

    def _refuse(self, what: str, line: int) -> None:
        """Leave out an object of the file that is read."""
        error = DataError(what, where=f"{self.root / self._file}:{line}")
        self.columns.refuse(error, len(self.columns.files) - 1)


class _NotVoc(DataError):
    """An XML file that is of another format."""


class _Document(XmlReader):
    """One XML file: `head` (tags of the image) and `objects`.

    Those are line and tags of an object, and what it tells twice, "" where nothing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.head: dict[str, str] = {}
        self.objects: list[tuple[int, dict[str, str], str]] = []
        self.parts = 0
        self._depth = 0
        self._group = ""
        self._line = 0
        self._fields: dict[str, str] = {}
        self._clash = ""

    def begin(self, tag: str, _: dict[str, str]) -> None:
        self._depth += 1
        self.said.clear()
        if self._depth == 3:
            self._group = tag.lower()
            self.parts += self._group == "part"
        elif self._depth == 2:
            self._fields, self._clash = {}, ""
            self._line = self.line
        elif self._depth == 1 and tag.lower() != "annotation":
            what = f"begins with <{tag[:40]}>, not <annotation>"
            raise _NotVoc(what, where=f"{self.path}:{self.line}")

    def end(self, tag: str) -> None:
        depth = self._depth
        self._depth = depth - 1
        if depth == 3 or (depth == 4 and self._group in _BOXES):
            name, text = tag.lower(), "".join(self.said).strip()
            if self._fields.setdefault(name, text) is not text:
                self._take_again(name, text)
        elif depth == 2:
            self._close(tag.lower())
        self.said.clear()

    def _take_again(self, tag: str, text: str) -> None:
        before = self._fields[tag]
        if before != text and tag in _ONCE:
            self._clash = self._clash or f"two <{tag}>, {before[:20]} and {text[:20]}"
        self._fields[tag] = text

    def _close(self, tag: str) -> None:
        if tag == "object":
            self.objects.append((self._line, self._fields, self._clash))
        elif tag == "filename":
            self.head["filename"] = "".join(self.said).strip()
        elif tag in ("size", "source"):
            self.head |= self._fields


def _named(said: str, stem: str) -> str:
    """The name of an image that is not in its folder."""
    suffix = Path(last_part(said)).suffix.lower()
    return f"{stem}{suffix if suffix in IMAGE_SUFFIXES else '.jpg'}"


def _around_turned(fields: dict[str, str]) -> Box | None:
    """The upright box around roLabelImg's turned one, None where there is none."""
    if not all(fields.get(key) for key in _TURNED):
        return None
    x, y, width, height, angle = (number_of(fields[key]) for key in _TURNED)
    return turned((x - width / 2, y - height / 2, x + width / 2, y + height / 2), angle)


def _flags(fields: dict[str, str]) -> int:
    told = flags_told(fields) | (fields.get("name") == DONT_CARE) * Flag.IGNORE.value
    # Regions are written as difficult too, for tools that know no others.
    return told & _NOT_DIFFICULT if told & _REGION else told


def _finish(root: Path, columns: Columns, reader: _Reader, offset: str) -> DetectionTable:
    if reader.strange and not columns.files:
        raise reader.strange
    sizes = columns.sizes()
    boxes, about = columns.from_fractions(sizes), {}
    if boxes is None:
        boxes = columns.told_boxes()
        upright = np.delete(np.arange(len(boxes)), reader.turned)  # others lie between pixels
        written = reader.one_based and bool(columns.files)
        boxes[upright], first, rule = _to_zero_based(boxes[upright], offset, written)
        columns.notes.append(rule)
        about = {FIRST_PIXEL: str(first)}
    paths = [] if columns.splits else _lists(root)
    splits, missing = read_splits(paths, reader.number_of)
    unknown = sum(name not in reader.damaged for name in missing)
    what = "name in ImageSets with neither annotation nor image: left out"
    columns.counts[what] = max(unknown - reader.unannotated, 0)
    columns.counts["part of objects: not kept"] = reader.parts_of_objects
    names = columns.class_names()
    known = set(names) <= set(VOC_CLASSES)
    return columns.table(
        sorted(names, key=VOC_CLASSES.index if known else None),
        boxes=boxes,
        sizes=sizes,
        splits=splits,
        extras={"pose": Strings.pack(reader.poses)} if any(reader.poses) else {},
        about=about,
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
    rule = f"pixels counted from {offset} ({why}; `dh convert --voc-offset` decides)"
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
    return "\n".join(
        (
            "<annotation>",
            f"\t<folder>{escape_xml(folder)}</folder>",
            f"\t<filename>{escape_xml(name)}</filename>",
            f"\t<source>\n\t\t<database>{_WRITTEN}</database>\n\t</source>",
            f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>",
            "\t\t<depth>3</depth>\n\t</size>",
            "\t<segmented>0</segmented>",
            *(_object_xml(table, row) for row in rows_of(table, image)),
            "</annotation>\n",
        )
    )


def _object_xml(table: DetectionTable, row: Row) -> str:
    pose = table.extras.get("pose")
    tags = {
        "name": escape_xml(row.name),
        "pose": escape_xml((pose[row.number] if isinstance(pose, Strings) else "") or _NO_POSE),
        "truncated": int(Flag.TRUNCATED in row.flags),
        "difficult": int(row.is_region or Flag.DIFFICULT in row.flags),
    }
    marks = {"occluded": Flag.OCCLUDED, "iscrowd": Flag.CROWD, "ignore": Flag.IGNORE}
    tags |= {tag: 1 for tag, flag in marks.items() if flag in row.flags}
    if row.score is not None:
        tags["score"] = decimal(row.score)
    box = zip(_SIDES, to_one_based(row.box), strict=True)
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


def to_one_based(box: Sequence[float]) -> tuple[float, float, float, float]:
    """A box as VOC counts: pixels from 1, the maximum included."""
    x1, y1, x2, y2 = box
    return x1 + 1, y1 + 1, x2, y2


def prediction_xml(name: str, size: tuple[int, int], objects: Iterable[str]) -> str:
    """The XML file of predictions in the image called `name`, of `size` (width, height)."""
    width, height = size
    return (
        f"<annotation>\n  <filename>{escape(name)}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"{''.join(objects)}</annotation>\n"
    )


def predicted_object(name: str, box: Sequence[float], score: float) -> str:
    """An object of `prediction_xml`; `box` as `to_one_based` takes it."""
    sides = zip(_SIDES, to_one_based(box), strict=True)
    corners = "".join(f"<{side}>{value:.2f}</{side}>" for side, value in sides)
    return (
        f"  <object><name>{escape(name)}</name><difficult>0</difficult>"
        f"<score>{score:.6f}</score>\n    <bndbox>{corners}</bndbox></object>\n"
    )


LAYOUT = FilePerImage("Annotations/*.xml", is_voc, _parts, around, _is_folder)
FORMAT = Format("Pascal VOC", LAYOUT, read_voc, write_voc, HOLDS)
