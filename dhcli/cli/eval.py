"""`dh eval`: average precision of a model, or of detections made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dhcli.cli.completion import complete_metrics
from dhcli.cli.options import (
    ANY_MODEL,
    DETECTIONS,
    AcrossClasses,
    Boxes,
    Data,
    Device,
    Gate,
    JsonFlag,
    Nms,
    Overwrite,
    Precision,
    Processes,
    Scores,
    SeenSize,
    TopK,
    batch_size_option,
    out_option,
    weights_option,
)
from dhcli.cli.processes import is_first, say_of, shared_out, together
from dhcli.errors import ConfigError

if TYPE_CHECKING:
    from dhcli.config.detecting import DetectOptions
    from dhcli.config.heads import ReadOut
    from dhcli.inference.score import Evaluation, Measures
    from dhcli.metrics.bars import Limit
    from dhcli.runtime.team import Team


def eval_(
    data: Data,
    weights: Annotated[Path | None, weights_option(ANY_MODEL)] = None,
    detections: Annotated[
        Path | None,
        typer.Option(
            "--detections",
            metavar="PATH",
            help="Evaluate these detections instead of a model: COCO results (JSON), or a folder "
            "or file in another format with scores.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Split to evaluate, or `all` (default: val, else test, else all images).",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Metrics, comma-separated: coco (default), voc07, voc12, kitti.",
            autocompletion=complete_metrics,
        ),
    ] = None,
    engine: Annotated[
        Literal["hotcoco", "pycocotools"],
        typer.Option(help="Program that computes the coco metrics; both give the same numbers."),
    ] = "hotcoco",
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Exit with code 1 if this number is below this value, such as AP50=0.5 or "
            "voc07.mAP=0.5; can be repeated.",
        ),
    ] = None,
    target_precision: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="VALUE",
            help="Print the score threshold that reaches this precision with the highest recall, "
            "instead of the one of best F1.",
        ),
    ] = None,
    top_k: TopK = None,
    scores: Scores = None,
    boxes: Boxes = None,
    read_outs: Annotated[
        Literal["all"] | None,
        typer.Option(
            metavar="all",
            help="Compare AP for each choice of branch for scores and for boxes, in one pass (the "
            "paper's Fig. 6 and Table 3).",
            rich_help_panel=DETECTIONS,
        ),
    ] = None,
    out: Annotated[
        Path | None, out_option("Folder to write files to (default: none are written).")
    ] = None,
    image_size: SeenSize = None,
    nproc: Processes = None,
    device: Device = "auto",
    batch_size: Annotated[int | None, batch_size_option("as in training")] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=-1,
            metavar="N",
            help="Number of processes that load images (-1: one per free core, at most 8).",
        ),
    ] = -1,
    precision: Precision = "fp32",
    gate: Gate = None,
    across_classes: AcrossClasses = None,
    nms: Nms = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure average precision on a dataset.

    Give either --weights or --detections. Classes are matched by name. Also prints the score
    threshold of best F1, and how far scores are from the precision (expected calibration error),
    both at IoU 0.5. --out writes metrics.json, per_class.csv, predictions.bbox.json with
    categories.json, reliability.png and, for the coco metric, pr_curves.png. With --read-outs,
    each combination gets its own folder. With --top-k above 100, the coco metrics count that many
    detections per image instead of 100.

    For example:
      dh eval --weights runs/train/custom --data photos/ --split test
      dh eval --weights model.safetensors --data photos/ --read-outs all
      dh eval --weights model.safetensors --data photos/ --scores fc --boxes conv
      dh eval --detections results.json --data photos/ --metric coco,voc07
    """
    from dhcli.atomic import require_free
    from dhcli.config.detecting import DetectOptions
    from dhcli.inference.score import Measures
    from dhcli.metrics.bars import parse_limit
    from dhcli.metrics.names import parse_metrics

    metrics = parse_metrics(metric or ["coco"])
    limits = [parse_limit(text, metrics) for text in fail_under or []]
    every = read_outs is not None
    most, target = top_k or 100, target_precision
    measures = Measures(split, metrics, engine, scores, boxes, every, most, target)
    of_model = {
        "--nproc": nproc,
        "--gate": gate,
        "--across-classes": across_classes,
        "--nms": nms,
        "--image-size": image_size,
        "--batch-size": batch_size,
        "--device": None if device == "auto" else device,
        "--workers": None if workers == -1 else workers,
        "--precision": None if precision == "fp32" else precision,
    }
    of_model_given = [option for option, value in of_model.items() if value is not None]
    _check_beside(weights, detections, measures, limited=bool(limits), of_model=of_model_given)
    if out is not None:
        require_free(out, overwrite=overwrite, inputs=[data, *filter(None, [weights, detections])])
    finish = partial(_finish, limits=limits, out=out, overwrite=overwrite, as_json=as_json)
    if detections is not None:
        if is_first():  # a launcher may have started several
            finish(_evaluate_results(detections, data, measures, top_k))
        return
    assert weights is not None
    with together(nproc, device) as team:
        options = DetectOptions(
            most=top_k,
            gate=gate,
            across_classes=across_classes,
            nms=nms,
            image_size=image_size,
            device=shared_out(team, device, weights),
            precision=precision,
        )
        found = _evaluate_model(weights, data, measures, options, batch_size, workers, team)
        if team.first and measures.every:
            _save({"-".join(read_out): one for read_out, one in found.items()}, out, overwrite)
            _show_every(found, as_json=as_json)
        elif team.first:
            [evaluation] = found.values()
            finish(evaluation)


def _finish(
    evaluation: Evaluation,
    *,
    limits: Sequence[Limit],
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write and print an evaluation. Raises DhError where a number is below its limit."""
    from dhcli.metrics.bars import check_limits

    _save({"": evaluation}, out, overwrite)
    _show(evaluation, as_json=as_json)
    check_limits(evaluation.results, limits)


def _check_beside(
    weights: Path | None,
    detections: Path | None,
    measures: Measures,
    *,
    limited: bool,
    of_model: Sequence[str],
) -> None:
    """Raise ConfigError for options that do not go together."""
    if (weights is None) == (detections is None):
        raise ConfigError("give either --weights or --detections", hint="see `dh eval --help`")
    chosen = measures.scores is not None or measures.boxes is not None
    if detections is not None and (chosen or measures.every):
        what = "--scores, --boxes and --read-outs are about a model, not about --detections"
        raise ConfigError(what)
    if detections is not None and of_model:
        raise ConfigError(f"{of_model[0]} is about a model, not about --detections")
    if measures.every and (chosen or limited):
        what = "--read-outs measures all of them; --scores, --boxes and --fail-under are for one"
        raise ConfigError(what)


def _evaluate_model(
    weights: Path,
    data: Path,
    measures: Measures,
    options: DetectOptions,
    batch_size: int | None,
    workers: int,
    team: Team,
) -> dict[ReadOut, Evaluation]:
    from dhcli.inference.evaluate import evaluate_model  # torch loads here, not for --detections
    from dhcli.report.counting import counting

    with counting("images") if team.first else nullcontext() as progress:
        return evaluate_model(
            weights,
            data,
            measures,
            options=options,
            batch_size=batch_size,
            workers=workers,
            say=say_of(team),
            progress=progress,
            team=team,
        )


def _evaluate_results(
    detections: Path, data: Path, measures: Measures, top_k: int | None
) -> Evaluation:
    from dhcli.inference.score import evaluate_results
    from dhcli.report.console import err

    return evaluate_results(detections, data, measures, say=err.print, top_k=top_k)


def _show(evaluation: Evaluation, *, as_json: bool) -> None:
    from dhcli.report.console import out, print_json
    from dhcli.report.tables import ap_sheets, threshold_lines, threshold_sheet
    from dhcli.report.terminal import show

    if as_json:
        print_json(evaluation.as_dict())
        return
    for metric, result in evaluation.results.items():
        show(*ap_sheets(metric, result), titles=True)
    points, target = evaluation.points, evaluation.target
    show(threshold_sheet(points, target, evaluation.scored), titles=True)
    for line in threshold_lines(points, target, evaluation.stored):
        out.print(line)
    if evaluation.calibration.error is not None:
        error = 100 * evaluation.calibration.error
        out.print(f"expected calibration error of the scores: {error:.1f} %")


def _show_every(every: dict[ReadOut, Evaluation], *, as_json: bool) -> None:
    from dhcli.report.console import print_json
    from dhcli.report.tables import read_out_sheet
    from dhcli.report.terminal import show

    if as_json:
        rows = [{**r._asdict(), **evaluation.as_dict()} for r, evaluation in every.items()]
        print_json({"read_outs": rows})
        return
    for metric in next(iter(every.values())).results:
        results = {read_out: e.results[metric].stats for read_out, e in every.items()}
        show(read_out_sheet(metric, results), titles=True)


def _save(every: dict[str, Evaluation], out: Path | None, overwrite: bool) -> None:
    """Write the files of each evaluation into the folder of its name below `out`."""
    from dhcli.atomic import atomic_folder
    from dhcli.inference.score import save_evaluation
    from dhcli.report.console import err
    from dhcli.report.pr_curves import draw_pr_curves
    from dhcli.report.reliability import draw_reliability

    if out is None:
        return
    with atomic_folder(out, overwrite=overwrite) as place:
        for name, evaluation in every.items():
            save_evaluation(evaluation, place / name)
            if coco := evaluation.results.get("coco"):
                draw_pr_curves(coco, place / name / "pr_curves.png")
            draw_reliability(evaluation.calibration, place / name / "reliability.png")
        files = sorted(path.relative_to(place) for path in place.rglob("*.*"))
    for path in files:
        err.print(f"wrote {out / path}")
