"""`dh study`: the analyses of the paper, on any model and any data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhcli.cli.options import (
    FOREIGN,
    RUN,
    Data,
    Device,
    JsonFlag,
    Overwrite,
    all_weights_option,
    one_model,
    out_option,
)

if TYPE_CHECKING:
    from dhcli.studies.groups import Group
    from dhcli.studies.objects import Objects
    from dhcli.studies.study import Study
    from dhcli.studies.subjects import Subject

study = typer.Typer(add_completion=False, no_args_is_help=True)

STUDIED = f"Model to look at: a model file, {FOREIGN}, {RUN}."

Models = Annotated[list[Path], all_weights_option(STUDIED)]

Split = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Split to look at, or `all` (default: val, else test, else all images).",
    ),
]

Branches = Annotated[
    list[str] | None,
    typer.Option(
        "--branch",
        metavar="NAME",
        help="Branch to look at, such as fc; can be repeated (default: all of each model).",
    ),
]

Images = Annotated[
    int | None,
    typer.Option(
        "--images",
        min=1,
        metavar="N",
        help="Look at N images at most, chosen at random (default: all of the split).",
    ),
]

Seed = Annotated[
    int,
    typer.Option("--seed", min=0, metavar="N", help="Random seed, of whatever is chosen."),
]

Out = Annotated[
    Path | None,
    out_option(
        "Folder to write study.json, study.csv and the figures to (default: none are written)."
    ),
]


Windows = Annotated[
    int,
    typer.Option(
        "--windows", min=80, metavar="N", help="Number of windows around each object, about."
    ),
]

Difficulty = Annotated[
    bool,
    typer.Option(
        "--difficulty",
        help="Also group objects by the AP of their class, in thirds. It is measured on these "
        "images: the AP of the first model, or of --baseline.",
    ),
]

Baseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="FILE|RUN",
        help="Model whose AP ranks the classes; turns on --difficulty.",
        callback=one_model,
    ),
]


@study.callback()
def group() -> None:
    """Run one of the paper's analyses on a model.

    For example:
      dh study windows --weights runs/train/custom --data photos/ --out windows
      dh study windows -w fc.safetensors -w conv.safetensors --data photos/
    """


@study.command()
def windows(
    weights: Models,
    data: Data,
    split: Split = None,
    windows: Windows = 14000,
    difficulty: Difficulty = False,
    baseline: Baseline = None,
    branch: Branches = None,
    images: Images = None,
    seed: Seed = 0,
    out: Out = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare branches on windows around each object: scores and boxes over IoU (Fig. 2, 7).

    Every branch scores and refines the same windows, whose IoU with the object runs from 0 to 1. In
    20 bins of IoU: mean and standard deviation of the true class's score, and of the refined box's
    IoU; for all objects, and by COCO's sizes. --out writes scores.png and boxes.png too.

    For example:
      dh study windows --weights runs/train/custom --data photos/ --out windows
      dh study windows -w fc.safetensors -w conv.safetensors -w ext.safetensors --data photos/
      dh study windows -w model.safetensors --data COCO --images 200 --windows 2000 --difficulty
    """
    subjects = open_study(weights, branch, device, out, overwrite=overwrite, inputs=[data])
    objects = open_objects(data, split, subjects, images, seed)
    groups = open_groups(objects, subjects, difficulty, baseline, device)
    from dhcli.report.counting import counting
    from dhcli.studies.windows import study_windows

    with counting("objects of each branch") as progress:
        done = study_windows(subjects, objects, groups, count=windows, seed=seed, progress=progress)
    finish(done, out, overwrite=overwrite, as_json=as_json)


@study.command()
def correlation(
    weights: Models,
    data: Data,
    split: Split = None,
    windows: Annotated[
        int,
        typer.Option(
            "--windows",
            min=0,
            metavar="N",
            help="Number of windows around each object, about; 0: leave them out.",
        ),
    ] = 14000,
    resamples: Annotated[
        int,
        typer.Option(
            "--resamples", min=1, metavar="N", help="Number of bootstrap samples of the images."
        ),
    ] = 1000,
    difficulty: Difficulty = False,
    baseline: Baseline = None,
    branch: Branches = None,
    images: Images = None,
    seed: Seed = 0,
    out: Out = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure how well each branch's scores follow the IoU of boxes: Pearson's r (Fig. 3).

    For the windows of `dh study windows`, for the RPN's proposals, and for what the branch alone
    detects after NMS. Boxes that touch no object are left out. The interval of 95 % is a
    bootstrap over images. --out writes correlation.png too.

    For example:
      dh study correlation --weights runs/train/custom --data photos/ --out correlation
      dh study correlation -w fc.safetensors -w conv.safetensors --data photos/ --windows 2000
      dh study correlation -w model.safetensors --data COCO --images 500 --windows 0
    """
    subjects = open_study(weights, branch, device, out, overwrite=overwrite, inputs=[data])
    objects = open_objects(data, split, subjects, images, seed)
    groups = open_groups(objects, subjects, difficulty, baseline, device)
    from dhcli.report.counting import counting
    from dhcli.studies.correlation import study_correlation

    with counting("images of each model") as progress:
        done = study_correlation(
            subjects,
            objects,
            groups,
            count=windows,
            resamples=resamples,
            seed=seed,
            progress=progress,
        )
    finish(done, out, overwrite=overwrite, as_json=as_json)


@study.command("weights")
def weights_(
    weights: Models,
    branch: Branches = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Layer by its name in the branch, such as trunk.1 (default: the first that reads "
            "the cells of a RoI).",
        ),
    ] = None,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Correlate a layer's weights of every two cells (Fig. 4).

    Does a branch do the same at every cell? A convolution does, a fully connected layer does not.

    For example:
      dh study weights -w runs/train/custom --out weights
      dh study weights -w runs/train/custom --branch conv --layer trunk.0.shortcut.0
    """
    subjects = open_study(weights, branch, "cpu", out, overwrite=overwrite)
    from dhcli.studies.weights import study_weights

    finish(study_weights(subjects, layer), out, overwrite=overwrite, as_json=as_json)


@study.command()
def features(
    weights: Models,
    data: Data,
    split: Split = None,
    branch: Branches = None,
    images: Images = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare the cells of each branch's input and output maps (Fig. 8).

    The mean cosine of every two cells, over the ground-truth boxes of the images.

    For example:
      dh study features -w runs/train/custom --data photos/ --out features
      dh study features -w fc.safetensors -w conv.safetensors --data photos/ --images 100
    """
    subjects = open_study(weights, branch, device, out, overwrite=overwrite, inputs=[data])
    objects = open_objects(data, split, subjects, images, seed)
    from dhcli.report.counting import counting
    from dhcli.studies.features import study_features

    with counting("images") as progress:
        done = study_features(subjects, objects, seed=seed, progress=progress)
    finish(done, out, overwrite=overwrite, as_json=as_json)


@study.command()
def errors(
    weights: Models,
    data: Data,
    split: Split = None,
    iou_threshold: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="IOU", help="IoU from which a box finds an object."),
    ] = 0.5,
    duplicate_iou: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="IOU", help="IoU from which a second box is on a found object."
        ),
    ] = 0.3,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SCORE",
            help="Count boxes from this score (default: the score of best F1, of each side).",
        ),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Draw N images of each kind, those of highest score first."
        ),
    ] = 5,
    images: Images = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Find the objects that one branch finds and the other misses, and second boxes on one object.

    Of one model, its branches are compared; of two, the models. Pictures show the ground truth,
    either side and both (Fig. 9 and 10), duplicates with the proposal that they came from.

    For example:
      dh study errors --weights ext.safetensors --data photos/ --out errors
      dh study errors -w conv.safetensors -w fc.safetensors -w ext.safetensors --data photos/
    """
    subjects = open_study(weights, None, device, out, overwrite=overwrite, inputs=[data])
    from dhcli.config.detecting import DetectOptions
    from dhcli.report.counting import counting
    from dhcli.studies.error_sides import choose_sides, compare
    from dhcli.studies.error_study import error_study
    from dhcli.studies.errors import Rule

    reads = choose_sides(subjects)
    objects = open_objects(data, split, subjects, images, seed)
    truth = objects.table.with_classes(objects.classes, others="drop")
    rule, options = Rule(iou_threshold, duplicate_iou), DetectOptions(device=device)
    with counting("images") as progress:
        compared = compare(
            reads, truth, rule=rule, threshold=score_threshold, options=options, progress=progress
        )
    facts = {
        "weights": [str(path) for path in weights],
        "data": str(data),
        "split": objects.split,
        "images": len(truth),
        "seed": seed,
    }
    done = error_study(compared, rule, examples, facts)
    finish(done, out, overwrite=overwrite, as_json=as_json)


@study.command("lambda")
def lambda_(
    runs: Annotated[
        list[Path],
        typer.Option(
            metavar="FOLDER",
            help="Run folder of a Double-Head-Ext, or a folder of such run folders. Can be "
            "repeated.",
        ),
    ],
    data: Data,
    split: Split = None,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure AP over the weights λ of the losses, of runs trained with different pairs (Fig. 6).

    Each run's best model is read in four ways: conv alone, fc alone, the scores of fc with the
    boxes of conv, and both scores fused. Runs are trained with `dh train --set
    model.head.branches.fc.lambda=0.7 --set model.head.branches.conv.lambda=0.8`.

    For example:
      dh study lambda --runs runs/lambda --data photos/ --split test --out lambda
    """
    from dhcli.atomic import require_free
    from dhcli.config.detecting import DetectOptions
    from dhcli.report.console import err
    from dhcli.studies.balance import evaluate_runs, find_runs, lambda_study

    if out is not None:
        require_free(out, overwrite=overwrite, inputs=[data, *runs])
    grid = find_runs(runs, err.print)
    found = evaluate_runs(grid, data, split, DetectOptions(device=device), err.print)
    finish(lambda_study(grid, found, data), out, overwrite=overwrite, as_json=as_json)


@study.command("read-outs")
def read_outs(
    weights: Models,
    data: Data,
    split: Split = None,
    resamples: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Draws of the images that the intervals are from."),
    ] = 200,
    seed: Seed = 0,
    device: Device = "auto",
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare the read-outs of a model, with intervals; the best one is marked.

    As `dh eval --read-outs all`, with a bootstrap over images: how sure AP is, and its lead over
    the model's own read-out. `dh weights set-read-out` stores a choice.

    For example:
      dh study read-outs --weights ext.safetensors --data photos/ --split val --out read-outs
    """
    subjects = open_study(weights, None, device, out, overwrite=overwrite, inputs=[data])
    from dhcli.config.detecting import DetectOptions
    from dhcli.report.console import err
    from dhcli.studies.read_outs import evaluate_models, read_out_study

    models = evaluate_models(subjects, data, split, DetectOptions(device=device), err.print)
    done = read_out_study(models, resamples, seed)
    finish(done, out, overwrite=overwrite, as_json=as_json)


def open_study(
    weights: Sequence[Path],
    branches: Sequence[str] | None,
    device: str,
    out: Path | None,
    *,
    overwrite: bool,
    inputs: Sequence[Path] = (),
) -> list[Subject]:
    """The branches to look at, `out` being free for what is found. torch loads here."""
    from dhcli.atomic import require_free
    from dhcli.config.detecting import DetectOptions
    from dhcli.report.console import err
    from dhcli.studies.subjects import by_model, open_subjects

    if out is not None:
        require_free(out, overwrite=overwrite, inputs=[*weights, *inputs])
    subjects = open_subjects(weights, branches, DetectOptions(device=device))
    for of_model in by_model(subjects):
        for line in of_model[0].runner.lines:
            err.print(line)
    return subjects


def open_objects(
    data: Path, split: str | None, subjects: Sequence[Subject], images: int | None, seed: int
) -> Objects:
    """The objects to look at."""
    from dhcli.report.console import err
    from dhcli.studies.objects import read_objects

    return read_objects(data, split, subjects, images=images, seed=seed, say=err.print)


def open_groups(
    objects: Objects,
    subjects: list[Subject],
    difficulty: bool,
    baseline: Path | None,
    device: str,
) -> list[Group]:
    """The groups of objects to look at."""
    from dhcli.config.detecting import DetectOptions
    from dhcli.report.counting import counting
    from dhcli.studies.groups import group_objects, measure_difficulty

    if not difficulty and baseline is None:
        return group_objects(objects)
    options = DetectOptions(device=device)
    with counting("images") as progress:
        ranks = measure_difficulty(objects, subjects, baseline, options, progress)
    return group_objects(objects, ranks)


def finish(done: Study, out: Path | None, *, overwrite: bool, as_json: bool) -> None:
    """Write the files of a study where it has a folder, and print its tables or its JSON."""
    from dhcli.report.console import err, print_json
    from dhcli.report.terminal import show
    from dhcli.studies.study import write_study

    written = [] if out is None else write_study(done, out, overwrite=overwrite)
    if as_json:
        print_json(done.as_dict())
    else:
        show(*done.sheets, titles=True)
    for path in written:
        err.print(f"wrote {path}")
