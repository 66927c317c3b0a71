"""Read-outs beside each other: the best is marked, and its lead has an honest interval."""

from __future__ import annotations

import numpy as np
import pytest

from dhcli.config.heads import ReadOut
from dhcli.data.table import make_table
from dhcli.inference.score import Measures, score
from dhcli.studies.read_outs import Evaluated, rank_read_outs, read_out_study
from tests.metrics.test_bootstrap import (
    CLASSES,
    draw_found,
    draw_times,
    draw_truth,
    numbers_of,
    repeated,
)

OWN, GOOD, BAD = ReadOut("complementary", "conv"), ReadOut("fc", "conv"), ReadOut("fc", "fc")


@pytest.fixture
def tables(rng: np.random.Generator):
    truth = draw_truth(rng)
    return truth, {r: draw_found(rng, truth, m) for r, m in ((OWN, 1), (GOOD, 0.4), (BAD, 4))}


def evaluated(truth, found) -> Evaluated:
    every = {r: score(truth, one, "all", Measures()) for r, one in found.items()}
    return Evaluated("ext", OWN, every)


def test_the_interval_of_the_lead_is_that_of_cocos_ap_on_the_same_draws(tables) -> None:
    truth, found = tables

    ranks = {rank.read_out: rank for rank in rank_read_outs(evaluated(truth, found), 15, seed=3)}

    rng = np.random.default_rng(3)
    draws = [draw_times(len(truth), rng) for _ in range(15)]
    aps = {
        r: np.array([numbers_of(repeated(truth, t), repeated(one, t))[0] for t in draws])
        for r, one in found.items()
    }
    for read_out, rank in ranks.items():
        assert rank.ap == pytest.approx(np.percentile(aps[read_out], (2.5, 97.5)))
        lead = np.percentile(aps[read_out] - aps[OWN], (2.5, 97.5))
        assert rank.lead_interval == pytest.approx(lead)
        assert rank.lead == pytest.approx(rank.stats["AP"] - ranks[OWN].stats["AP"])


def test_the_best_and_the_configured_are_marked(tables) -> None:
    ranks = rank_read_outs(evaluated(*tables), 10, seed=0)

    assert [(rank.read_out, rank.mark) for rank in ranks] == [
        (OWN, "configured"),
        (GOOD, "best"),
        (BAD, ""),
    ]
    assert ranks[0].lead == 0
    assert ranks[0].lead_interval == (0, 0)


def test_the_study_has_a_row_per_read_out_and_says_which_is_best(tables) -> None:
    study = read_out_study([evaluated(*tables)], 10, seed=0)

    names = [column.name for column in study.numbers.columns]
    rows = [dict(zip(names, row, strict=True)) for row in study.numbers.rows]
    assert [(row["scores"], row["boxes"]) for row in rows] == [OWN, GOOD, BAD]
    assert rows[0]["in the paper"] == "Fig. 6 (d), Table 3"
    assert study.facts["best"] == {"ext": {"scores": "fc", "boxes": "conv"}}


def test_images_without_objects_make_no_best() -> None:
    truth = make_table("drawn", ["a.jpg"], [(9, 9)], [0], [], [], CLASSES)
    found = make_table("drawn", ["a.jpg"], [(9, 9)], [0], [], [], CLASSES, scores=np.zeros(0))

    study = read_out_study([evaluated(truth, {OWN: found, GOOD: found})], 5, seed=0)

    assert study.facts["best"] == {}
    assert study.sheets[0].rows[0][5] == "n/a"
