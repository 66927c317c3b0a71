"""dh from Python: `import dhcli`, a model, its detections as arrays, datasets, and their measures.

Everything here is a name of the package too: `dhcli.load`. It prints nothing and ends no process;
whatever the caller can mend is raised as a `DhError`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import IOBase
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhcli.config.detecting import DetectOptions, check_gate
from dhcli.config.heads import choose_read_out
from dhcli.config.schema import Config
from dhcli.data import formats
from dhcli.data.io.image import read_array, read_image, read_opened
from dhcli.data.table import DetectionTable, make_table
from dhcli.data.tools.check import check_table
from dhcli.data.tools.findings import Finding
from dhcli.data.tools.scan import scan_images
from dhcli.errors import ConfigError, DataError, DhError
from dhcli.inference.score import Evaluation, Measures, Say, evaluate_results
from dhcli.inference.stream import Kept, Source, detect_each
from dhcli.inference.thresholds import Score, require_stored, stored_threshold
from dhcli.inference.writers import Prediction
from dhcli.metrics.names import parse_metrics
from dhcli.runtime.runner import Runner, open_runner
from dhcli.weights.locate_model import BEST, locate_model

__all__ = [
    "DetectionTable",
    "DhError",
    "Evaluation",
    "Model",
    "Result",
    "check_dataset",
    "evaluate",
    "load",
    "read_dataset",
]

Picture = str | os.PathLike[str] | NDArray[Any] | Image.Image
"""An image: the path of a file, an array as `read_array` takes it, or Pillow's."""
Precision = Literal["fp32", "bf16", "fp16", "auto"]
_ONE = (str, os.PathLike, np.ndarray, Image.Image)


@dataclass(frozen=True, eq=False)
class Result:
    """What was found in one image, best first: D detections.

    image   path of the image as it was given; `image 2` for the second that was none
    size    width, height in pixels, upright
    boxes   (D, 4) float32 xyxy in pixels of that size, 0-based, exclusive maximum
    scores  (D,) float32 in [0, 1]
    labels  (D,) int64 in 0…K-1, into the model's `classes`
    names   D names of classes
    """

    image: str
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: list[str]

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        counts = Counter(self.names).most_common()
        found = ", ".join(f"{count} {name}" for name, count in counts) or "nothing"
        return f"<Result: {found}; in {self.image}, {self.size[0]} × {self.size[1]}>"


class Model:
    """A detector that is ready to detect; `load` opens one.

    classes       K names of classes; label k is classes[k]
    category_ids  K ids of the dataset that it learned from
    config        what it was trained with, pre-processing (`config.input`) included
    notes         what is to be known of weights that come from another program
    best_thresholds  class → score threshold of best F1 on the last validation, see
                  `score_threshold`; None where the model stores none (for these `scores`)
    runner        what runs it
    """

    def __init__(
        self,
        runner: Runner,
        options: DetectOptions,
        *,
        scores: str | None = None,
        boxes: str | None = None,
    ) -> None:
        """See `load`. Raises ConfigError where the model cannot be read so."""
        self.runner = runner
        self.classes, self.category_ids = runner.classes, runner.category_ids
        self.config: Config = runner.config
        self.notes = tuple(runner.lines)
        self._read_out = choose_read_out(self.config.model, scores, boxes)
        check_gate(self.config.model, options.gate, [self._read_out])
        self._options = options.reading(self._read_out)
        stored = stored_threshold(runner, self._read_out)
        self.best_thresholds = stored and dict(
            zip(self.classes, stored.least.tolist(), strict=True)
        )
        self._scores, self._boxes = scores, boxes

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:8]) + (", …" if len(self.classes) > 8 else "")
        return f"<Model: {names}; on {self.runner.place}>"

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self,
        images: Picture,
        *,
        score_threshold: Score | None = None,
        top_k: int | None = None,
        batch_size: int | None = None,
    ) -> Result: ...

    @overload
    def __call__(
        self,
        images: Iterable[Picture],
        *,
        score_threshold: Score | None = None,
        top_k: int | None = None,
        batch_size: int | None = None,
    ) -> list[Result]: ...

    def __call__(
        self,
        images: Picture | Iterable[Picture],
        *,
        score_threshold: Score | None = None,
        top_k: int | None = None,
        batch_size: int | None = None,
    ) -> Result | list[Result]:
        """Find the objects in one image, or in each of several: a result, or a list of them.

        in   images           a path, a Pillow image, an array: (H, W, 3) RGB, or (H, W) grey, of
                              uint8 or uint16; or any number of these, mixed
             score_threshold  lowest score, in [0, 1]; "best": each class's of `best_thresholds`;
                              None: as the model is configured
             top_k            most detections per image; None: as configured, 100 mostly
             batch_size       images at a time; None: 1 on the CPU, 8 on a GPU. Only images of one
                              size go together, which changes no more than the last digits

        Images are read as `dh predict` reads them, and the detections are the same: turned upright
        by EXIF, more than 8 bits made 8 by `config.input.depth`, grey made RGB.
        Raises DataError naming an image that cannot be read, ConfigError for an option out of its
        range or beyond what an exported file or the model holds.
        """
        _check_images(images)
        if isinstance(images, _ONE):
            [result] = self._detect([images], score_threshold, top_k, batch_size)
            return result
        return list(self._detect(images, score_threshold, top_k, batch_size))

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        score_threshold: Score | None = None,
        top_k: int | None = None,
        batch_size: int | None = None,
    ) -> DetectionTable:
        """The same detections as one table with `scores`: what `evaluate` and `dh convert` know.

        Its `root` is the deepest folder that holds all the files, its `files` are their paths from
        there. Raises DataError and ConfigError as the call of the model does.
        """
        _check_images(images)
        every = [images] if isinstance(images, _ONE) else list(images)
        results = list(self._detect(every, score_threshold, top_k, batch_size))
        root, files = _place(every)
        return make_table(
            root,
            files,
            [one.size for one in results],
            [len(one) for one in results],
            np.concatenate([np.zeros((0, 4)), *(one.boxes for one in results)]),
            np.concatenate([np.zeros(0, np.int64), *(one.labels for one in results)]),
            self.classes,
            scores=np.concatenate([np.zeros(0), *(one.scores for one in results)]),
            category_ids=np.array(self.category_ids, np.int64),
        )

    def _detect(
        self,
        images: Iterable[Picture],
        score_threshold: Score | None,
        top_k: int | None,
        batch_size: int | None,
    ) -> Iterator[Result]:
        kept = Kept(top_k)
        if isinstance(score_threshold, str):
            if score_threshold != "best":
                what = f'must be a number or "best", not {score_threshold!r}'
                raise ConfigError(what, where="score_threshold")
            stored = require_stored(self.runner, self._read_out, "score_threshold")
            kept, score_threshold = Kept(top_k, least=stored.least), None
        _check_range("score_threshold", score_threshold, 0, 1)
        _check_range("top_k", top_k, 1)
        _check_range("batch_size", batch_size, 1)
        options = self._options.giving(score_threshold, top_k, self.config.model.detect)
        sources = (_source(one, number) for number, one in enumerate(images, 1))
        size = batch_size or self.runner.usual_batch
        for seen in detect_each(self.runner, sources, options, size):
            if isinstance(seen.found, DataError):
                raise seen.found
            yield self._as_result(kept.of(seen.found))

    def _as_result(self, found: Prediction) -> Result:
        return Result(
            found.name,
            found.size,
            found.boxes.astype(np.float32),
            found.scores.astype(np.float32),
            found.labels,
            [self.classes[label] for label in found.labels.tolist()],
        )


def load(  # noqa: PLR0913  (what is asked of a detector, each by its name)
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    scores: str | None = None,
    boxes: str | None = None,
    gate: float | None = None,
    across_classes: float | None = None,
    nms: Literal["hard", "soft", "guided"] | None = None,
    image_size: int | None = None,
) -> Model:
    """Open a detector: a model file, a run folder (its best model), or an exported `.onnx` file.

    in   device         auto (a GPU if there is one), cpu, cuda, cuda:1 or mps
         precision      what the network computes in
         scores, boxes  the branch or fusion that scores, and the branch that places the boxes;
                        None: as the model is configured
         gate           see `model.detect.gate`
         across_classes see `model.detect.across_classes`
         nms            see `model.detect.nms`: hard, soft or guided
         image_size     shortest side of the images that the network sees, in pixels

    No code in the file is run. An exported file is opened without torch. On Linux's CPUs this
    process keeps the memory that it frees from then on, which is a tenth faster.
    Raises ModelError where there is no model, ConfigError where it cannot be had so here.
    """
    _check_range("gate", gate, 0, 1)
    _check_range("across_classes", across_classes, 0, 1)
    _check_range("image_size", image_size, 1)
    if nms not in (None, "hard", "soft", "guided"):
        raise ConfigError(f"unknown NMS `{nms}`", hint="there are: hard, soft, guided")
    if precision not in get_args(Precision):
        hint = f"there are: {', '.join(get_args(Precision))}"
        raise ConfigError(f"unknown precision `{precision}`", hint=hint)
    place = Path(path)
    if place.is_dir():
        place, _ = locate_model(place)
    options = DetectOptions(
        gate=gate,
        across_classes=across_classes,
        nms=nms,
        image_size=image_size,
        device=device,
        precision=precision,
    )
    return Model(open_runner(place, options), options, scores=scores, boxes=boxes)


def read_dataset(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    split: str | None = None,
    voc_offset: Literal["auto", "0", "1"] = "auto",
    predictions: bool = False,
) -> DetectionTable:
    """Read a dataset in any known format: a folder or an annotation file.

    in   format       its name, as in docs/formats.md; None: recognised by looking
         split        this split's images only; None: every image, `table.splits` naming the splits
         voc_offset   what the first pixel is called in Pascal VOC; auto: what the boxes tell
         predictions  keep scores beside the boxes: they are detections, not the ground truth

    `table.notes` say what the reader decided, `table.remarks` what it could not read and left out;
    `check_dataset` finds what else is wrong. Raises DataError where the format is not recognised, a
    file cannot be read, or there is no such split, and ConfigError for an unknown format.
    """
    table = formats.read_dataset(
        Path(path), format=format, voc_offset=voc_offset, predictions=predictions
    )
    return table if split is None else table.split(split)


def check_dataset(table: DetectionTable, *, decode: bool = False) -> list[Finding]:
    """What is wrong with a dataset, as `dh check` finds it; none is the best.

    A finding has `code`, `severity` (error or warning), `where`, `what`, and what `training` does
    about it. Every image file is looked at; with `decode` it is read whole, which takes longer and
    finds damage in its middle.
    """
    return check_table(table, scan_images(table, decode=decode))


def evaluate(
    model: Model | DetectionTable | str | os.PathLike[str],
    data: DetectionTable | str | os.PathLike[str],
    *,
    metric: str | Sequence[str] = "coco",
    split: str | None = None,
    top_k: int | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    say: Say | None = None,
) -> Evaluation:
    """Measure average precision on a dataset, with the numbers of `dh eval`.

    in   model       a model; or detections: a table with scores, the path of COCO results or of a
                     dataset of any format with scores
         data        the ground truth: a path, or what `read_dataset` gave
         metric      coco, voc07, voc12, kitti; several in a sequence
         split       name of the split, `all` for every image; None: val, else test, else all
         top_k       most detections per image; None: the model's limit, 100 mostly; above 100,
                     COCO's metrics count them all
         batch_size  images at a time; None: as in training
         workers     processes that load images, beside this one
         say         is given the lines that `dh eval` would print

    out  `stats` and `per_class` have the numbers of the (first) metric by name, fractions in
         [0, 1], NaN where undefined; `results` those of each metric; `truth` and `found` the tables
         that were compared; `unknown_to_model` the classes that could not be scored

    Raises DataError where the data cannot be read or no class is in common, ConfigError for an
    unknown metric or an option out of its range.
    """
    _check_range("top_k", top_k, 1)
    _check_range("batch_size", batch_size, 1)
    _check_range("workers", workers, -1)
    metrics = parse_metrics([metric] if isinstance(metric, str) else metric)
    truth = data if isinstance(data, DetectionTable) else Path(data)
    measures = Measures(split, metrics, most=top_k or 100)
    say = say or (lambda line: None)
    if not isinstance(model, Model):
        return evaluate_results(_detections(model), truth, measures, say=say, top_k=top_k)
    from dhcli.inference.evaluate import evaluate_runner  # torch loads here, for its loader

    [evaluation] = evaluate_runner(
        model.runner,
        truth,
        replace(measures, scores=model._scores, boxes=model._boxes),
        options=replace(model._options, most=top_k),
        batch_size=batch_size,
        workers=workers,
        say=say,
    ).values()
    return evaluation


def _check_images(images: object) -> None:
    """Raise DataError where it is neither an image nor several: bytes are several numbers."""
    if isinstance(images, bytes | bytearray | IOBase) or not isinstance(images, (*_ONE, Iterable)):
        raise _no_image(images, 1)


def _no_image(image: object, number: int) -> DataError:
    what = f"is neither a path nor an array nor a Pillow image, but of {type(image)}"
    hint = "of bytes or an open file, give Pillow's `Image.open(…)`"
    return DataError(what, where=f"image {number}", hint=hint)


def _source(image: Picture, number: int) -> Source:
    """What reads an image, the `number`th that was given. Raises DataError where it is none."""
    if isinstance(image, np.ndarray):
        return Source(f"image {number}", partial(read_array, image, f"image {number}"))
    if isinstance(image, Image.Image):
        return Source(f"image {number}", partial(read_opened, image, f"image {number}"))
    if not isinstance(image, str | os.PathLike):
        raise _no_image(image, number)
    path = Path(image)
    if path.is_dir():
        hint = f"give its images: `model(sorted(Path({str(path)!r}).glob('*.jpg')))`"
        raise DataError("is a folder, not an image", where=path, hint=hint)
    return Source(str(image), partial(read_image, path))


def _detections(found: DetectionTable | str | os.PathLike[str]) -> DetectionTable | Path:
    """What holds detections. Raises DataError where that is a model."""
    if isinstance(found, DetectionTable):
        return found
    path = Path(found)
    if path.suffix.lower() in (".safetensors", ".onnx", ".pth") or (path / BEST).is_file():
        hint = f"load it: `evaluate(dhcli.load({str(path)!r}), …)`"
        raise DataError("is a model, not detections", where=path, hint=hint)
    return path


def _place(images: Sequence[Picture]) -> tuple[Path, list[str]]:
    """The deepest folder that holds the files among `images`, and a name from there for each."""
    places = [
        Path(one).parent.resolve() / Path(one).name if isinstance(one, str | os.PathLike) else None
        for one in images
    ]
    folders = [place.parent for place in places if place]
    root = Path(os.path.commonpath(folders)) if folders else Path()
    names = [
        place.relative_to(root).as_posix() if place else f"image {number}"
        for number, place in enumerate(places, 1)
    ]
    return root, names


def _check_range(name: str, value: float | None, least: int, most: int | None = None) -> None:
    """Raise ConfigError where it is out of its range, or no number; without `most` it counts."""
    if value is None:
        return
    kind, called = (Integral, "a whole number") if most is None else (Real, "a number")
    if not isinstance(value, kind):
        raise ConfigError(f"must be {called}, not {value!r}", where=name)
    if value >= least and (most is None or value <= most):
        return
    allowed = f"at least {least}" if most is None else f"between {least} and {most}"
    raise ConfigError(f"must be {allowed}, not {value}", where=name)
