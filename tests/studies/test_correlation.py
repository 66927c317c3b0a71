"""Pearson's r of scores and IoU, and its interval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from dhcli.config.detecting import DetectOptions
from dhcli.config.heads import ReadOut
from dhcli.config.schema.detect import SoftNms
from dhcli.models.two_stage.branches import BranchOutput
from dhcli.report.plain import json_rows
from dhcli.studies.correlation import estimate, pair_sums, pearson, study_correlation
from dhcli.studies.groups import group_objects
from dhcli.studies.objects import Objects, read_objects, views
from dhcli.studies.subjects import Subject, open_subjects
from tests.studies.conftest import CONV, FC, known
from tests.studies.test_windows import boxes_by_label

CPU = DetectOptions(device="cpu")


def test_r_is_that_of_scipy_however_the_boxes_lie_in_images(rng: np.random.Generator) -> None:
    stats = pytest.importorskip("scipy.stats")
    x = rng.random(5000)
    y = 1e-3 * (x + rng.normal(size=5000)) + 0.9
    parts = np.split(np.arange(5000), [10, 11, 2000])

    sums = sum(pair_sums(x[part], y[part]) for part in parts)

    assert pearson(sums) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)


def test_r_is_undefined_where_nothing_varies() -> None:
    ones = np.full(1000, 0.1)

    for x, y in ((ones, np.linspace(0, 1, 1000)), (np.linspace(0, 1, 1000), ones), (ones, ones)):
        assert np.isnan(pearson(pair_sums(x, y)))
    assert np.isnan(pearson(np.zeros(6)))


def test_the_interval_is_a_bootstrap_over_images(rng: np.random.Generator) -> None:
    images = [(rng.random(n), rng.random(n)) for n in (30, 5, 1, 60)]
    images = [(x, x + k * y) for k, (x, y) in enumerate(images, 1)]
    sums = np.stack([pair_sums(x, y) for x, y in images])

    found = estimate(sums, 150, seed=4)

    dice = np.random.default_rng(4)
    times = [dice.multinomial(4, [0.25] * 4, size) for size in (100, 50)]
    drawn = []
    for row in np.concatenate(times):
        again = [image for image, count in zip(images, row, strict=True) for _ in range(count)]
        x, y = (np.concatenate(part) for part in zip(*again, strict=True))
        drawn.append(np.corrcoef(x, y)[0, 1] if len(x) > 4 else np.nan)  # the image with one box
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.boxes == 96
    assert found.low < found.r < found.high


def test_boxes_of_a_single_image_have_no_interval() -> None:
    x = np.linspace(0, 1, 9)

    found = estimate(np.stack([pair_sums(x, x), np.zeros(6)]), 20, 0)

    assert found.r == pytest.approx(1)
    assert np.isnan(found.low)


@pytest.fixture
def subjects(study_model: Callable[..., Path]) -> list[Subject]:
    return open_subjects([study_model("ext")], None, CPU)


def objects_of(data: Path, subjects: list[Subject]) -> Objects:
    return read_objects(data, None, subjects, say=lambda _: None)


def test_scores_that_rise_with_iou_have_an_r_of_one(
    study_data: Path, subjects: list[Subject]
) -> None:
    objects = objects_of(study_data, subjects)
    boxes = boxes_by_label(objects, subjects[0])
    rising = known(subjects[0], boxes, lambda x: 0.2 + 0.7 * x)
    falling = known(subjects[1], boxes, lambda x: 0.9 - 0.7 * x)

    study = study_correlation(
        [rising, falling], objects, group_objects(objects), count=400, resamples=20
    )

    rows = [row for row in json_rows(study.numbers) if row["boxes"] == "windows"]
    assert [row["group"] for row in rows[:3]] == ["all", "small", "medium"]
    for row in rows:
        sign = 1 if row["subject"] == "fc" else -1
        for name in ("r", "low", "high"):
            assert row[name] == pytest.approx(sign, abs=1e-9)


def test_proposals_and_detections_are_those_that_touch_an_object(
    study_data: Path, subjects: list[Subject]
) -> None:
    objects = objects_of(study_data, subjects)

    study = study_correlation(subjects, objects, group_objects(objects), count=0, resamples=5)

    rows = {(row["boxes"], row["subject"], row["group"]): row for row in json_rows(study.numbers)}
    assert {key[0] for key in rows} == {"proposals", "detections"}
    for subject in subjects:
        proposed, detected = by_hand(subject, objects)
        for source, pairs in (("proposals", proposed), ("detections", detected)):
            row = rows[source, subject.label, "all"]
            x, y = np.array(pairs).T
            assert row["count"] == len(x)
            assert row["r"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


@torch.inference_mode()
def by_hand(
    subject: Subject, objects: Objects
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(IoU, score) of each proposal and detection that touches an object, one at a time."""
    proposed, detected = [], []
    for view in views(objects, subject.runner):
        levels = subject.levels(view.batch)
        for box in subject.propose(levels, view.batch)[0]:
            ious = box_iou(box[None].double(), torch.from_numpy(view.boxes))[0]
            label = int(view.labels[int(ious.argmax())])
            said = subject.judge(levels, box[None], torch.tensor([0]), torch.tensor([label]))
            if ious.max() > 0:
                proposed.append((float(ious.max()), float(said.scores[0, label + 1])))
        read = CPU.reading(ReadOut(subject.branch, subject.branch))
        [found] = subject.runner.detector.detect(view.batch, read)[0]
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            same = view.rows[view.labels == int(label)]
            ious = box_iou(box[None].double(), torch.from_numpy(objects.boxes[same]))[0]
            if ious.max() > 0:
                detected.append((float(ious.max()), float(score)))
    return proposed, detected


def test_soft_nms_of_the_model_does_not_count(
    study_data: Path, subjects: list[Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = objects_of(study_data, subjects)
    groups = group_objects(objects)
    hard = study_correlation(subjects, objects, groups, count=0, resamples=5).numbers
    for detector in {id(one.detector): one.detector for one in subjects}.values():
        soft = detector.rule.model_copy(update={"nms": SoftNms(kind="soft")})
        monkeypatch.setattr(detector, "rule", soft)

    study = study_correlation(subjects, objects, groups, count=0, resamples=5)

    assert json_rows(study.numbers) == json_rows(hard)


def test_predicted_iou_stands_beside_the_scores(
    study_data: Path, study_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = {"kind": "fc", "name": "iou", "focus": "iou", "width": 8}
    subjects = open_subjects([study_model("judged", FC, judge)], None, CPU)
    objects = objects_of(study_data, subjects)
    truth = boxes_by_label(objects, subjects[0])
    head, run = subjects[0].head, subjects[0].head.run_in_groups

    def known_iou(name: str, levels: object, boxes: torch.Tensor, images: object) -> BranchOutput:
        if name != "iou":
            return run(name, levels, boxes, images)
        return BranchOutput(None, None, ious=box_iou(boxes.double(), truth).logit(1e-9))

    monkeypatch.setattr(head, "run_in_groups", known_iou)
    study = study_correlation(subjects, objects, group_objects(objects), count=400, resamples=5)

    rows = {
        (row["boxes"], row["subject"]): row["r"]
        for row in json_rows(study.numbers)
        if row["group"] == "all"
    }
    assert [rows[source, "iou"] for source in ("windows", "proposals")] == pytest.approx([1, 1])
    assert abs(rows["windows", "fc"]) < 0.9
    assert ("detections", "iou") not in rows
    assert "iou r" in [column.name for column in study.sheets[0].columns]


def test_a_branch_that_does_not_score_has_no_r(
    study_data: Path, study_model: Callable[..., Path]
) -> None:
    double = study_model("double", FC | {"lambda": 1.0}, CONV | {"lambda": 1.0})
    subjects = open_subjects([double], None, CPU)
    objects = objects_of(study_data, subjects)

    study = study_correlation(subjects, objects, group_objects(objects), count=80, resamples=5)

    rows = json_rows(study.numbers)
    assert {(row["boxes"], row["subject"]) for row in rows} == {
        ("windows", "fc"), ("proposals", "fc")
    }  # fmt: skip
