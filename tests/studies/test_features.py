from __future__ import annotations

import numpy as np
import pytest
import torch

from dhcli.studies.features import MeanCosine


def test_mean_cosine_is_that_of_loops_over_rois_and_pairs_of_cells() -> None:
    maps = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    running = MeanCosine()
    running.add(maps[:2])
    running.add(maps[2:])
    for a in range(4):
        for b in range(4):
            cosines = []
            for roi in maps.double().numpy():
                x, y = roi[:, a // 2, a % 2], roi[:, b // 2, b % 2]
                cosines.append(np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)))
            assert running.mean()[a, b] == pytest.approx(np.mean(cosines), abs=1e-6)


def test_cell_of_zeros_is_left_out_of_the_mean() -> None:
    maps = torch.ones(2, 3, 1, 2)
    maps[0, :, 0, 1] = 0
    running = MeanCosine()
    running.add(maps)
    np.testing.assert_allclose(running.mean(), 1)
    assert running.count.tolist() == [[2, 1], [1, 1]]
    nothing = MeanCosine()
    assert np.isnan(nothing.mean()).all()
