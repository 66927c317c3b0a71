"""The windows around an object, and the curves over their IoU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dhcli.config.detecting import DetectOptions
from dhcli.ops.arrays import iou
from dhcli.report.plain import json_rows
from dhcli.studies.groups import group_objects
from dhcli.studies.objects import Objects, read_objects, views
from dhcli.studies.subjects import Subject, open_subjects
from dhcli.studies.windows import WINDOWS, bin_of, judge_all, lay_windows, study_windows
from tests.studies.conftest import CONV, FC, known

CPU = DetectOptions(device="cpu")
INNER = np.array([200.0, 190.0, 240.0, 270.0])


def overlaps_of(windows: np.ndarray, box: np.ndarray) -> np.ndarray:
    return iou(windows, box[None])[:, 0]


def test_windows_cover_every_bin_of_iou_about_evenly() -> None:
    windows = lay_windows(INNER, (600, 500), WINDOWS, (0, 0))

    counts = np.bincount(bin_of(overlaps_of(windows, INNER)), minlength=20)
    assert len(windows) == 14_000
    assert counts.min() > 400
    assert counts.max() < 6 * counts.min()
    assert len(np.unique(windows, axis=0)) == len(windows)


def test_windows_are_of_several_places_and_sizes() -> None:
    windows = lay_windows(INNER, (600, 500), WINDOWS, (0, 0))

    sides = (windows[:, 2:] - windows[:, :2]) / (INNER[2:] - INNER[:2])
    centre = (windows[:, :2] + windows[:, 2:] - INNER[:2] - INNER[2:]) / 2
    shift = centre / (INNER[2:] - INNER[:2])
    assert sides.min() == pytest.approx(1 / 3, abs=0.01)
    assert sides[:, 0].max() == pytest.approx(3, abs=0.05)
    for axis in (0, 1):
        assert (shift[:, axis].min(), shift[:, axis].max()) == pytest.approx((-1, 1), abs=0.02)
        assert np.mean(np.isclose(sides[:, axis], 1)) == pytest.approx(26 / 80, abs=0.01)


def test_windows_are_a_function_of_the_seed() -> None:
    same, again, other = (lay_windows(INNER, (600, 500), 800, (0, k)) for k in (1, 1, 2))

    np.testing.assert_array_equal(same, again)
    assert not (same == other).all(axis=1).any()


def test_windows_are_cut_at_the_border_and_dropped_where_little_is_left() -> None:
    corner = np.array([0.0, 0.0, 10.0, 10.0])

    windows = lay_windows(corner, (15, 12), WINDOWS, (0, 0))

    assert 8_000 < len(windows) < WINDOWS
    assert windows.min() >= 0
    assert windows[:, [0, 2]].max() <= 15
    assert windows[:, [1, 3]].max() <= 12
    assert (windows[:, 2:] - windows[:, :2]).min() >= 1


@pytest.mark.parametrize("count", [80, 800, 2000])
def test_there_are_about_as_many_windows_as_asked_for(count: int) -> None:
    assert abs(len(lay_windows(INNER, (600, 500), count, (0,))) - count) <= 40


def test_an_iou_belongs_to_one_of_twenty_bins() -> None:
    assert bin_of(np.array([0.0, 0.0499, 0.05, 0.999, 1.0])).tolist() == [0, 0, 1, 19, 19]


@pytest.fixture
def subjects(study_model: Callable[..., Path]) -> list[Subject]:
    return open_subjects([study_model("ext"), study_model("one", FC)], None, CPU)


def objects_of(data: Path, subjects: list[Subject]) -> Objects:
    return read_objects(data, None, subjects, say=lambda _: None)


def boxes_by_label(objects: Objects, subject: Subject) -> torch.Tensor:
    """(2, 4) the object of each of the model's classes, the same in every image."""
    view = next(iter(views(objects, subject.runner)))
    return torch.from_numpy(view.boxes[np.argsort(view.labels)])


def test_a_known_score_gives_the_known_curve_and_true_boxes_an_iou_of_one(
    study_data: Path, subjects: list[Subject]
) -> None:
    objects = objects_of(study_data, subjects)
    curve = lambda x: 0.1 + 0.8 * x**2  # noqa: E731
    one = known(subjects[2], boxes_by_label(objects, subjects[2]), curve)

    study = study_windows([one], objects, group_objects(objects), count=2000)

    rows = json_rows(study.numbers)
    assert len(rows) == 20 * 3  # all, small, medium
    for row in rows:
        low, high = float(row["IoU from"]), float(row["IoU to"])  # type: ignore[arg-type]
        middle, bend = curve((low + high) / 2), 0.8 * (high - low) ** 2
        assert row["windows"] > 0  # type: ignore[operator]
        assert curve(low) <= row["score mean"] <= curve(high)  # type: ignore[operator]
        if low > 0:  # the first holds the windows that touch nothing
            assert row["score mean"] == pytest.approx(middle, abs=0.3 * (high - low) + bend)
        assert row["box IoU mean"] == pytest.approx(1, abs=1e-6)
        assert row["box IoU std"] == pytest.approx(0, abs=1e-6)


def test_means_and_deviations_are_those_of_all_windows_of_a_group(
    study_data: Path, subjects: list[Subject]
) -> None:
    objects = objects_of(study_data, subjects)
    groups = group_objects(objects)

    study = study_windows(subjects, objects, groups, count=160, seed=3)

    every = list(judge_all(subjects, objects, 160, 3))
    rows = {
        (row["subject"], row["group"], round(20 * row["IoU from"])): row  # type: ignore[operator]
        for row in json_rows(study.numbers)
    }
    assert len(rows) == 3 * 3 * 20
    for number, subject in enumerate(subjects):
        for group in groups:
            mine = [one for one in every if one.subject == number and group.members[one.row]]
            bins = np.concatenate([bin_of(one.overlaps) for one in mine])
            for name, values in (
                ("score", np.concatenate([one.scores for one in mine])),
                ("box IoU", np.concatenate([one.refined for one in mine])),
            ):
                row = rows[subject.label, group.name, 7]
                inside = values[bins == 7]
                assert row["windows"] == len(inside)
                assert row[f"{name} mean"] == pytest.approx(inside.mean())
                assert row[f"{name} std"] == pytest.approx(inside.std())


def test_features_are_computed_once_for_an_image_and_a_model(
    study_data: Path, subjects: list[Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, seen = objects_of(study_data, subjects), []
    levels = Subject.levels
    monkeypatch.setattr(Subject, "levels", lambda *a: seen.append(a[0].model) or levels(*a))

    list(judge_all(subjects, objects, 80, 0))

    assert seen == ["ext"] * 3 + ["one"] * 3


def test_every_model_judges_the_same_windows_and_every_object_has_its_own(
    study_data: Path, subjects: list[Subject]
) -> None:
    objects = objects_of(study_data, subjects)

    overlaps = {(one.subject, one.row): one.overlaps for one in judge_all(subjects, objects, 80, 0)}

    for row in range(len(objects)):
        np.testing.assert_array_equal(overlaps[0, row], overlaps[1, row])
        np.testing.assert_array_equal(overlaps[0, row], overlaps[2, row])
    np.testing.assert_array_equal(objects.boxes[0], objects.boxes[2])  # in two images
    assert not np.array_equal(overlaps[0, 0], overlaps[0, 2])


def test_a_branch_that_only_scores_or_only_refines_leaves_the_rest_undefined(
    study_data: Path, study_model: Callable[..., Path]
) -> None:
    double = study_model("double", FC | {"lambda": 1.0}, CONV | {"lambda": 1.0})
    subjects = open_subjects([double], None, CPU)
    objects = objects_of(study_data, subjects)

    study = study_windows(subjects, objects, group_objects(objects), count=800)

    rows = json_rows(study.numbers)
    fc, conv = (next(r for r in rows if r["subject"] == name) for name in ("fc", "conv"))
    assert fc["box IoU mean"] is None
    assert conv["score mean"] is None
    assert isinstance(fc["score mean"], float)
    assert isinstance(conv["box IoU mean"], float)
    assert list(study.figures) == ["scores.png", "boxes.png"]
    names = [column.name for column in study.sheets[1].columns]
    assert names == ["IoU", "windows", "fc score", "conv box IoU"]
