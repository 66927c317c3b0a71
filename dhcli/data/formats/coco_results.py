"""COCO results: a JSON list of detections, `image_id`, `category_id`, `bbox` xywh, `score`."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dhcli.data.formats.boxes import columns_xywh, from_xywh
from dhcli.data.formats.coco_entries import id_of
from dhcli.data.formats.corners import with_notes_on_corners
from dhcli.data.formats.fractions import from_fractions
from dhcli.data.io.files import stem_of
from dhcli.data.io.json_stream import JsonStream, NotPlain, Objects
from dhcli.data.io.json_text import JsonText
from dhcli.data.table import ANY_CLASS, TEXT_ID, DetectionTable, make_table, parse_source
from dhcli.errors import DataError

RESULTS = "predictions.bbox.json"
"""What commands that write results call them."""
CATEGORIES = "categories.json"
"""File beside results that names their category ids, as a COCO file's `categories` do."""
_LOOKS = "COCO results are [{image_id, category_id, bbox, score}, …]"
_LISTS = ("annotations", "detections", "predictions", "results")
_IMAGE_HINT = "an `image_id` is the id of an image in the dataset, or its file's name or stem"


def results_of(table: DetectionTable) -> Iterator[dict[str, Any]]:
    """The rows of a table with scores, with the dataset's own ids; regions of no class left out."""
    scores = np.ones(len(table.boxes)) if table.scores is None else table.scores
    kept = np.flatnonzero(table.labels != ANY_CLASS)
    columns = (
        table.image_ids[table.image_of_box[kept]],
        table.category_ids[table.labels[kept]],
        columns_xywh(table.boxes[kept]),
        scores[kept],
    )
    return map(result, *(column.tolist() for column in columns))


def named_ids(table: DetectionTable) -> dict[str, list[dict[str, Any]]]:
    """What `categories.json` says: which images and classes the ids in the results stand for."""
    images = zip(table.image_ids.tolist(), table.files, strict=True)
    classes = zip(table.category_ids.tolist(), table.classes, strict=True)
    return {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "categories": [{"id": number, "name": name} for number, name in classes],
    }


def result(image_id: Any, category_id: int, xywh: Sequence[float], score: float) -> dict[str, Any]:
    """A row of results."""
    return {"image_id": image_id, "category_id": category_id, "bbox": xywh, "score": score}


def read_results(path: Path, truth: DetectionTable, *, own_ids: bool = True) -> DetectionTable:
    """Read detections on the images of `truth`: the same images, boxes in the file's order.

    An image is known by its id, as its dataset tells it, or by the name or stem of its file. Ids
    are those of `truth`, unless `categories.json` beside the file names them: then the classes are
    its own, and so are the images that it lists. Some programs write a stem that is a number as
    one: where the file makes sense so, numbers are stems if the dataset has no ids (`own_ids`), and
    else if not all of them are ids. Boxes that are all told in fractions of their images are read
    as such. Raises DataError for an image, category or row that makes no sense.
    """
    names, images_of = _named_ids(path.parent / CATEGORIES)
    if names is None:
        names = dict(zip(truth.category_ids.tolist(), truth.classes, strict=True))
    rows = _read_rows(path, truth, names, images_of, own_ids=own_ids)
    order = np.argsort(np.array(rows.images, np.int64), kind="stable")
    images = np.array(rows.images, np.int64)[order]
    boxes = np.array(rows.boxes, np.float64).reshape(-1, 4)[order]
    told = from_fractions(boxes, truth.sizes, images, path, lambda row: ("a detection", path))
    table = make_table(
        truth.root,
        truth.files,
        truth.sizes,
        np.bincount(images, minlength=len(truth)),
        told.boxes if told else boxes,
        np.array(rows.labels, np.int32)[order],
        list(names.values()),
        scores=np.array(rows.scores, np.float64)[order],
        image_ids=truth.image_ids,
        category_ids=np.array(list(names), np.int64),
        format="coco-results",
        notes=tuple(told.notes) if told else (),
    )
    return with_notes_on_corners(table)


def _read_rows(
    path: Path,
    truth: DetectionTable,
    names: Mapping[int, str],
    files: Mapping[int, str],
    *,
    own_ids: bool,
) -> _Rows:
    """The rows of a file, by the first reading of its images' numbers that makes sense of all."""
    own = {number: row for row, number in enumerate(truth.image_ids.tolist())}
    listed = _Images(truth)
    found = ((number, listed.find(name)) for number, name in files.items())
    own |= {number: image for number, image in found if image is not None}
    if own_ids:
        with suppress(DataError):
            return _Rows(path, truth, names, own)
    if stems := {} if files else _numbers_in_names(truth):
        with suppress(DataError):
            return _Rows(path, truth, names, stems)
    return _Rows(path, truth, names, own)


def _numbers_in_names(truth: DetectionTable) -> dict[int, int]:
    """The number that the stem of an image is → the image; none where two images have it."""
    stems = [stem_of(file) for file in truth.files]
    numbers = [(int(stem), row) for row, stem in enumerate(stems) if stem.isdecimal()]
    counts = Counter(number for number, _ in numbers)
    return {number: row for number, row in numbers if counts[number] == 1}


def place_on(found: DetectionTable, truth: DetectionTable, path: Path) -> DetectionTable:
    """The detections `found`, read from `path`, on the images of `truth`, known by their names.

    Raises DataError where boxes have no scores, or are in an image that `truth` does not have.
    """
    if found.scores is None and len(found.boxes):
        what = "holds boxes without scores, or with some only: not detections"
        raise DataError(what, where=path, hint=_LOOKS)
    numbers, images = [], _Images(truth)
    counts = np.diff(found.offsets)
    for file, count in zip(found.files, counts.tolist(), strict=True):
        number = images.find(file) if count else 0
        if number is None:
            what = f"names the image {file}, which is not in the dataset {truth.root}"
            raise DataError(what, where=path)
        numbers.append(number)
    image_of_box = np.array(numbers, np.int64)[found.image_of_box]
    order = np.argsort(image_of_box, kind="stable")
    return make_table(
        truth.root,
        truth.files,
        truth.sizes,
        np.bincount(image_of_box, minlength=len(truth)),
        found.boxes[order],
        found.labels[order],
        found.classes,
        scores=np.zeros(0) if found.scores is None else found.scores[order],
        image_ids=truth.image_ids,
        format=found.format,
        notes=found.notes,
        remarks=found.remarks,
    )


class _Images:
    """The images of a dataset, to be found by their names."""

    def __init__(self, table: DetectionTable) -> None:
        self._files = table.files
        self._named: dict[str, int] = {}

    def find(self, name: str) -> int | None:
        """The number of the image that has the longest end of the path `name` in common, or a stem.

        An end that several images have does not count.
        """
        if not self._named:
            self._learn()
        options = (name, *_ends(name), stem_of(name))
        return next((self._named[each] for each in options if each in self._named), None)

    def _learn(self) -> None:
        files = list(self._files)
        self._named = dict(zip(files, range(len(files)), strict=True))
        self._add([_ends(file) for file in files])
        self._add([(stem_of(file),) for file in files])

    def _add(self, names: Sequence[Sequence[str]]) -> None:
        counts = Counter(name for of_image in names for name in of_image)
        for number, of_image in enumerate(names):
            for name in of_image:
                if counts[name] == 1:
                    self._named.setdefault(name, number)


def _ends(path: str) -> list[str]:
    """The path without its first folder, without its first two, and so on."""
    return [path.split("/", skipped)[skipped] for skipped in range(1, path.count("/") + 1)]


class _Detection(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


_DETECTIONS = msgspec.json.Decoder(list[_Detection])


class _Rows:
    """Columns of a results file, in its order."""

    def __init__(
        self,
        path: Path,
        truth: DetectionTable,
        names: Mapping[int, str],
        number_of: Mapping[int, int],
    ) -> None:
        self.images = array("q")
        self.labels = array("i")
        self.boxes = array("d")
        self.scores = array("d")
        self._truth = truth
        self._number_of = number_of
        self._images = _Images(truth)
        self._label_of = {number: label for label, number in enumerate(names)}
        told = list(truth.image_extras.get(TEXT_ID, ()))
        counts = Counter(told)
        self._image_told = {
            text: row for row, text in enumerate(told) if text and counts[text] == 1
        }
        label_of = {name: label for label, name in enumerate(names.values())}
        ids = parse_source(truth.about.get(TEXT_ID, ""))
        self._label_told = {text: label_of[name] for name, text in ids.items() if name in label_of}
        try:
            JsonStream(path).read_array(self._add_plain)
        except NotPlain:
            self._read_carefully(path)

    def _read_carefully(self, path: Path) -> None:
        for column in (self.images, self.labels, self.boxes, self.scores):
            del column[:]
        self._json = JsonText(path)
        if not self._json.begins_with("["):
            raise self._no_list(path)
        self._json.read_array(self._add)

    def _add_plain(self, objects: Objects) -> None:
        """Add detections that are all as usual, with ids that are known."""
        rows = objects.typed(_DETECTIONS)
        if rows is None:
            raise NotPlain
        images = list(map(self._number_of.get, map(attrgetter("image_id"), rows)))
        labels = list(map(self._label_of.get, map(attrgetter("category_id"), rows)))
        scores = np.fromiter(map(attrgetter("score"), rows), np.float64, len(rows))
        boxes = np.array(list(map(attrgetter("bbox"), rows)), np.float64)
        with np.errstate(over="ignore"):
            boxes[:, 2:] += boxes[:, :2]
        if None in images or None in labels or not np.isfinite(boxes).all():
            raise NotPlain
        self.images.extend(images)  # type: ignore[arg-type]
        self.labels.extend(labels)  # type: ignore[arg-type]
        self.boxes.frombytes(boxes.tobytes())
        self.scores.frombytes(scores.tobytes())

    def _add(self, row: Any, start: int, _: int) -> None:
        try:
            category, _ = row["category_id"], row["image_id"]
            x, y, width, height = (float(value) for value in row["bbox"])
            score = float(row["score"])
        except (KeyError, TypeError, ValueError):
            what = "a detection needs image_id, category_id, bbox of four numbers, and score"
            raise self._json.fail(what, start) from None
        if not math.isfinite(x + y + width + height + score):
            raise self._json.fail("a detection with a number that is not finite", start)
        self.images.append(self._image(row, start))
        label = self._label(category)
        if label is None:
            known = ", ".join(map(str, [*(self._label_told or self._label_of)][:10]))
            what = f"category id {category!r} is not known; there are: {known}"
            raise self._json.fail(what, start, hint=self._name_categories(category))
        self.labels.append(label)
        self.boxes.extend(from_xywh(x, y, width, height))
        self.scores.append(score)

    def _no_list(self, path: Path) -> DataError:
        """The error that the file is an object, and not a list."""
        seen = self._json.text[: 1 << 20]
        key = next((name for name in _LISTS if f'"{name}"' in seen), None)
        way = f"; write what its `{key}` holds, alone, into a file" if key else ""
        return DataError("is not a list of detections", where=path, hint=f"{_LOOKS}{way}")

    def _name_categories(self, category: Any) -> str:
        """What to do about a category id that is not known."""
        if isinstance(category, int) and category not in self._label_of:
            first = 0 if category == 0 else category
            why = "ids that count from 0? put" if first == 0 else "put"
            told = f'{{"categories": [{{"id": {first}, "name": "…"}}, …]}}'
            return f"{why} {CATEGORIES} beside it, which names every id: {told}"
        what = "a category id is one of the dataset's"
        return f"{what}; {CATEGORIES} beside the file names what other numbers stand for"

    def _image(self, row: dict[str, Any], start: int) -> int:
        image = row["image_id"] if row["image_id"] is not None else row.get("file_name")
        if image is None:
            what = "`image_id` is null"
            raise self._json.fail(what, start, hint=_IMAGE_HINT)
        number = self._find(image)
        if number is None:
            what = f"image id {image!r} is not in the dataset {self._truth.root}"
            raise self._json.fail(what, start, hint=_IMAGE_HINT)
        return number

    def _find(self, told: Any) -> int | None:
        """The image whose id is told, or that is named."""
        if isinstance(told, str):
            for found in (self._image_told.get(told), self._images.find(told)):
                if found is not None:
                    return found
        return _at(self._number_of, told)

    def _label(self, told: Any) -> int | None:
        """The class whose id is told."""
        found = self._label_told.get(told) if isinstance(told, str) else None
        return _at(self._label_of, told) if found is None else found


def _at(place: Mapping[int, int], told: Any) -> int | None:
    """The place of an id that is a whole number, as one or in text."""
    try:
        number = id_of(told)
    except TypeError:
        return None
    return place.get(number) if isinstance(number, int) else None


def _named_ids(path: Path) -> tuple[dict[int, str] | None, dict[int, str]]:
    """Category id → name, None where none is told, and image id → file, in the file beside."""
    if not path.is_file():
        return None, {}
    document = JsonText(path).read_object({})
    try:
        rows = [(int(row["id"]), str(row["name"])) for row in document.get("categories") or ()]
        files = {int(r["id"]): str(r["file_name"]) for r in document.get("images") or ()}
    except (KeyError, TypeError, ValueError):
        raise DataError("does not name categories by id", where=path) from None
    named = dict(rows)
    if len(set(named.values())) < len(named):
        raise DataError("gives two categories the same name", where=path)
    return named, files
