from __future__ import annotations

import math

import numpy as np
import pytest

from dhcli.report.sheet import Column
from dhcli.studies.cells import list_cells, list_distances, ring_facts, rings


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


def test_every_two_cells_have_a_row_with_their_places() -> None:
    first, second = symmetric(9), symmetric(9) + 1
    key = ("fc", "trunk.1")
    sheet = list_cells("x", (Column("branch"), Column("layer")), {key: (first, second)}, ("r", "c"))
    assert len(sheet.rows) == 81
    for a in range(9):
        for b in range(9):
            row = sheet.rows[9 * a + b]
            assert row[:6] == (*key, a // 3, a % 3, b // 3, b % 3)
            assert row[6:] == pytest.approx((first[a, b], second[a, b]), abs=1e-6)


def test_maps_of_unequal_sides_share_a_table() -> None:
    maps = {("a", "x"): symmetric(9), ("a", "y"): symmetric(4)}
    sheet = list_distances("x", (Column("branch"), Column("map")), maps, "")
    assert [column.name for column in sheet.columns[2:]] == ["distance 1", "distance 2"]
    assert sheet.rows[1][2:] == (rings(maps["a", "y"])[0].mean, None)
    assert ring_facts(np.full((4, 4), np.nan)) == [
        {"distance": 1, "pairs": 0, "mean": None, "spread": None}
    ]


def test_far_cells_of_a_large_map_share_a_column() -> None:
    alike = symmetric(81)
    names = (Column("branch"), Column("map"))
    maps = {("a", "x"): alike, ("a", "y"): np.full((64, 64), np.nan), ("a", "z"): symmetric(49)}
    sheet = list_distances("x", names, maps, "")
    assert sheet.columns[-1].name == "distance 6+"
    large, unknown, usual = (row[2:] for row in sheet.rows)
    far = [
        alike[a, b]
        for a in range(81)
        for b in range(a)
        if max(abs(a // 9 - b // 9), abs(a % 9 - b % 9)) >= 6
    ]
    assert len(large) == len(usual) == 6
    assert large[-1] == pytest.approx(np.mean(far))
    assert usual == tuple(ring.mean for ring in rings(maps["a", "z"]))
    assert all(np.isnan(unknown))
