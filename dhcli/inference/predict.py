"""From a model file and names of images to files of predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhcli.atomic import atomic_folder, require_free
from dhcli.config.detecting import AS_CONFIGURED, DetectOptions, check_gate, lowest_score
from dhcli.config.heads import choose_read_out
from dhcli.data.formats.naming import spelled
from dhcli.data.io.files import fold
from dhcli.data.io.progress import Count
from dhcli.errors import ConfigError, DhError, suggest
from dhcli.inference.locate_images import ImageList, find_images, other_files
from dhcli.inference.stream import Drawer, Kept, Summary, detect_images, drawing
from dhcli.inference.thresholds import (
    Score,
    Threshold,
    note_of,
    require_stored,
    same_for_all,
    stored_threshold,
)
from dhcli.inference.writers import FORMATS, Place, Writer, find_twins
from dhcli.runtime.launch import LEFT_ALONE
from dhcli.runtime.runner import Runner, open_runner
from dhcli.runtime.team import ALONE, Team
from dhcli.weights.class_names import match_names
from dhcli.words import counted, named

DEFAULT_FOLDER = Path("predictions")
SHOWN = 0.3
"""Score from which detections are drawn, where neither the user names one nor the model has one."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    images   files, folders, patterns
    out      folder for the results; None: `predictions`, or `predictions-2` …, a new one
    formats  names in `FORMATS`
    draw     what draws a picture; None: no pictures
    score    lowest score that is written and drawn, or "best": the thresholds that the model
             stores; None: written as low as the model goes, drawn from those, else from `SHOWN`
    top      most detections an image; None: as many as the model gives
    classes  names to keep; None: all
    scores   the branch or fusion that scores; None: as the model is configured
    boxes    the branch that places the boxes; None: as the model is configured
    overwrite  replace what is at `out`, whole
    """

    images: Sequence[str]
    weights: Path
    out: Path | None = None
    formats: Sequence[str] = ("coco-json",)
    draw: Drawer | None = None
    score: Score | None = None
    top: int | None = None
    classes: Sequence[str] | None = None
    scores: str | None = None
    boxes: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """What was found, and where it is.

    folder      with the results; None where none were wanted
    kept_from   scores from which detections were written
    drawn_from  and drawn
    """

    summary: Summary
    classes: tuple[str, ...]
    folder: Path | None
    device: str
    kept_from: Threshold
    drawn_from: Threshold

    def as_dict(self) -> dict[str, Any]:
        """The outcome in plain values, for JSON."""
        summary = self.summary
        return {
            "images": summary.images,
            "unreadable": [{"image": name, "why": why} for name, why in summary.unreadable],
            "odd": dict(summary.odd),
            "detections": {name: summary.counts[k] for k, name in enumerate(self.classes)},
            "score_from": self.kept_from.lowest,
            "drawn": {name: summary.shown[k] for k, name in enumerate(self.classes)},
            "drawn_from": self.drawn_from.lowest,
            "thresholds": dict(zip(self.classes, self.drawn_from.least.tolist(), strict=True)),
            "best": self.drawn_from.best,
            "seconds": round(summary.seconds, 3),
            "images_per_second": round(summary.images / summary.seconds, 3),
            "device": self.device,
            "out": self.folder and str(self.folder),
        }


def predict(
    request: Request,
    *,
    options: DetectOptions = AS_CONFIGURED,
    batch_size: int | None = None,
    say: Callable[[str], None],
    progress: Count | None = None,
    team: Team = ALONE,
) -> Outcome:
    """Detect on the images of `request` and write what is asked for.

    `batch_size` None is 1 on the CPU and 8 on a GPU. The processes of `team` share the images, and
    all get the same outcome; the files are as from one process.
    Raises DataError where there are no images or none can be read, ModelError where the weights are
    no model file, ConfigError where they have no such read-out.
    """
    folder, images = team.from_first(lambda: _find(request))
    runner = team.each(lambda: open_runner(request.weights, options))
    labels = choose_labels(request.classes, runner.classes)
    options = asked(request, options, runner)
    kept_from, drawn_from = choose_thresholds(request, options, runner)
    for line in runner.lines:
        say(line)
    on = f"model {request.weights} on {runner.place}"
    say(f"{counted(len(images), 'image')} below {images.root}, {on}")
    if videos := other_files(request.images):
        say(named(videos, "video skipped"))
    draws = request.draw and str(drawn_from) != str(kept_from)
    drawn = f" and drawn from {drawn_from}" if draws else ""
    done = "written" if request.formats else "counted"
    say(f"detections are {done} from score {kept_from}{drawn}")
    if note := note_of(drawn_from, runner, options):
        say(note)
    kept = Kept(request.top, labels, drawn_from.least, kept_from.least)
    written = folder if request.formats or request.draw else None
    placed = atomic_folder(folder, overwrite=request.overwrite) if written else nullcontext(folder)
    names = tuple(map(spelled, runner.classes))
    twins = find_twins(images.names)
    with ExitStack() as stack:
        at = team.from_first(lambda: stack.enter_context(placed))
        where = Place(at, names, runner.category_ids, twins, frozenset(map(fold, images.names)))
        stack.enter_context(_ending_alike(team))
        draw: Writer | None = None
        if request.draw is not None:
            draw = stack.enter_context(drawing(where, request.draw, drawn_from.least))
        writers: list[Writer] = []
        team.from_first(lambda: writers.extend(stack.enter_context(_writing(request, where))))
        summary = detect_images(
            runner,
            images,
            kept,
            writers,
            options=options,
            batch_size=batch_size or runner.usual_batch,
            progress=progress,
            draw=draw,
            team=team,
        )
    limit = options.over(runner.config.model.detect).max_detections
    if summary.full and not (request.top and request.top < limit):
        say(f"{counted(summary.full, 'image')} reached the limit of {limit} detections: --top-k")
    return Outcome(summary, runner.classes, written, runner.place, kept_from, drawn_from)


def _find(request: Request) -> tuple[Path, ImageList]:
    """The folder for the results, and the images. Raises DhError where either cannot be."""
    folder = request.out or free_folder(DEFAULT_FOLDER)
    inputs = [request.weights, *map(Path, request.images)]
    require_free(folder, overwrite=request.overwrite, inputs=inputs)
    return folder, find_images(request.images, skip=folder)


@contextmanager
def _writing(request: Request, where: Place) -> Iterator[list[Writer]]:
    """The writers of what is asked for."""
    with ExitStack() as stack:
        yield [stack.enter_context(FORMATS[name](where)) for name in request.formats]


@contextmanager
def _ending_alike(team: Team) -> Iterator[None]:
    """Where the block fails in one process, all raise its error once all have left it.

    Within it, processes part only by an error of the user's that all get.
    """
    error: DhError | None = None
    try:
        yield
    except DhError as raised:
        if raised.exit_code == LEFT_ALONE:
            raise
        error = raised
    team.each(lambda: _raise(error))


def _raise(error: DhError | None) -> None:
    if error is not None:
        raise error


def asked(request: Request, options: DetectOptions, runner: Runner) -> DetectOptions:
    """`options` by which the runner gives all that is wanted, and little more."""
    model = runner.config.model
    read_out = choose_read_out(model, request.scores, request.boxes)
    check_gate(model, options.gate, [read_out])
    score = None if request.score == "best" else request.score
    return options.giving(score, request.top, model.detect).reading(read_out)


def choose_thresholds(
    request: Request, options: DetectOptions, runner: Runner
) -> tuple[Threshold, Threshold]:
    """Scores from which detections are kept and drawn. Raises ConfigError where `best` has none.

    Best thresholds are applied to what the model gives as it is configured, which is what they
    were found on: never to scores below its own.
    """
    read_out = choose_read_out(runner.config.model, request.scores, request.boxes)
    if request.score == "best":
        best = require_stored(runner, read_out, "--score-threshold")
        return best, best
    lowest = lowest_score(runner.config.model, options)
    kept = same_for_all(lowest, runner)
    if request.score is not None:
        return kept, kept
    return kept, stored_threshold(runner, read_out) or same_for_all(SHOWN, runner)


def free_folder(path: Path) -> Path:
    """`path`, or with the first number from 2 where nothing is yet: predictions-2."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def choose_labels(names: Sequence[str] | None, known: Sequence[str]) -> tuple[int, ...] | None:
    """Labels of the classes called `names`. Raises ConfigError that names the nearest."""
    if names is None:
        return None
    if not names:  # as of an empty variable of a shell
        hint = f"the model knows: {', '.join(known)}"
        raise ConfigError("no class given", where="--classes", hint=hint)
    for row in match_names(names, known, {}):
        if row.source is None:
            hint = suggest(row.name, known, "it knows")
            raise ConfigError(f"the model knows no class `{row.name}`", hint=hint)
    return tuple(known.index(row.source) for row in match_names(names, known, {}) if row.source)
