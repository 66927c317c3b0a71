"""The entries of one COCO file, gathered as columns while the file is read."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.columns import DONT_CARE, flags_of
from dhcli.data.formats.json_text import JsonText
from dhcli.data.table import ANY_CLASS, Flag, Strings
from dhcli.errors import DataError

RAW = "coco"
"""The extra column, of boxes and of images, that holds an entry's own JSON text."""

_FIELDS = frozenset(("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"))
_IMAGE_FIELDS = frozenset(("id", "file_name", "width", "height"))
_INT64 = 2**63


class Entries:
    """Images, annotations and categories of the COCO file `path`, in the file's order.

    names       file name of each image, as written
    sizes       (I, 2) int32, 0 where not told
    boxes       (M, 4) float64 xyxy, of all annotations
    classes     names by ascending id, `DontCare` left out
    about       what else the file tells: info, licenses, fields of categories
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.classes: tuple[str, ...] = ()
        self.about: dict[str, Any] = {}
        self._images, self._categories = _Ids(), _Ids()
        self._row_of_image: dict[int, int] = {}
        self._category: dict[int, dict[str, Any]] = {}
        self._sizes = array("q")
        self._image_spans, self._spans = array("q"), array("q")
        self._image_of_box, self._category_of_box = array("q"), array("q")
        self._boxes, self._areas = array("d"), array("d")
        self._flags, self._ids = array("B"), array("q")
        self._json = JsonText(path)
        self.about = self._json.read_object(
            {
                "images": self._add_image,
                "annotations": self._add_annotation,
                "categories": self._add_category,
            }
        )
        self._order_classes()

    @property
    def sizes(self) -> NDArray[np.int32]:
        return np.array(self._sizes, np.int32).reshape(-1, 2)

    @property
    def boxes(self) -> NDArray[np.float64]:
        return np.array(self._boxes, np.float64).reshape(-1, 4)

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

    @property
    def image_of_box(self) -> NDArray[np.int64]:
        """(M,) row of the image of each annotation; -1 where the file has no such image."""
        return _look_up(self._image_of_box, self._row_of_image)

    def labels_and_flags(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """(M,) each. A category that the file does not define is ANY_CLASS, without a flag."""
        labels = _look_up(self._category_of_box, {n: k for k, n in enumerate(self._ordered)})
        flags = np.array(self._flags, np.uint8)
        apart = [n for n, row in self._category.items() if row["name"] == DONT_CARE]
        region = np.isin(np.array(self._category_of_box, np.int64), apart)
        flags[region] = Flag.IGNORE.value
        return labels.astype(np.int32), flags

    def texts(self) -> tuple[Strings | None, Strings | None]:
        """JSON of the annotations and of the images that say more than columns hold, else ""."""
        return self._cut(self._spans), self._cut(self._image_spans)

    def _cut(self, spans: array[int]) -> Strings | None:
        starts, stops = np.array(spans, np.int64).reshape(-1, 2).T
        if not (stops > starts).any():
            return None
        text = self._json.text
        if text.isascii() and 2 * int((stops - starts).sum()) > len(text):
            return Strings(np.frombuffer(text.encode("ascii"), np.uint8), starts, stops)
        pairs = zip(starts.tolist(), stops.tolist(), strict=True)
        return Strings.pack(text[start:stop] for start, stop in pairs)

    def _add_image(self, row: Any, start: int, stop: int) -> None:
        try:
            number = self._images.number(row["id"])
            name = row["file_name"]
        except (KeyError, TypeError, ValueError) as error:
            raise self._json.fail(f"an image {_missing(error)}", start) from None
        if number in self._row_of_image:
            raise self._json.fail(f"two images have the id {row['id']}", start)
        if not isinstance(name, str):
            raise self._json.fail("an image whose `file_name` is no text", start)
        self._row_of_image[number] = len(self.names)
        self.names.append(name)
        self._sizes.extend((_side(row.get("width")), _side(row.get("height"))))
        says_more = not _IMAGE_FIELDS.issuperset(row)
        self._image_spans.extend((start, stop) if says_more else (0, 0))

    def _add_category(self, row: Any, start: int, _: int) -> None:
        try:
            number = self._categories.number(row["id"])
            name = str(row.get("name", row["id"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._json.fail(f"a category {_missing(error)}", start) from None
        if self._category.setdefault(number, row | {"name": name})["name"] != name:
            raise self._json.fail(f"two categories have the id {row['id']}", start)

    def _add_annotation(self, row: Any, start: int, stop: int) -> None:
        try:
            image, category = row["image_id"], row["category_id"]
            x, y, width, height = _floats(row["bbox"])
            area = row.get("area")
            area = np.nan if area is None else float(area)
            self._image_of_box.append(self._images.number(image))
            self._category_of_box.append(self._categories.number(category))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            name = f"annotation {row.get('id', '')}" if isinstance(row, dict) else "an annotation"
            raise self._json.fail(f"{name} {_missing(error)}", start) from None
        self._boxes.extend((x, y, x + width, y + height))
        self._areas.append(area)
        self._ids.append(_whole(row.get("id")))
        self._flags.append(flags_of_row(row))
        says_more = row.get("segmentation") or not _FIELDS.issuperset(row)
        self._spans.extend((start, stop) if says_more else (0, 0))

    def _order_classes(self) -> None:
        kept = [n for n, row in self._category.items() if row["name"] != DONT_CARE]
        ids = self._categories.own(kept)
        self._ordered = [kept[index] for index in np.argsort(ids, kind="stable").tolist()]
        names = [self._category[number]["name"] for number in self._ordered]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            what = f"two categories are called `{twice}`"
            raise DataError(what, where=self.path, hint="give them different names, or one id")
        self.classes = tuple(names)
        rows = (self._category[number] for number in self._ordered)
        self.about["categories"] = {
            row["name"]: {k: v for k, v in row.items() if k not in ("id", "name")} for row in rows
        }


class _Ids:
    """Numbers 0, 1 … for ids as they come up: whole numbers, or text."""

    def __init__(self) -> None:
        self._numbers: dict[int | str, int] = {}

    def number(self, raw: Any) -> int:
        if type(raw) is not int:
            raw = _id(raw)
        return self._numbers.setdefault(raw, len(self._numbers))

    def own(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        """The ids behind `numbers`; 1, 2 … where any is text or too large for 64 bits."""
        ids = list(self._numbers)
        wanted = [ids[number] for number in numbers]
        whole = [value for value in wanted if isinstance(value, int) and -_INT64 <= value < _INT64]
        return np.array(whole if len(whole) == len(wanted) else range(1, len(wanted) + 1), np.int64)


def flags_of_row(row: dict[str, Any]) -> int:
    """The flags that an annotation carries."""
    if not (row.get("iscrowd") or "ignore" in row or "attributes" in row):
        return 0
    flags = (
        bool(row.get("iscrowd")) * Flag.CROWD.value | bool(row.get("ignore")) * Flag.IGNORE.value
    )
    marks = row.get("attributes")
    if not isinstance(marks, dict):
        return flags
    difficult, truncated, occluded = (
        bool(marks.get(name)) for name in ("difficult", "truncated", "occluded")
    )
    return flags | flags_of(difficult=difficult, truncated=truncated, occluded=occluded)


def _id(raw: Any) -> int | str:
    if isinstance(raw, str):
        digits = raw.strip()
        return int(digits) if digits.isdecimal() and len(digits) < 19 else raw
    if isinstance(raw, float) and raw.is_integer():
        return int(raw)
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise TypeError("whose id is neither a whole number nor text")
    return raw


def _whole(raw: Any) -> int:
    """An annotation's id, 0 where it has none that is a whole number of 64 bits."""
    try:
        number = raw if type(raw) is int else _id(raw)
    except TypeError:
        return 0
    return number if isinstance(number, int) and -_INT64 <= number < _INT64 else 0


def _floats(bbox: Any) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = map(float, bbox)
    except (TypeError, ValueError):
        raise ValueError("whose `bbox` is not four numbers") from None
    return x, y, width, height


def _side(value: Any) -> int:
    try:
        side = int(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return side if 0 < side < 2**31 else 0


def _missing(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"has no `{error.args[0]}`"
    text = str(error)
    return text if text.startswith("whose") else "is not an object with the fields it needs"


def _look_up(numbers: array[int], place: dict[int, int]) -> NDArray[np.int64]:
    """The place of each number; -1 where it has none."""
    values = np.array(numbers, np.int64)
    table = np.full(int(max(values.max(initial=-1), *place, -1)) + 1, ANY_CLASS, np.int64)
    table[list(place)] = list(place.values())
    return table[values]


def parse_raw(text: str) -> dict[str, Any]:
    """The fields of an entry kept as text; none for ""."""
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}
