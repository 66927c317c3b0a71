"""Small models and a dataset for the tests of studies."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from dhcli.studies.subjects import Judgement, Subject
from dhcli.weights.model_file import ModelFile, save_model

FC = {"kind": "fc", "width": 24, "lambda": 0.5, "omega": 2.0}
CONV = {"kind": "conv", "width": 32, "residual": 2, "norm": "gn", "lambda": 0.5, "omega": 2.0}


@pytest.fixture
def study_data(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A COCO dataset of 3 images of 160 × 120: per image a car and a bus, medium and small.

    Beside them a crowd and an ignored box in the first, and a boat, which no model knows.
    """
    images, annotations = [], []
    for number in range(3):
        pixels = rng.integers(0, 256, (120, 160, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 120})
        boxes: list[tuple[int, list[int], dict[str, Any]]] = [
            (1, [30, 20, 60, 50], {}),
            (2, [100, 80, 20, 20], {}),
        ]
        if number == 0:
            boxes += [(1, [5, 5, 50, 50], {"iscrowd": 1}), (2, [9, 9, 60, 60], {"ignore": 1})]
            boxes += [(3, [50, 50, 40, 40], {})]
        for category, bbox, more in boxes:
            row = {"bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0, **more}
            row |= {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            annotations.append(row)
    names = ("car", "bus", "boat")
    categories = [{"id": id, "name": name} for id, name in enumerate(names, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "data.json").write_text(json.dumps(document), "utf-8")
    return tmp_path / "data.json"


@pytest.fixture
def study_model(tmp_path: Path, small_model: Callable[..., ModelFile]) -> Callable[..., Path]:
    """A function from a name and branches to the file of a small model of `bus` and `car`."""

    def make(name: str, *branches: dict[str, Any], **head: Any) -> Path:
        head |= {"branches": list(branches)} if branches else {}
        path = tmp_path / f"{name}.safetensors"
        save_model(path, small_model("bus", "car", **head))
        return path

    return make


def known(subject: Subject, boxes: Tensor, score: Callable[[Tensor], Tensor]) -> Subject:
    """`subject`, but it scores by the IoU with the one object of a class, which it also returns.

    `boxes` (K, 4) float64: that object by label, in network pixels, in every image.
    """

    class Known(Subject):
        def judge(
            self, levels: Sequence[Tensor], windows: Tensor, images: Tensor, labels: Tensor
        ) -> Judgement:
            truth = boxes[labels]
            values = score(box_iou(windows.double(), truth).diagonal())
            scores = torch.zeros(len(labels), len(boxes) + 1, dtype=torch.float64)
            scores[torch.arange(len(labels)), labels + 1] = values
            return Judgement(scores, truth.clone())

    return Known(subject.label, subject.model, subject.runner, subject.branch)
