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
