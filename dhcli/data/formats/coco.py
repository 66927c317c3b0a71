"""COCO JSON: instances, one file per dataset or per split.

Tolerated: sparse ids and ids as text, decimals, absent `area`, `iscrowd`, `info`, `licenses`; boxes
told by masks alone (polygons, RLE), boxes in fractions where all are, categories of the same name
(one class), `coco_url` for `file_name` (LVIS). Roboflow's category 0, which the others name as the
one above them and no box has, is not a class.
Kept, so that COCO is written back as it was read: ids, crowd, areas, masks (polygons, RLE) and any
other field of an annotation, of an image, a category and the file. What columns do not hold is the
extra column `source`: where in the file the entry lies. It is read again when it is wanted, and
must not have changed meanwhile.
`ignore` and the attributes `occluded`, `truncated`, `difficult` are marks. A split is called as its
file is (`instances_val2017.json` is val), or its folder (`valid/_annotations.coco.json`). Images
are looked for beside the file, in `images`, and in folders called as the split.

Written: annotation ids that are not positive or come twice are given anew, since evaluators take
id 0 for "no match". Regions of no class get a category `DontCare`, and `iscrowd` 1.

Classes: by ascending category id.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.boxes import WRITTEN, columns_xywh, from_xywh
from dhcli.data.formats.coco_entries import ATTRIBUTES, Entries, flags_of_row, read_entries
from dhcli.data.formats.coco_results import CATEGORIES, RESULTS, results_of
from dhcli.data.formats.columns import DONT_CARE, LOST_IMAGE
from dhcli.data.formats.corners import with_notes_on_corners
from dhcli.data.formats.fractions import from_fractions
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.locate import locate_images
from dhcli.data.formats.placing import Holds, Placing, writing
from dhcli.data.io.files import fill_sizes, split_name
from dhcli.data.io.json_text import begins_as
from dhcli.data.strings import Strings
from dhcli.data.table import (
    ANY_CLASS,
    REGION,
    SOURCE,
    TEXT_ID,
    UNREADABLE,
    DetectionTable,
    Flag,
    Remark,
    make_table,
    parse_source,
)
from dhcli.errors import DataError
from dhcli.ops.arrays import tidy
from dhcli.words import counted, named

HOLDS = Holds(
    "from 0, x y width height", columns=frozenset((SOURCE,)), own_columns=True, split_names="file"
)

_PREFIX = "instances_"
_NO_INSTANCES = ("person_keypoints", "captions", "stuff", "panoptic", "image_info")
_HEAD = 1 << 12
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BLOCK = 1 << 9
"""Annotations that are written at a time."""
_ENCODER = msgspec.json.Encoder()


def _instances(files: list[Path]) -> list[Path]:
    """Those of the files that tell of instances, and of splits that these do not; else all."""
    chosen = [file for file in files if file.name.startswith("instances")]
    if not chosen:
        return files
    known = {split_name(file.stem) for file in chosen} | {None}
    others = (file for file in files if split_name(file.stem) not in known)
    return [*chosen, *(file for file in others if not file.name.startswith(_NO_INSTANCES))]


def _is_coco(path: Path) -> bool:
    """Whether a JSON file has COCO's lists, by their names alone."""
    if path.suffix.lower() != ".json" or not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        if text[:2] in _UTF16:
            return begins_as(path, "{", "images", "categories")
        starts = text[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
        return starts and all(_says(text, name) for name in (b'"images"', b'"categories"'))


def _says(text: mmap.mmap, name: bytes) -> bool:
    """Whether `name` is in `text`: looked for at its ends first, where a large file has it."""
    return text.find(name, 0, _HEAD) >= 0 or text.rfind(name) >= 0


def read_coco(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    entries = read_entries(path)
    rows = entries.image_of_box
    order = np.argsort(rows, kind="stable")
    order = order[np.searchsorted(rows[order], 0) :]
    labels, flags = entries.labels_and_flags()
    strange = int(np.sum((labels == ANY_CLASS) & (flags & Flag.IGNORE == 0)))
    boxes = entries.boxes
    _require_some(path, boxes, len(order), strange)
    files, strays = locate_images(root, path, entries.names)
    texts, image_texts = entries.texts()
    ids, ids_of_classes = entries.image_id_texts(), entries.category_id_texts()
    counts = {
        "annotation of an image that the file does not list: left out": len(rows) - len(order),
        "annotation without box: read as the box around its mask": entries.hulls,
        "annotation of a category that the file does not define": strange,
    }
    notes = [counted(count, what) for what, count in counts.items() if count]
    relative = path.relative_to(root).as_posix()
    table = make_table(
        root,
        files,
        fill_sizes(root, files, entries.sizes),
        np.bincount(rows[order], minlength=len(files)),
        boxes[order],
        labels[order],
        entries.classes,
        flags=flags[order],
        image_ids=entries.image_ids,
        category_ids=entries.category_ids,
        areas=entries.areas[order],
        box_ids=entries.box_ids[order],
        extras={} if texts is None else {SOURCE: texts[order]},
        image_extras={"annotation": Strings.repeat(relative, len(files))}
        | ({} if image_texts is None else {SOURCE: image_texts})
        | ({} if ids is None else {TEXT_ID: Strings.pack(ids)}),
        about={SOURCE: json.dumps(entries.about)}
        | ({TEXT_ID: json.dumps(ids_of_classes)} if ids_of_classes else {}),
        notes=(*notes, *strays, *_notes_on_classes(entries)),
        remarks=tuple(Remark(UNREADABLE, f"{relative}:{n}", what) for n, what in entries.bad),
    )
    table = with_notes_on_corners(_in_pixels(table, path))
    return _without(table, entries.lost_images())


def _in_pixels(table: DetectionTable, path: Path) -> DetectionTable:
    """The table with boxes in pixels; if they are told in fractions, areas and masks are left out.

    Raises DataError as `from_fractions` does.
    """
    found = from_fractions(
        table.boxes,
        table.sizes,
        table.image_of_box,
        path,
        lambda row: (f"annotation {table.box_ids[row]}", path),
    )
    if found is None:
        return table
    return replace(
        table,
        boxes=found.boxes,
        areas=np.full(len(table.boxes), np.nan),
        extras={name: column for name, column in table.extras.items() if name != SOURCE},
        notes=(*table.notes, *found.notes),
    )


def _without(table: DetectionTable, lost: Sequence[int]) -> DetectionTable:
    """The table without the images `lost`, of which no annotation can be read, and a note."""
    if not lost:
        return table
    note = named([table.files[image] for image in lost], LOST_IMAGE)
    return replace(
        table.keep_images(~np.isin(np.arange(len(table)), lost)), notes=(*table.notes, note)
    )


def _notes_on_classes(entries: Entries) -> Iterator[str]:
    if entries.repeated:
        twice = ", ".join(f"`{name}`" for name in entries.repeated)
        yield f"categories of the same name are one class: {twice}"
    if entries.nameless:
        yield named(entries.nameless, "category without a name, called by its id")
    if entries.root:
        yield f"category 0, `{entries.root}`, is above the others and has no boxes: not a class"


def _require_some(path: Path, boxes: NDArray[np.float64], listed: int, strange: int) -> None:
    """Raise DataError where annotations are all lost.

    `listed` of the `boxes` (M, 4) are in an image of the file, `strange` in no category of it.
    """
    if not len(boxes):
        return
    what = ""
    if not listed:
        what = "is of an image that it lists: `image_id` names none"
    elif strange == len(boxes):
        what = "is of a category that it defines: `category_id` names none"
    elif np.isnan(boxes).all():
        what = "has a box: neither `bbox` nor a mask in `segmentation`"
    if what:
        raise DataError(f"none of its annotations ({len(boxes):,}) {what}", where=path)


def write_coco(table: DetectionTable, placing: Placing) -> None:
    """Write images/ and annotations/, one file per split; predictions as COCO results."""
    placing.place("images")
    if table.scores is not None:
        table = table.keep_boxes(table.labels != ANY_CLASS)
        rows = (json.dumps(row) for row in results_of(table))
        placing.write_lines(RESULTS, _list(rows, "[", "]"))
        named = {"images": list(_images(table, placing.names)), "categories": _categories(table)}
        placing.write(CATEGORIES, json.dumps(named, indent=1))
        return
    for split, images in placing.parts().items():
        name = f"annotations/instances_{split}.json" if split else "annotations/instances.json"
        names = [placing.names[image] for image in images.tolist()]
        part = table.take_images(images)
        placing.write_lines(name, _document(part.with_sound_ids(), names))


def _document(table: DetectionTable, names: Sequence[str]) -> Iterator[str]:
    """A COCO file in pieces, an entry a line."""
    about = {key: value for key, value in table.source_of_all().items() if key != "categories"}
    head = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in about.items())
    yield f"{{\n{head}"
    yield from _list((json.dumps(row) for row in _images(table, names)), '"images": [', "],")
    yield from _list(_annotations(table), '"annotations": [', "],")
    rows = (json.dumps(row) for row in _categories(table))
    yield from _list(rows, '"categories": [', "]\n}")


def _list(rows: Iterable[str], head: str, tail: str) -> Iterator[str]:
    yield head
    for index, row in enumerate(rows):
        yield f",\n{row}" if index else f"\n{row}"
    yield f"\n{tail}\n"


def _images(table: DetectionTable, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    told_of = table.source_fields() if SOURCE in table.image_extras else repeat({}, len(table))
    own = table.own_columns()
    values = zip(*own.values(), strict=True) if own else repeat((), len(table))
    ids, sizes = table.image_ids.tolist(), table.sizes.tolist()
    rows = zip(told_of, values, ids, names, sizes, strict=True)
    for source, fields, number, name, (width, height) in rows:
        told = {"id": number, "file_name": name, "width": width, "height": height}
        yield source | dict(zip(own, fields, strict=True)) | told


def _categories(table: DetectionTable) -> list[dict[str, Any]]:
    more = table.source_of_all().get("categories", {})
    pairs = zip(table.category_ids.tolist(), table.classes, strict=True)
    rows = [{"id": number, "name": name, **more.get(name, {})} for number, name in pairs]
    if (table.labels == ANY_CLASS).any():
        rows.append({"id": _no_class(table), "name": DONT_CARE})
    return rows


def _no_class(table: DetectionTable) -> int:
    """The category id of regions of no class."""
    return int(table.category_ids.max(initial=0)) + 1


class _Plain(msgspec.Struct, gc=False):
    """An annotation that says nothing but what the columns hold."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int = 0
    segmentation: tuple[()] = ()


def _annotations(table: DetectionTable) -> Iterator[str]:
    """JSON of the annotations, an entry a line: as they were read, where columns say the same."""
    flags = table.flags | np.where(table.labels == ANY_CLASS, REGION, 0)
    texts = table.extras.get(SOURCE)
    says_more = flags != 0
    if isinstance(texts, Strings):
        says_more |= texts.says()
    columns = _columns(table)
    for start in writing(range(0, len(flags), _BLOCK)):
        rows: list[Any] = list(map(_Plain, *(c[start : start + _BLOCK].tolist() for c in columns)))
        odd = start + np.flatnonzero(says_more[start : start + _BLOCK])
        of_odd = texts[odd] if isinstance(texts, Strings) else [""] * len(odd)
        for row, text in zip(odd.tolist(), of_odd, strict=True):
            box, bits = table.boxes[row].tolist(), Flag(int(flags[row]))
            full = _annotation(text, rows[row - start], box, bits)
            rows[row - start] = msgspec.Raw(json.dumps(full).encode())
        yield _ENCODER.encode_lines(rows)[:-1].replace(b"\n", b",\n").decode()


def _columns(table: DetectionTable) -> tuple[NDArray[Any], ...]:
    """The fields of `_Plain`, (M,) or (M, 4) each."""
    xywh = columns_xywh(table.boxes)
    with np.errstate(over="ignore"):
        areas = tidy(xywh[:, 2:].prod(axis=1), WRITTEN)
    return (
        table.box_ids,
        table.image_ids[table.image_of_box],
        np.append(table.category_ids, _no_class(table))[table.labels],
        xywh,
        np.where(np.isnan(table.areas), areas, table.areas),
    )


def _annotation(text: str, plain: _Plain, box: Sequence[float], flags: Flag) -> dict[str, Any]:
    """The annotation whose own JSON is `text`, with what `plain` and `flags` say otherwise."""
    row = parse_source(text)
    row |= {"id": plain.id, "image_id": plain.image_id, "category_id": plain.category_id}
    if not _same_box(row.get("bbox"), box):
        row["bbox"] = plain.bbox
    if row.get("area") != plain.area:
        row["area"] = plain.area
    if type(row.get("iscrowd")) is not int:
        row["iscrowd"] = int(Flag.CROWD in flags)
    if row.get("segmentation") is None:
        row["segmentation"] = []
    if flags_of_row(row) != flags:
        row["iscrowd"] = int(Flag.CROWD in flags)
        _mark(row, flags)
    return row


def _mark(row: dict[str, Any], flags: Flag) -> None:
    if Flag.IGNORE in flags or "ignore" in row:
        row["ignore"] = int(Flag.IGNORE in flags)
    told = row.get("attributes")
    told = told if isinstance(told, dict) else {}
    marks = {
        name: flag in flags for name, flag in ATTRIBUTES.items() if flag in flags or name in told
    }
    if marks:
        row["attributes"] = told | marks


def _same_box(bbox: Any, box: Sequence[float]) -> bool:
    """Whether a row says the box, in numbers: some programs write them as text."""
    if not bbox or not all(isinstance(number, int | float) for number in bbox):
        return False
    return from_xywh(*map(float, bbox)) == tuple(box)


LAYOUT = FilePerSplit(
    "annotations/*.json, or *.json in one folder per split",
    (".json",),
    _is_coco,
    prefer=_instances,
    prefix=_PREFIX,
    has_ids=True,
)
FORMAT = Format("COCO", LAYOUT, read_coco, write_coco, HOLDS)
