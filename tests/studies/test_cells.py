from __future__ import annotations

import math

import numpy as np
import pytest

from dhcli.studies.cells import list_pairs, rings


def symmetric(cells: int) -> np.ndarray:
    half = np.random.default_rng(0).normal(size=(cells, cells))
    return half + half.T


def test_rings_hold_each_pair_once_by_the_larger_distance_in_rows_and_columns() -> None:
    alike = symmetric(9)
    values: dict[int, list[float]] = {1: [], 2: []}
    for a in range(9):
        for b in range(a + 1, 9):
            distance = max(abs(a // 3 - b // 3), abs(a % 3 - b % 3))
            values[distance].append(alike[a, b])
    for ring, expected in zip(rings(alike), values.values(), strict=True):
        assert ring.pairs == len(expected)
        assert ring.mean == pytest.approx(sum(expected) / len(expected))
        mean = sum(expected) / len(expected)
        spread = math.sqrt(sum((value - mean) ** 2 for value in expected) / len(expected))
        assert ring.spread == pytest.approx(spread)


def test_a_pair_that_is_undefined_counts_in_no_ring() -> None:
    alike = symmetric(9)
    alike[0, :] = alike[:, 0] = math.nan
    assert [ring.pairs for ring in rings(alike)] == [20 - 3, 16 - 5]
    assert math.isnan(rings(np.full((4, 4), math.nan))[0].mean)


def test_pairs_are_listed_in_the_order_of_the_matrix() -> None:
    pairs = list_pairs(3)
    assert len(pairs) == 81
    assert pairs[9 * 5 + 7] == (1, 2, 2, 1)
