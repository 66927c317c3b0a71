"""The ways to read a model beside each other, and how sure the differences are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dhcli.config.detecting import DetectOptions
from dhcli.config.heads import ReadOut, choose_read_out
from dhcli.inference.evaluate import evaluate_runner
from dhcli.inference.score import Evaluation, Measures, Say, read_truth
from dhcli.metrics.bootstrap import Interval, interval, matches_of, resample
from dhcli.report.counting import counting
from dhcli.report.sheet import Column, Row, Sheet
from dhcli.report.tables import IN_THE_PAPER
from dhcli.studies.study import Study
from dhcli.studies.subjects import Subject, by_model

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Evaluated:
    """A model, the read-out that it is configured for, and what each of its read-outs is worth."""

    label: str
    own: ReadOut
    every: Mapping[ReadOut, Evaluation]


class Rank(NamedTuple):
    """A read-out among those of its model: fractions in [0, 1].

    stats  COCO's numbers
    ap     the interval of AP
    lead   AP above that of the model's own read-out, and its interval
    """

    read_out: ReadOut
    stats: Mapping[str, float]
    ap: Interval
    lead: float
    lead_interval: Interval
    is_own: bool
    is_best: bool

    @property
    def mark(self) -> str:
        """What to say of it."""
        marks = (("best", self.is_best), ("configured", self.is_own))
        return ", ".join(word for word, holds in marks if holds)


def evaluate_models(
    subjects: Sequence[Subject], data: Path, split: str | None, options: DetectOptions, say: Say
) -> list[Evaluated]:
    """COCO's numbers of every read-out of each model, in one pass over the images a model.

    Raises DataError where the data cannot be read, or share no class with a model.
    """
    table, measures = read_truth(data), Measures(split, every=True)
    models = []
    for of_model in by_model(subjects):
        runner = of_model[0].runner
        with counting("images") as progress:
            every = evaluate_runner(
                runner, table, measures, options=options, say=say, progress=progress
            )
        own = choose_read_out(runner.config.model, None, None)
        models.append(Evaluated(of_model[0].model, own, every))
    return models


def read_out_study(models: Sequence[Evaluated], resamples: int, seed: int) -> Study:
    """The read-outs of each model with bootstrap intervals of `resamples` draws of the images."""
    ranked = [(model, rank_read_outs(model, resamples, seed)) for model in models]
    first = next(iter(models[0].every.values()))
    return Study(
        "read-outs",
        {
            "models": [model.label for model in models],
            "data": str(first.truth.root),
            "split": first.split,
            "images": len(first.truth),
            "resamples": resamples,
            "seed": seed,
            "best": {
                model.label: best.read_out._asdict()
                for model, ranks in ranked
                for best in ranks
                if best.is_best
            },
        },
        _numbers(ranked),
        tuple(_sheet(model.label, ranks) for model, ranks in ranked),
    )


def rank_read_outs(model: Evaluated, resamples: int, seed: int) -> list[Rank]:
    """Its read-outs, all on the same draws of the images.

    The best is that of highest AP; none is where AP is undefined.
    """
    read_outs = list(model.every)
    matches = [matches_of(*evaluation.compared()) for evaluation in model.every.values()]
    images = len(model.every[model.own].truth)
    draws = resample(matches, images, resamples, seed)[..., 0]  # (R, N), of AP
    own = draws[:, read_outs.index(model.own)]
    aps = {read_out: e.results["coco"].stats["AP"] for read_out, e in model.every.items()}
    known = {read_out: ap for read_out, ap in aps.items() if not math.isnan(ap)}
    best = max(known, key=lambda read_out: known[read_out]) if known else None
    return [
        Rank(
            read_out,
            model.every[read_out].results["coco"].stats,
            interval(draws[:, place]),
            aps[read_out] - aps[model.own],
            interval(draws[:, place] - own),
            read_out == model.own,
            read_out == best,
        )
        for place, read_out in enumerate(read_outs)
    ]


def _numbers(ranked: list[tuple[Evaluated, list[Rank]]]) -> Sheet:
    """Everything, a row per model and read-out."""
    percents = (*STATS, "AP low", "AP high", "lead", "lead low", "lead high")
    columns = (
        *map(Column, ("model", "scores", "boxes")),
        *(Column(name, "percent") for name in percents),
        Column("mark"),
        Column("in the paper"),
    )
    rows: list[Row] = [
        (
            model.label,
            *rank.read_out,
            *(rank.stats[name] for name in STATS),
            *rank.ap,
            rank.lead,
            *rank.lead_interval,
            rank.mark,
            IN_THE_PAPER.get(rank.read_out, ""),
        )
        for model, ranks in ranked
        for rank in ranks
    ]
    return Sheet("Read-outs", columns, tuple(rows))


def _sheet(label: str, ranks: list[Rank]) -> Sheet:
    """The read-outs of a model, for a terminal."""
    return Sheet(
        f"COCO of each read-out of {label} (percent)",
        (
            *map(Column, ("scores", "boxes")),
            *(Column(name, "percent") for name in STATS[:3]),
            Column("AP's interval"),
            Column("lead", "percent"),
            Column("its interval"),
            Column("mark"),
        ),
        tuple(
            (
                *rank.read_out,
                *(rank.stats[name] for name in STATS[:3]),
                _words(rank.ap),
                rank.lead,
                "" if rank.is_own else _words(rank.lead_interval, sign="+"),
                rank.mark,
            )
            for rank in ranks
        ),
        caption="lead: AP above that of the configured read-out; intervals hold 95 % of the "
        "resamples of the images",
    )


def _words(ends: Interval, sign: str = "") -> str:
    if math.isnan(ends.low):
        return "n/a"
    return f"{100 * ends.low:{sign}.1f} to {100 * ends.high:{sign}.1f}"
