from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dhcli.report.study_cells import _tiles, draw_cells


def test_tile_of_a_cell_is_its_row_as_a_map_with_lines_between() -> None:
    alike = np.random.default_rng(0).normal(size=(9, 9))
    tiles = _tiles(alike, others=False)
    assert tiles.shape == (11, 11)
    assert np.isnan(tiles[[3, 7]]).all()
    assert np.isnan(tiles[:, [3, 7]]).all()
    for r in range(3):
        for c in range(3):
            for y in range(3):
                for x in range(3):
                    assert tiles[4 * r + y, 4 * c + x] == alike[3 * r + c, 3 * y + x]


def test_cells_can_be_left_out_of_their_own_tile() -> None:
    tiles = _tiles(np.ones((9, 9)), others=True)
    own = [(4 * r + r, 4 * c + c) for r in range(3) for c in range(3)]
    assert all(np.isnan(tiles[place]) for place in own)
    assert np.isnan(tiles).sum() == 11 * 11 - 81 + 9


def test_panels_stand_in_rows_and_unknown_values_are_drawn(tmp_path: Path) -> None:
    alike = np.eye(9)
    alike[0, :] = np.nan
    panel = ("$5 or $10", alike)
    draw_cells([[panel, panel], [panel]], "cosine", tmp_path / "cells.png")
    width, height = Image.open(tmp_path / "cells.png").size
    assert width > height / 1.1
    draw_cells([[panel, panel]], "cosine", tmp_path / "others.png", others=True)
    draw_cells([[("none", np.full((4, 4), np.nan))]], "cosine", tmp_path / "none.png")
