from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dhcli.config.detecting import DetectOptions
from dhcli.errors import ConfigError
from dhcli.models.two_stage.branches import Trunk
from dhcli.studies import features as module
from dhcli.studies.features import MeanCosine, study_features
from dhcli.studies.objects import Objects, read_objects, views
from dhcli.studies.subjects import Subject, open_subjects
from tests.studies.conftest import CONV, FC

CPU = DetectOptions(device="cpu")


def silent(line: str) -> None:
    del line


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


def cosines_one_by_one(subject: Subject, objects: Objects, *, output: bool) -> np.ndarray:
    """The mean cosine (S², S²), each cell of each RoI on its own."""
    head, trunk = subject.detector.head, subject.module.trunk
    found = []
    for view in views(objects, subject.runner):
        for box in torch.from_numpy(view.boxes).float():
            levels, image = subject.levels(view.batch), torch.zeros(1, dtype=torch.long)
            pooled = head.pooled(subject.branch, levels, box[None], image)
            vectors = pooled[0].flatten(1).T
            if output and subject.branch == "fc":
                alone = pooled.flatten(2)[:, :, :, None] * torch.eye(49)[None, None]
                flat = alone[0].permute(2, 0, 1).flatten(1)  # a RoI for each cell, else zeros
                vectors = trunk[1](flat) - trunk[1].bias
            elif output:
                vectors = torch.nn.Sequential(*trunk.children())[:-1](pooled)[0].flatten(1).T
            x = vectors.double().numpy()
            x = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
            found.append([[a @ b for b in x] for a in x])
    return np.mean(found, axis=0)


@torch.inference_mode()
def test_maps_of_both_branches_are_those_of_each_cell_alone(
    study_model: Callable[..., Path], study_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP", 1)
    models = [study_model("fc", FC), study_model("conv", CONV, seed=1)]
    subjects = open_subjects(models, None, CPU)
    objects = read_objects(study_data, None, subjects, say=silent)
    told: list[tuple[int, int]] = []

    study = study_features(subjects, objects, progress=lambda *step: told.append(step))

    assert told == [(number, 6) for number in range(1, 7)]
    assert study.facts["rois"] == len(objects) == 6
    values = np.array([row[-1] for row in study.numbers.rows], float).reshape(2, 2, 49, 49)
    for subject, (before, after) in zip(subjects, values, strict=True):
        expected = cosines_one_by_one(subject, objects, output=False)
        np.testing.assert_allclose(before, expected, atol=1e-5)
        expected = cosines_one_by_one(subject, objects, output=True)
        np.testing.assert_allclose(after, expected, atol=1e-5)
    branches = [row[:2] for row in study.sheets[0].rows]
    assert branches == [(f"{n}/{n}", of) for n in ("fc", "conv") for of in ("input", "output")]


def test_trunk_without_a_map_is_named(
    study_model: Callable[..., Path], study_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = open_subjects([study_model("fc", FC)], None, CPU)
    objects = read_objects(study_data, None, subjects, say=silent)
    monkeypatch.setattr(type(subjects[0].module.trunk), "output_map", Trunk.output_map)
    with pytest.raises(ConfigError, match="the branch `fc` has no output map by cells"):
        study_features(subjects, objects)
