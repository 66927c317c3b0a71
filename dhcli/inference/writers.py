"""Files of predictions, written image by image so that memory does not grow with their number.

Each kind is a context manager that gives a function to call with every image; its files take their
place when the block ends well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dhcli.atomic import atomic_write
from dhcli.data.formats.coco_results import CATEGORIES, RESULTS, result
from dhcli.data.formats.kitti import kitti_row
from dhcli.data.formats.voc import predicted_object, prediction_xml
from dhcli.data.formats.yolo import fractions_of, prediction_row
from dhcli.data.formats.yolo_images import NOT_LABELS
from dhcli.data.io.image import Pixels
from dhcli.data.io.text_rows import as_row
from dhcli.words import as_cell

Least = float | NDArray[np.float64]
"""Lowest score of a detection: one for all classes, or (K,) one for each."""


@dataclass(frozen=True)
class Prediction:
    """What was found in one image, best first.

    name    POSIX path of the image from the folder that all of them lie in
    size    width, height in pixels, upright
    boxes   (D, 4) float64 xyxy pixels of that size
    scores  (D,) float64
    labels  (D,) int64 in 0…K-1
    pixels  the image, (height, width, 3) uint8 RGB; (0, 0, 3) where it stays in another process
    """

    name: str
    size: tuple[int, int]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    pixels: Pixels

    def __len__(self) -> int:
        return len(self.scores)

    def reaching(self, least: Least) -> NDArray[np.int64]:
        """Rows of the detections whose score is at least that of `least`."""
        limits = np.asarray(least)
        return np.flatnonzero(self.scores >= (limits[self.labels] if limits.ndim else limits))

    def take(self, rows: NDArray[np.int64]) -> Prediction:
        """The detections at `rows`, in that order."""
        kept = {name: getattr(self, name)[rows] for name in ("boxes", "scores", "labels")}
        return replace(self, **kept)

    def rows(self) -> Iterator[tuple[list[float], float, int]]:
        """Box, score and label of each detection, as Python numbers."""
        columns = (self.boxes.tolist(), self.scores.tolist(), self.labels.tolist())
        return zip(*columns, strict=True)


@dataclass(frozen=True)
class Place:
    """Where predictions go, and how classes and images are named in them.

    twins  names of images whose files need the suffix of the image, see `find_twins`
    taken  names of all images, folded: see `drawn_path`
    """

    folder: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    twins: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()

    def file(self, kind: str, image: str, suffix: str) -> Path:
        """The image's own file of a kind: the same path with another suffix.

        Of twins, such as a.jpg and a.png, the suffix stays: a.jpg.txt. So does that of classes.jpg,
        since classes.txt names the classes, and of others whose file readers would pass over.
        """
        path = PurePosixPath(image)
        name = f"{path.stem}{suffix}"
        if image in self.twins or name.lower() in NOT_LABELS:
            name = f"{path.name}{suffix}"
        return self.folder / kind / path.with_name(name)


Writer = Callable[[Prediction], None]

_QUOTED = ',"\n'
"""What makes predictions.csv quote a name: no more than every reader needs."""


def find_twins(images: Sequence[str]) -> frozenset[str]:
    """Names that differ from another's only in their suffix, or have one behind another's name.

    Beside a.jpg and a.png, a.jpg.png is one too: the file of a.jpg is called as its own would be.
    """
    counts = Counter(str(PurePosixPath(image).with_suffix("")) for image in images)
    counts.update(images)
    if max(counts.values(), default=0) < 2:
        return frozenset()
    return frozenset(i for i in images if counts[str(PurePosixPath(i).with_suffix(""))] > 1)


@contextmanager
def write_coco_json(place: Place) -> Iterator[Writer]:
    """`predictions.bbox.json`: COCO results, xywh pixels, `image_id` the image's name.

    `categories.json` beside it names the category ids.
    """
    with atomic_write(place.folder / RESULTS) as file:
        file.write(b"[")
        lead = "\n"

        def write(image: Prediction) -> None:
            nonlocal lead
            for row in _coco_rows(image, place.category_ids):
                file.write(f"{lead}{json.dumps(row)}".encode())
                lead = ",\n"

        yield write
        file.write(b"\n]\n")
    pairs = zip(place.category_ids, place.classes, strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs]
    with atomic_write(place.folder / CATEGORIES) as file:
        file.write(json.dumps({"categories": categories}, indent=1, ensure_ascii=False).encode())


def _coco_rows(image: Prediction, ids: Sequence[int]) -> Iterator[dict[str, object]]:
    for (x1, y1, x2, y2), score, label in image.rows():
        xywh = [round(side, 3) for side in (x1, y1, x2 - x1, y2 - y1)]
        yield result(image.name, ids[label], xywh, round(score, 6))


@contextmanager
def write_csv(place: Place) -> Iterator[Writer]:
    """`predictions.csv`: one line per detection, xyxy pixels."""
    with atomic_write(place.folder / "predictions.csv") as file:
        file.write(b"image,class,category_id,score,x1,y1,x2,y2\n")

        def write(image: Prediction) -> None:
            file.write(_encode("".join(_csv_rows(image, place))))

        yield write


def _csv_rows(image: Prediction, place: Place) -> Iterator[str]:
    for box, score, label in image.rows():
        names = (as_cell(image.name), as_cell(place.classes[label]))
        yield as_row(
            (
                *names,
                str(place.category_ids[label]),
                f"{score:.6f}",
                *(f"{side:.3f}" for side in box),
            ),
            _QUOTED,
        )


@contextmanager
def write_yolo(place: Place) -> Iterator[Writer]:
    """`yolo/`: a .txt an image with lines `class cx cy w h score`, and `classes.txt`.

    Classes count from 0; the box is in fractions of the image.
    """

    def write(image: Prediction) -> None:
        values = fractions_of(image.boxes, np.array(image.size, np.int32)).tolist()
        rows = zip(image.labels.tolist(), values, image.scores.tolist(), strict=True)
        lines = [prediction_row(*row) for row in rows]
        _write_text(place.file("yolo", image.name, ".txt"), lines)

    yield write
    _write_text(place.folder / "yolo" / "classes.txt", [f"{name}\n" for name in place.classes])


@contextmanager
def write_kitti(place: Place) -> Iterator[Writer]:
    """`kitti/`: a .txt an image in KITTI's result format, 16 columns; unknown ones are its −1s.

    Spaces in class names become `_`, since they part the columns.
    """

    def write(image: Prediction) -> None:
        lines = []
        for box, score, label in image.rows():
            sides = [f"{side:.2f}" for side in box]
            lines.append(f"{kitti_row(place.classes[label], sides, f'{score:.6f}')}\n")
        _write_text(place.file("kitti", image.name, ".txt"), lines)

    yield write


@contextmanager
def write_voc(place: Place) -> Iterator[Writer]:
    """`voc/`: a Pascal VOC .xml an image, each object with its score.

    VOC counts pixels from 1 and includes the last: the minimum is one more, the maximum the same.
    """

    def write(image: Prediction) -> None:
        objects = (predicted_object(place.classes[k], box, s) for box, s, k in image.rows())
        text = prediction_xml(PurePosixPath(image.name).name, image.size, objects)
        _write_text(place.file("voc", image.name, ".xml"), [text])

    yield write


def _write_text(path: Path, lines: Sequence[str]) -> None:
    with atomic_write(path) as file:
        file.write(_encode("".join(lines)))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


FORMATS: dict[str, Callable[[Place], AbstractContextManager[Writer]]] = {
    "coco-json": write_coco_json,
    "csv": write_csv,
    "yolo": write_yolo,
    "voc": write_voc,
    "kitti": write_kitti,
}
"""What predictions can be written as."""
