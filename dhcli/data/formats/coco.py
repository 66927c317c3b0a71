"""COCO JSON: instances, one file a dataset or a split.

Tolerated: sparse ids and ids as text, decimals, absent `area`, `iscrowd`, `info`, `licenses`; boxes
told by polygons alone, categories of the same name (one class), `coco_url` for `file_name` (LVIS).
Kept, so that COCO is written back as it was read: ids, crowd, areas, masks (polygons, RLE) and any
other field of an annotation, of an image, a category and the file. What columns do not hold is the
extra column `coco`: where in the file the entry lies. It is read again when it is wanted, and must
not have changed meanwhile.
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

from dhcli.data.formats.coco_entries import RAW, flags_of_row, parse_raw, read_entries
from dhcli.data.formats.coco_results import results_of
from dhcli.data.formats.columns import DONT_CARE, tidy
from dhcli.data.formats.format import Format
from dhcli.data.formats.locate import find_files, locate_images, read_as_splits
from dhcli.data.formats.placing import Holds, Placing, writing
from dhcli.data.ids import sound_ids
from dhcli.data.io.files import fill_sizes
from dhcli.data.io.json_text import begins_as
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag, Strings, make_table
from dhcli.words import counted

LOOKS_FOR = "annotations/*.json, or *.json in a folder a split (COCO)"
HOLDS = Holds("from 0, x y width height", columns=frozenset((RAW,)), own_columns=True)

_MARKS = {"difficult": Flag.DIFFICULT, "truncated": Flag.TRUNCATED, "occluded": Flag.OCCLUDED}
_HEAD = 1 << 12
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BLOCK = 1 << 9
"""Annotations that are written at a time."""
_ENCODER = msgspec.json.Encoder()


def sniff_coco(path: Path) -> bool:
    """Whether `path` is a COCO file or a folder with some."""
    return _is_coco(path) if path.is_file() else bool(_find_files(path))


def read_coco(path: Path) -> DetectionTable:
    """Read one COCO file, or all in a folder as splits.

    Raises DataError with the file and line of what cannot be read.
    """
    files = [] if path.is_file() else _find_files(path)
    return read_as_splits(path, files, _read_file, LOOKS_FOR, "COCO", has_ids=True)


def _find_files(root: Path) -> list[Path]:
    """COCO files of a folder; where some tell of instances, these alone."""
    files = find_files(root, ".json", _is_coco)
    return [file for file in files if file.name.startswith("instances")] or files


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


def _read_file(root: Path, path: Path) -> DetectionTable:
    entries = read_entries(path)
    rows = entries.image_of_box
    order = np.argsort(rows, kind="stable")
    order = order[np.searchsorted(rows[order], 0) :]
    labels, flags = entries.labels_and_flags()
    files, strays = locate_images(root, path, entries.names)
    texts, image_texts = entries.texts()
    annotation = Strings.repeat(path.relative_to(root).as_posix(), len(files))
    notes = {
        "annotation of an image that the file does not list: left out": len(rows) - len(order),
        "annotation without box: read as that around the polygons": entries.hulls,
        "annotation of a category that the file does not define": int(
            np.sum((labels == ANY_CLASS) & (flags & Flag.IGNORE == 0))
        ),
    }
    twice = ", ".join(f"`{name}`" for name in entries.repeated)
    strays += [f"categories of the same name are one class: {twice}"] if twice else []
    return make_table(
        root,
        files,
        fill_sizes(root, files, entries.sizes),
        np.bincount(rows[order], minlength=len(files)),
        entries.boxes[order],
        labels[order],
        entries.classes,
        flags=flags[order],
        image_ids=entries.image_ids,
        category_ids=entries.category_ids,
        areas=entries.areas[order],
        box_ids=entries.box_ids[order],
        extras={} if texts is None else {RAW: texts[order]},
        image_extras={"annotation": annotation}
        | ({} if image_texts is None else {RAW: image_texts}),
        about={RAW: json.dumps(entries.about)},
        format="coco",
        notes=(*(counted(count, what) for what, count in notes.items() if count), *strays),
    )


def write_coco(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and annotations/, a file a split; predictions as COCO results."""
    placing.place("images")
    if table.scores is not None:
        table = table.keep_boxes(table.labels != ANY_CLASS)
        rows = (json.dumps(row) for row in results_of(table))
        placing.write_lines("predictions.bbox.json", _list(rows, "[", "]"))
        named = {"images": list(_images(table, placing.names)), "categories": _categories(table)}
        placing.write("categories.json", json.dumps(named, indent=1))
        return
    for split, images in placing.parts().items():
        name = f"annotations/instances_{split}.json" if split else "annotations/instances.json"
        names = [placing.names[image] for image in images.tolist()]
        part = table.take_images(images)
        part = replace(part, box_ids=sound_ids(part.box_ids))
        placing.write_lines(name, _document(part, names))


def _document(table: DetectionTable, names: Sequence[str]) -> Iterator[str]:
    """A COCO file in pieces, an entry a line."""
    about = {key: value for key, value in _about(table).items() if key != "categories"}
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


def _about(table: DetectionTable) -> dict[str, Any]:
    return parse_raw(table.about.get(RAW, ""))


def _images(table: DetectionTable, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    texts = _texts(table.image_extras.get(RAW), len(table))
    own = table.own_columns()
    values = zip(*own.values(), strict=True) if own else repeat((), len(table))
    ids, sizes = table.image_ids.tolist(), table.sizes.tolist()
    rows = zip(texts, values, ids, names, sizes, strict=True)
    for text, fields, number, name, (width, height) in rows:
        told = {"id": number, "file_name": name, "width": width, "height": height}
        yield parse_raw(text) | dict(zip(own, fields, strict=True)) | told


def _categories(table: DetectionTable) -> list[dict[str, Any]]:
    more = _about(table).get("categories", {})
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
    flags = table.flags | np.where(table.labels == ANY_CLASS, Flag.CROWD | Flag.IGNORE, 0)
    texts = table.extras.get(RAW)
    says_more = flags != 0
    if isinstance(texts, Strings):
        says_more |= texts.stops > texts.starts
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
    # Nine decimals bring back what a file said: x + w - x is not w in floating point.
    with np.errstate(over="ignore"):
        sides = tidy(table.boxes[:, 2:] - table.boxes[:, :2], 9)
        areas = tidy(sides.prod(axis=1), 9)
    return (
        table.box_ids,
        table.image_ids[table.image_of_box],
        np.append(table.category_ids, _no_class(table))[table.labels],
        np.hstack([table.boxes[:, :2], sides]),
        np.where(np.isnan(table.areas), areas, table.areas),
    )


def _annotation(text: str, plain: _Plain, box: Sequence[float], flags: Flag) -> dict[str, Any]:
    """The annotation whose own JSON is `text`, with what `plain` and `flags` say otherwise."""
    row = parse_raw(text)
    row |= {"id": plain.id, "image_id": plain.image_id, "category_id": plain.category_id}
    if not _same_box(row.get("bbox"), box):
        row["bbox"] = plain.bbox
    if row.get("area") != plain.area:
        row["area"] = plain.area
    row.setdefault("iscrowd", 0)
    row.setdefault("segmentation", [])
    if flags_of_row(row) != flags:
        row["iscrowd"] = int(Flag.CROWD in flags)
        _mark(row, flags)
    return row


def _mark(row: dict[str, Any], flags: Flag) -> None:
    if Flag.IGNORE in flags or "ignore" in row:
        row["ignore"] = int(Flag.IGNORE in flags)
    told = row.get("attributes")
    told = told if isinstance(told, dict) else {}
    marks = {name: flag in flags for name, flag in _MARKS.items() if flag in flags or name in told}
    if marks:
        row["attributes"] = told | marks


def _same_box(bbox: Any, box: Sequence[float]) -> bool:
    if not bbox:
        return False
    x, y, width, height = (float(value) for value in bbox)
    return [x, y, x + width, y + height] == list(box)


def _texts(column: Any, count: int) -> Iterable[str]:
    return column if isinstance(column, Strings) else [""] * count


FORMAT = Format("COCO", LOOKS_FOR, sniff_coco, read_coco, write_coco, HOLDS)
