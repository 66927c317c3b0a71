"""The best anchor of each box, beside every anchor there is."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from dhcli.config.schema import Config
from dhcli.data.table import make_table
from dhcli.ops.anchors import cell_anchors, grid_anchors
from dhcli.studies.anchors import measure_anchors
from tests.references.network import STRIDES


def config_of(**anchors):
    return Config.model_validate(
        {"input": {"min_size": 60, "max_size": 96}, "model": {"anchors": anchors}}
    )


def table_of(boxes, labels, size=(40, 30)):
    return make_table("root", ["a.jpg"], [size], [len(boxes)], boxes, labels, ("cat", "dog", "owl"))


@pytest.mark.parametrize("convention", ["plain", "torchvision", "maskrcnn_benchmark"])
def test_the_nearest_cell_has_the_best_anchor(rng, convention):
    config = config_of(sizes=(8, 16, 24, 32, 64), convention=convention)
    corner = rng.uniform(0, 25, (200, 2))
    boxes = np.hstack([corner, np.minimum(corner + rng.uniform(1, 20, (200, 2)), (40, 30))])
    table = table_of(boxes, rng.integers(0, 2, 200))

    recall = measure_anchors(table, config)

    scaled = torch.from_numpy(boxes * 2)  # 40 × 30 becomes 80 × 60, padded to 96 × 64
    best = torch.stack(
        [
            box_iou(scaled, grid_anchors(cell, -(-64 // stride), -(-96 // stride), stride)).amax(1)
            for stride, size in zip(STRIDES, config.model.anchors.sizes, strict=True)
            for cell in [cell_anchors(size, stride, (0.5, 1, 2), convention).double()]
        ],
        dim=1,
    )
    near = best.amax(1) >= 0.5
    for label in (0, 1):
        rows = torch.from_numpy(table.labels == label)
        level = best.argmax(1)[rows]
        assert recall.counts[label].tolist() == level.bincount(minlength=5).tolist()
        assert recall.near[label].tolist() == level[near[rows]].bincount(minlength=5).tolist()
        assert recall.ious[label] == pytest.approx(best.amax(1)[rows].mean().item())
    assert recall.counts[2].sum() == 0
    assert np.isnan(recall.recall()[2])


def test_a_class_that_the_anchors_miss_is_named():
    table = table_of([[4, 4, 6, 6], [4, 4, 20, 20]], [0, 1])
    config = config_of(sizes=(32, 64, 128, 256, 512))

    recall = measure_anchors(table, config)
    found = recall.findings(config)

    assert [(f.code, f.where) for f in found] == [("anchor-recall", "class cat")]
    assert "0 % of its objects; their median side after resizing is 4 pixels" in found[0].what
    assert recall.as_dict()["owl"]["mean_iou"] is None


def test_a_dataset_without_objects_has_nothing_to_fit():
    recall = measure_anchors(table_of([], []), config_of())

    assert recall.counts.sum() == 0
    assert recall.findings(config_of()) == []


def test_the_sheet_has_counts_and_shares_and_nothing_for_a_class_without_objects():
    table = table_of([[4, 4, 20, 20], [4, 4, 6, 6], [4, 4, 20, 20]], [0, 0, 1])
    recall = measure_anchors(table, config_of(sizes=(32, 64, 128, 256, 512)))

    sheet = recall.sheet()

    cat, dog, owl = (dict(zip(names_of(sheet), row, strict=True)) for row in sheet.rows)
    assert (cat["class"], cat["all"], cat["all near"]) == ("cat", 2, 0.5)
    assert (dog["P2"], dog["P2 near"]) == (1, 1.0)
    assert dog["mean IoU"] == recall.ious[1]
    assert set(owl.values()) == {"owl", None}
    assert dog["P6"] is None


def names_of(sheet):
    return [column.name for column in sheet.columns]
