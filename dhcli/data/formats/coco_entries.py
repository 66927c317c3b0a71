"""The entries of one COCO file, gathered as columns while the file is read."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain, count
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.boxes import Box, hull
from dhcli.data.formats.columns import DONT_CARE, is_set, side_of
from dhcli.data.formats.rle import box_of_rle
from dhcli.data.io.file_bytes import FileBytes
from dhcli.data.io.json_stream import JsonStream, NotPlain, Objects
from dhcli.data.io.json_text import JsonText, Take
from dhcli.data.io.text_rows import number_of
from dhcli.data.strings import FileStrings, PackedStrings, Strings
from dhcli.data.table import ANY_CLASS, HELD, Flag
from dhcli.errors import DataError

ATTRIBUTES = {"difficult": Flag.DIFFICULT, "truncated": Flag.TRUNCATED, "occluded": Flag.OCCLUDED}
_FIELDS = frozenset(("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"))
_INT64 = 2**63


class _Image(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An image that says nothing but what the columns hold."""

    id: int
    file_name: str
    width: int = 0
    height: int = 0


class _FullImage(msgspec.Struct, gc=False):
    """An image that may say more."""

    id: int
    file_name: str
    width: int = 0
    height: int = 0


class _Annotation(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An annotation as nearly all are; its mask is passed over."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    id: int = 0
    area: float = math.nan
    iscrowd: int = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"[]")


_IMAGES = msgspec.json.Decoder(list[_Image])
_FULL_IMAGES = msgspec.json.Decoder(list[_FullImage])
_ANNOTATIONS = msgspec.json.Decoder(list[_Annotation])
_NOTHING = frozenset((b"[]", b"null", b"{}"))
_SHORT = max(map(len, _NOTHING))


class EntryError(ValueError):
    """What is wrong with an entry, which can be left out."""


class ClashError(EntryError):
    """Two entries that cannot both be: of the file as a whole."""


def read_entries(path: Path) -> Entries:
    """The entries of a COCO file: by the fast way where the file is plain, else by the careful one.

    Raises DataError with the line of what cannot be read.
    """
    entries = Entries()
    try:
        entries.about |= JsonStream(path).read_object(
            {
                "images": entries.add_images,
                "annotations": entries.add_annotations,
                "categories": entries.add_categories,
            }
        )
        entries.buffer = FileBytes.of(path)
    except (NotPlain, EntryError):
        entries = _read_carefully(path)
    entries.order_classes()
    return entries


def _read_carefully(path: Path) -> Entries:
    entries, text = Entries(), JsonText(path)

    def taken(add: Take, bad: list[tuple[int, str]]) -> Take:
        def take(row: Any, start: int, stop: int) -> None:
            try:
                add(row, start, stop)
            except EntryError as error:
                if isinstance(error, ClashError):
                    raise text.fail(str(error), start) from None
                bad.append((text.line(start), str(error)))
                entries.doubt(row)

        return take

    images: list[tuple[int, str]] = []
    annotations: list[tuple[int, str]] = []
    categories: list[tuple[int, str]] = []
    entries.about |= text.read_object(
        {
            "images": taken(entries.add_image, images),
            "annotations": taken(entries.add_annotation, annotations),
            "categories": taken(entries.add_category, categories),
        }
    )
    found = ((images, entries.names), (annotations, entries.boxes), (categories, ()))
    for bad, good in found:  # a bad category is an error in itself
        if bad and not len(good):
            line, what = bad[0]
            raise DataError(what, where=f"{path}:{line}", hint=_hint(what))
    entries.bad = sorted([*images, *annotations])
    entries.buffer = text.text
    return entries


def _hint(what: str) -> str | None:
    """What to do where every annotation has the fault `what`."""
    if "category" not in what:
        return None
    return (
        "VIA's COCO export names a category only where a region has an attribute with options; "
        "VIA's own JSON is read too, and holds more: export that"
    )


class Entries:
    """Images, annotations and categories of a COCO file, in the file's order.

    names       file name of each image, as written
    sizes       (I, 2) int32, 0 where not told
    boxes       (M, 4) float64 xyxy, of all annotations
    classes     names by ascending id, `DontCare` left out
    repeated    names that several categories have: one class
    nameless    categories without a name, called by their ids
    root        Roboflow's category that only groups the others, and is no class; "" for none
    hulls       how many annotations tell no box but the mask that it lies around
    bad         line and fault of the images and annotations that cannot be read: left out
    about       what else the file tells: info, licenses, fields of categories
    buffer      what the spans of entries are of: the file's bytes, or its text
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.classes: tuple[str, ...] = ()
        self.repeated: tuple[str, ...] = ()
        self.nameless: list[str] = []
        self.root = ""
        self.hulls = 0
        self.bad: list[tuple[int, str]] = []
        self._doubted: set[int] = set()
        self.about: dict[str, Any] = {}
        self.buffer: FileBytes | str = ""
        self._images, self._categories = _Ids(), _Ids()
        self._row_of_image: dict[int, int] = {}
        self._category: dict[int, dict[str, Any]] = {}
        self._sizes = array("q")
        self._image_spans, self._spans = array("q"), array("q")
        self._image_of_box, self._category_of_box = array("q"), array("q")
        self._xywh, self._areas = array("d"), array("d")
        self._flags, self._ids = array("B"), array("q")

    @property
    def sizes(self) -> NDArray[np.int32]:
        return np.array(self._sizes, np.int32).reshape(-1, 2)

    @property
    def boxes(self) -> NDArray[np.float64]:
        boxes = np.array(self._xywh, np.float64).reshape(-1, 4)
        with np.errstate(over="ignore", invalid="ignore"):
            boxes[:, 2:] += boxes[:, :2]
        return boxes

    @property
    def areas(self) -> NDArray[np.float64]:
        return np.array(self._areas, np.float64)

    @property
    def box_ids(self) -> NDArray[np.int64]:
        return np.array(self._ids, np.int64)

    @property
    def image_ids(self) -> NDArray[np.int64]:
        return self._images.own(list(self._row_of_image))

    @property
    def category_ids(self) -> NDArray[np.int64]:
        return self._categories.own(self._ordered)

    def image_id_texts(self) -> list[str] | None:
        """Image ids as they are told, "" for those that are not text; None where none is."""
        told = self._images.texts
        return [told.get(number, "") for number in self._row_of_image] if told else None

    def category_id_texts(self) -> dict[str, str]:
        """The ids that are told as text, by the names of the classes."""
        told = self._categories.texts
        pairs = zip(self.classes, self._ordered, strict=True)
        return {name: told[number] for name, number in pairs if number in told}

    @property
    def image_of_box(self) -> NDArray[np.int64]:
        """(M,) row of the image of each annotation; -1 where the file has no such image."""
        return _look_up(self._image_of_box, self._row_of_image)

    def doubt(self, row: Any) -> None:
        """Remember the image of an annotation that cannot be read."""
        with suppress(AttributeError, KeyError, TypeError):
            self._doubted.add(self._images.number(row["image_id"], "image_id"))

    def lost_images(self) -> list[int]:
        """Rows of the images that have annotations, none of which can be read."""
        read = set(self.image_of_box.tolist()) if self._doubted else set()
        rows = (self._row_of_image.get(number, -1) for number in sorted(self._doubted))
        return [row for row in rows if row >= 0 and row not in read]

    def labels_and_flags(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """(M,) each. A category that the file does not define is ANY_CLASS, without a flag."""
        labels = _look_up(self._category_of_box, self._label_of)
        flags = np.array(self._flags, np.uint8)
        apart = [n for n, row in self._category.items() if row["name"] == DONT_CARE]
        region = np.isin(np.array(self._category_of_box, np.int64), apart)
        flags[region] = Flag.IGNORE.value
        return labels.astype(np.int32), flags

    def texts(self) -> tuple[Strings | None, Strings | None]:
        """JSON of the annotations and of the images that say more than columns hold, else ""."""
        return self._cut(self._spans), self._cut(self._image_spans)

    def _cut(self, spans: array[int]) -> Strings | None:
        starts, stops = np.array(spans, np.int64).reshape(-1, 2).T.copy()
        if not (stops > starts).any():
            return None
        text = self.buffer
        if isinstance(text, FileBytes):
            return FileStrings(text, starts, stops)
        if text.isascii() and 2 * int((stops - starts).sum()) > len(text):
            return PackedStrings(np.frombuffer(text.encode("ascii"), np.uint8), starts, stops)
        pairs = zip(starts.tolist(), stops.tolist(), strict=True)
        return Strings.pack(text[start:stop] for start, stop in pairs)

    def add_images(self, objects: Objects) -> None:
        """Add images; those that are not as usual one by one."""
        rows: list[_Image] | list[_FullImage] | None = objects.typed(_IMAGES)
        says_more = rows is None
        rows = objects.typed(_FULL_IMAGES) if rows is None else rows
        sizes = None if rows is None else _whole_columns(rows, "id", "width", "height")
        if rows is None or sizes is None or _out_of_range(sizes[:, 1:]):
            return _each(objects, self.add_image)
        numbers = self._images.numbers(map(attrgetter("id"), rows))
        known = len(self._row_of_image)
        self._row_of_image |= zip(numbers, range(known, known + len(rows)), strict=True)
        if len(self._row_of_image) < known + len(rows):
            raise ClashError("two images have one id")
        self.names.extend(map(attrgetter("file_name"), rows))
        self._sizes.frombytes(sizes[:, 1:].tobytes())
        self._image_spans.frombytes(_spans(objects, np.full(len(rows), says_more)))
        return None

    def add_annotations(self, objects: Objects) -> None:
        """Add annotations; those that are not as usual one by one."""
        rows = objects.typed(_ANNOTATIONS)
        columns = None if rows is None else _whole_columns(rows, "id", "iscrowd")
        if rows is None or columns is None:
            return _each(objects, self.add_annotation)
        self._ids.frombytes(columns[:, 0].tobytes())
        self._flags.frombytes(((columns[:, 1] > 0) * np.uint8(Flag.CROWD)).tobytes())
        self._image_of_box.extend(self._images.numbers(map(attrgetter("image_id"), rows)))
        categories = map(attrgetter("category_id"), rows)
        self._category_of_box.extend(self._categories.numbers(categories))
        self._xywh.extend(chain.from_iterable(map(attrgetter("bbox"), rows)))
        self._areas.extend(map(attrgetter("area"), rows))
        says_more = _are_said([row.segmentation for row in rows])
        self._spans.frombytes(_spans(objects, says_more))
        return None

    def add_categories(self, objects: Objects) -> None:
        _each(objects, self.add_category)

    def add_image(self, row: Any, start: int, stop: int) -> None:
        try:
            number = self._images.number(row["id"], "id")
            by_url = "coco_url" in row and "file_name" not in row
            name = _end_of_url(str(row["coco_url"])) if by_url else row["file_name"]
        except (KeyError, TypeError, ValueError) as error:
            raise EntryError(f"an image {_missing(error)}") from None
        if number in self._row_of_image:
            raise ClashError(f"two images have the id {row['id']}")
        if not isinstance(name, str):
            raise EntryError("an image whose `file_name` is not text")
        self._row_of_image[number] = len(self.names)
        self.names.append(name)
        self._sizes.extend((side_of(row.get("width")), side_of(row.get("height"))))
        says_more = not HELD.issuperset(row)
        self._image_spans.extend((start, stop) if says_more else (0, 0))

    def add_category(self, row: Any, start: int, _: int) -> None:
        try:
            number = self._categories.number(row["id"], "id")
            name = _name(row.get("name"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EntryError(f"a category {_missing(error)}") from None
        if not name:
            name = str(row["id"])
            self.nameless.append(name)
        if self._category.setdefault(number, row | {"name": name})["name"] != name:
            raise ClashError(f"two categories have the id {row['id']}")

    def add_annotation(self, row: Any, start: int, stop: int) -> None:
        try:
            image = self._images.number(row["image_id"], "image_id")
            category = self._categories.number(row["category_id"], "category_id")
            x, y, width, height = self._box(row)
            area = _area(row.get("area"))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            name = f"annotation {row.get('id', '')}" if isinstance(row, dict) else "an annotation"
            raise EntryError(f"{name} {_missing(error)}") from None
        self._image_of_box.append(image)
        self._category_of_box.append(category)
        self._xywh.extend((x, y, width, height))
        self._areas.append(area)
        self._ids.append(_whole(row.get("id")))
        self._flags.append(flags_of_row(row))
        says_more = row.get("segmentation") or not _FIELDS.issuperset(row)
        self._spans.extend((start, stop) if says_more else (0, 0))

    def _box(self, row: dict[str, Any]) -> tuple[float, float, float, float]:
        """The box xywh of an annotation; if it tells none, that around its mask, else NaN."""
        bbox, mask = row.get("bbox"), row.get("segmentation")
        if bbox not in (None, []):
            return _floats(bbox)
        around = _box_of_mask(mask) if mask else None
        if around is None:
            return (math.nan, math.nan, math.nan, math.nan)
        x1, y1, x2, y2 = around
        self.hulls += 1
        return x1, y1, x2 - x1, y2 - y1

    def _find_root(self) -> int | None:
        """The category 0 that others name as the one above them, and that no box has."""
        number = self._categories.find(0)
        if number not in self._category or number in self._category_of_box:
            return None
        name = self._category[number]["name"]
        others = (row for other, row in self._category.items() if other != number)
        return number if any(row.get("supercategory") == name for row in others) else None

    def order_classes(self) -> None:
        root = self._find_root()
        if root is not None:
            self.root = str(self._category.pop(root)["name"])
        kept = [n for n, row in self._category.items() if row["name"] != DONT_CARE]
        ids = self._categories.own(kept)
        ordered = [kept[index] for index in np.argsort(ids, kind="stable").tolist()]
        names = {number: str(self._category[number]["name"]) for number in ordered}
        first: dict[str, int] = {}
        for number, name in names.items():
            first.setdefault(name, number)
        self.classes, self._ordered = tuple(first), list(first.values())
        label = {name: k for k, name in enumerate(first)}
        self._label_of = {number: label[name] for number, name in names.items()}
        again = (name for number, name in names.items() if first[name] != number)
        self.repeated = tuple(dict.fromkeys(again))
        rows = (self._category[number] for number in self._ordered)
        self.about["categories"] = {
            row["name"]: {k: v for k, v in row.items() if k not in ("id", "name")} for row in rows
        }


class _Ids:
    """Numbers 0, 1 … for ids as they come up: whole numbers, or text."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}  # of those told as text
        self._numbers = _Numbers()

    def number(self, raw: Any, field: str) -> int:
        if type(raw) is int:
            return self._numbers[raw]
        number = self._numbers[id_of(raw, field)]
        if isinstance(raw, str):
            self.texts.setdefault(number, raw)
        return number

    def find(self, own: int) -> int | None:
        return self._numbers.get(own)

    def numbers(self, ids: Iterable[int]) -> list[int]:
        return list(map(self._numbers.__getitem__, ids))

    def own(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        """The ids behind `numbers`; for text, and what is too large for 64 bits, the next ones."""
        ids = list(self._numbers)
        wanted = [ids[number] for number in numbers]
        whole = {each: each for each in wanted if isinstance(each, int) and _is_int64(each)}
        largest = max((0, *whole))
        if largest + len(wanted) >= _INT64:
            return np.arange(1, len(wanted) + 1)
        free = count(largest + 1)
        return np.array([whole[each] if each in whole else next(free) for each in wanted], np.int64)


class _Numbers(dict[int | str, int]):
    """Whoever is not yet in it gets the next number."""

    def __missing__(self, key: int | str) -> int:
        return self.setdefault(key, len(self))


def _each(objects: Objects, add: Take) -> None:
    spans = zip(objects.plain(), objects.starts.tolist(), objects.stops.tolist(), strict=True)
    for row, start, stop in spans:
        add(row, start, stop)


def _whole_columns(rows: Sequence[object], *names: str) -> NDArray[np.int64] | None:
    """(n, k) the fields `names` of the rows; None where one is beyond 64 bits."""
    try:
        return np.array(list(map(attrgetter(*names), rows)), np.int64)
    except OverflowError:
        return None


def _are_said(masks: Sequence[msgspec.Raw]) -> NDArray[np.bool_]:
    """(n,) whether there is a mask."""
    # One view at a time: many at once would have the garbage collector look at them.
    lengths = map(len, map(memoryview, masks))  # type: ignore[arg-type]
    said = np.fromiter(lengths, np.int64, len(masks)) > _SHORT
    for index in np.flatnonzero(~said).tolist():
        said[index] = bytes(memoryview(masks[index])) not in _NOTHING
    return said


def _out_of_range(sizes: NDArray[np.int64]) -> bool:
    return bool(((sizes < 0) | (sizes >= 2**31)).any())


def _spans(objects: Objects, said: NDArray[np.bool_]) -> bytes:
    """Where the objects lie, 0 and 0 for those that are not `said` to hold more, as int64."""
    return (np.stack([objects.starts, objects.stops], 1) * said[:, None]).tobytes()


def flags_of_row(row: dict[str, Any]) -> int:
    """The flags that an annotation carries."""
    if not (row.get("iscrowd") or "ignore" in row or "attributes" in row):
        return 0
    marks = row.get("attributes")
    told = (
        (Flag.CROWD, row.get("iscrowd")),
        (Flag.IGNORE, row.get("ignore")),
        *((f, marks.get(n)) for n, f in ATTRIBUTES.items() if isinstance(marks, dict)),
    )
    return sum(flag.value for flag, value in told if is_set(value))


def _box_of_mask(mask: Any) -> Box | None:
    """The box around a mask: polygons, one polygon by itself, or run lengths; None if empty."""
    what = "run lengths with their `size`"
    try:
        if isinstance(mask, dict):
            return box_of_rle(mask)
        what = "polygons, each a list x, y, x, y …"
        polygons = mask if isinstance(mask[0], list) else [mask]
        return hull(point for ring in polygons for point in zip(ring[::2], ring[1::2], strict=True))
    except (TypeError, ValueError, OverflowError) as error:
        told = (
            str(error) if str(error).startswith("whose") else f"whose `segmentation` is not {what}"
        )
        raise ValueError(told) from None


def _name(raw: Any) -> str:
    """The name of a category, "" where there is none: null, empty, or no text or number."""
    named = isinstance(raw, str | int | float) and not isinstance(raw, bool)
    return str(raw) if named and str(raw).strip() else ""


def id_of(raw: Any, field: str = "id") -> int | str:
    """An id as it counts: digits in text and 1.0 are whole numbers. Raises TypeError."""
    if isinstance(raw, str):
        digits = raw.strip()
        is_whole = digits.removeprefix("-").isdecimal() and len(digits) < 19
        return int(digits) if is_whole else raw
    if isinstance(raw, float) and raw.is_integer():
        return int(raw)
    if raw is None and field != "id":
        raise TypeError(f"has no {field.removesuffix('_id')}: `{field}` is null")
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise TypeError(f"whose `{field}` is neither a whole number nor text")
    return raw


def _whole(raw: Any) -> int:
    """An annotation's id, 0 where it has none that is a whole number of 64 bits."""
    try:
        number = raw if type(raw) is int else id_of(raw)
    except TypeError:
        return 0
    return number if isinstance(number, int) and _is_int64(number) else 0


def _is_int64(number: int) -> bool:
    return -_INT64 <= number < _INT64


def _end_of_url(url: str) -> str:
    """File and folder at the end of LVIS's address of an image."""
    return "/".join(url.split("/")[-2:])


def _floats(bbox: Any) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = map(number_of, bbox)
    except (TypeError, ValueError):
        raise ValueError("whose `bbox` is not four numbers") from None
    return x, y, width, height


def _area(told: Any) -> float:
    """An annotated area, NaN where there is none."""
    try:
        return math.nan if told is None else float(told)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("whose `area` is not a number") from None


def _missing(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"has no `{error.args[0]}`"
    text = str(error)
    told = text.startswith(("whose", "has no"))
    return text if told else "is not an object with the fields it needs"


def _look_up(numbers: array[int], place: dict[int, int]) -> NDArray[np.int64]:
    """The place of each number; -1 where it has none."""
    values = np.array(numbers, np.int64)
    table = np.full(int(max(values.max(initial=-1), *place, -1)) + 1, ANY_CLASS, np.int64)
    table[list(place)] = list(place.values())
    return table[values]
