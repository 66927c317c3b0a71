"""LabelMe's web tool (MIT): one XML file per image, `Annotations/FOLDER/a.xml` of `Images/FOLDER`.

`<annotation>` as in Pascal VOC, but an `<object>` has a `<polygon>` of `<pt>`: the box around it
counts. Deleted objects and scribbles, which are masks, are left out, counted. `<occluded>` and
`<attributes>` called difficult, truncated, crowd or ignore are marks; parts of objects are objects.
Folders called train, val or test are the splits.

Pixels: from 0, the maximum excluded. Classes: sorted by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from dhcli.data.formats import imagenet, voc
from dhcli.data.formats.boxes import hull
from dhcli.data.formats.columns import Columns, flags_told, is_set, marks_of, side_of
from dhcli.data.formats.layouts import FilePerImage, Format, Part
from dhcli.data.formats.placing import Holds, Placing, Row, decimal, rows_of, writing
from dhcli.data.io.files import (
    IMAGE_SUFFIXES,
    FilesByStem,
    join_path,
    last_part,
    list_files,
    stem_of,
)
from dhcli.data.io.progress import track
from dhcli.data.io.xml_text import XmlReader, escape_xml
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError

HOLDS = Holds("from 0, maximum excluded", classes=False, scores=False, splits=False)

_LOOK_AT = 20
_REST = "all"
_WORD = re.compile(r"[a-z_]+")


def _parts(root: Path) -> Iterator[Part]:
    """Where such files lie: as in ImageNet or as in Pascal VOC."""
    seen = set()
    for part in (*imagenet.LAYOUT.parts(root), *voc.LAYOUT.parts(root)):
        names = list_files(root / part.labels, ".xml")[:_LOOK_AT]
        if part.labels not in seen and any(
            voc.is_labelme_web(root / part.labels / name) for name in names
        ):
            yield part
        seen.add(part.labels)


def read_labelme_web(root: Path, parts: Iterable[Part]) -> DetectionTable:
    """Read XML files. Raises DataError with the file and line of what cannot be read."""
    columns = Columns(root)
    for part in parts:
        start = len(columns.files)
        images, names = FilesByStem(root / part.images, *IMAGE_SUFFIXES), part.files(root, ".xml")
        used = set()
        for name in track(names, "annotation files read"):
            before = len(columns.labels)
            try:
                used.add(_read(columns, root, part, name, images))
            except DataError as error:
                used.add(images.find(name[: -len(".xml")]) or "")
                columns.refuse_file(error, before)
        unused = [] if part.names else sorted(set(images.values()) - used)
        columns.left_out["image without annotation file: left out"] += unused
        columns.end_split(part.split, start)
    return columns.table(columns.classes_after())


def _read(columns: Columns, root: Path, part: Part, name: str, images: FilesByStem) -> str:
    """Read the file `name` of a part; return what its image is called."""
    annotation = join_path(part.labels, name)
    document = _Document(root / annotation)
    document.parse()
    said, stem = last_part(document.head.get("filename", "")), name[: -len(".xml")]
    image = images.find(stem) or images.find(stem_of(said)) or f"{stem}.jpg"
    width, height = (side_of(document.head.get(side)) for side in ("ncols", "nrows"))
    columns.add_image(join_path(part.images, image), width, height, annotation)
    for told in document.objects:
        if is_set(told.fields.get("deleted", "0")):
            columns.counts["deleted object: left out"] += 1
        elif not told.points:
            columns.counts["object without polygon: left out"] += 1
        else:
            _add(columns, root / annotation, told)
    return image


def _add(columns: Columns, path: Path, told: _Object) -> None:
    line, fields, points = told
    try:
        box = hull(points)
    except ValueError as error:
        what = f"has a coordinate that is not a number: {error}"
        columns.refuse(DataError(what, where=f"{path}:{line}"), len(columns.files) - 1)
        return
    name = fields.get("name")
    if not name:
        nameless = DataError("has an object without name", where=f"{path}:{line}")
        columns.refuse(nameless, len(columns.files) - 1)
        return
    words = _WORD.findall(fields.get("attributes", "").lower())
    marks = dict.fromkeys(words, "yes") | {"occluded": fields.get("occluded", "")}
    columns.add(name, box, flags_told(marks), line)


class _Object(NamedTuple):
    """The line of an object, its tags, and the points x, y of its polygon, as text."""

    line: int
    fields: dict[str, str]
    points: list[tuple[str, str]]


class _Document(XmlReader):
    """One XML file: `head` (tags of the image) and `objects`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.head: dict[str, str] = {}
        self.objects: list[_Object] = []
        self._stack: list[str] = []

    def begin(self, tag: str, _: dict[str, str]) -> None:
        """Take the beginning of an element."""
        self._stack.append(tag.lower())
        self.said.clear()
        if self._stack == ["annotation", "object"]:
            self.objects.append(_Object(self.line, {}, []))
        elif self._stack[-2:] == ["polygon", "pt"] and self.objects:
            self.objects[-1].points.append(("", ""))
        elif len(self._stack) == 1 and self._stack != ["annotation"]:
            raise self.fail(f"begins with <{tag[:40]}>, not <annotation>")

    def end(self, _: str) -> None:
        """Take the end of an element."""
        text, stack = "".join(self.said).strip(), self._stack
        tag = stack.pop()
        if stack == ["annotation", "object"]:
            self.objects[-1].fields[tag] = text
        elif stack == ["annotation", "object", "polygon", "pt"] and tag in "xy":
            points = self.objects[-1].points
            x, y = points[-1]
            points[-1] = (text, y) if tag == "x" else (x, text)
        elif stack in (["annotation"], ["annotation", "imagesize"]):
            self.head[tag] = text
        self.said.clear()


def write_labelme_web(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as Images/ and Annotations/, one folder per split."""
    folders = [split or _REST for split in placing.split_of_images()]
    placing.place([f"Images/{folder}" for folder in folders])
    for image, (folder, name) in enumerate(zip(folders, writing(placing.names), strict=True)):
        width, height = table.sizes[image].tolist()
        text = "\n".join(
            (
                "<annotation>",
                f"<filename>{escape_xml(name)}</filename>",
                f"<folder>{escape_xml(folder)}</folder>",
                "<source><sourceImage></sourceImage><sourceAnnotation></sourceAnnotation></source>",
                *map(_object_xml, rows_of(table, image)),
                f"<imagesize><nrows>{height}</nrows><ncols>{width}</ncols></imagesize>",
                "</annotation>\n",
            )
        )
        placing.write(f"Annotations/{folder}/{stem_of(name)}.xml", text)


def _object_xml(row: Row) -> str:
    marks = marks_of(row.flags)
    x1, y1, x2, y2 = map(decimal, row.box)
    points = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    occluded = "yes" if "occluded" in marks else "no"
    others = ", ".join(name for name in marks if name != "occluded")
    return "\n".join(
        (
            f"<object><name>{escape_xml(row.name)}</name><deleted>0</deleted>",
            f"<occluded>{occluded}</occluded><attributes>{others}</attributes>",
            "<type>bounding_box</type><polygon>",
            *(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in points),
            "</polygon></object>",
        )
    )


LAYOUT = FilePerImage(
    "Annotations/…/*.xml with objects that are polygons", voc.is_labelme_web, _parts, voc.around
)
FORMAT = Format("LabelMe (web tool)", LAYOUT, read_labelme_web, write_labelme_web, HOLDS)
