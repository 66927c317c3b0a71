"""The branches that a study looks at, and what they say of boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dhcli.config.detecting import DetectOptions
from dhcli.config.heads import ReadOut
from dhcli.errors import ConfigError, ModelError
from dhcli.ops.batch import ImageBatch
from dhcli.runtime.eager import EagerRunner
from dhcli.studies import subjects as module
from dhcli.studies.subjects import by_model, name_models, open_subjects
from tests.studies.conftest import CONV, FC

CPU = DetectOptions(device="cpu")


def batch() -> ImageBatch:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    return ImageBatch(pixels, torch.tensor([[64, 96]]), torch.tensor([[120, 180]]))


def boxes_of(count: int) -> torch.Tensor:
    corners = torch.rand(count, 2) * 50
    return torch.cat([corners, corners + 2 + torch.rand(count, 2) * 12], 1)


def test_a_branch_is_named_alone_and_beside_other_models(study_model: Callable[..., Path]) -> None:
    ext, fc = study_model("ext"), study_model("one", FC)

    alone, both = open_subjects([ext], None, CPU), open_subjects([ext, fc], None, CPU)

    assert [one.label for one in alone] == ["fc", "conv"]
    assert [one.label for one in both] == ["ext/fc", "ext/conv", "one/fc"]
    assert [[one.branch for one in of] for of in by_model(both)] == [["fc", "conv"], ["fc"]]
    assert both[0].runner is both[1].runner


def test_runs_are_named_by_their_folders_and_no_two_models_alike() -> None:
    files = [Path("runs/a/best.safetensors"), Path("b.safetensors"), Path("x/b.safetensors")]

    assert name_models(files) == ["a", "b", "b-2"]


@pytest.mark.parametrize("head", [{}, {"class_agnostic": True}, {"background_box": True}])
def test_boxes_are_scored_and_refined_as_in_detection(
    study_model: Callable[..., Path], head: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    [subject] = open_subjects([study_model("one", FC, **head)], None, CPU)
    images, boxes = batch(), boxes_of(40)
    levels, owner = subject.levels(images), torch.zeros(40, dtype=torch.long)
    labels = torch.arange(40) % 2

    monkeypatch.setattr(module, "ROUND", 7)
    said = subject.judge(levels, boxes, owner, labels)

    with torch.inference_mode():
        head_ = subject.detector.head
        [all_] = head_.detect([ReadOut("fc", "fc")], levels, boxes, owner, images.sizes, -1.0)
    mine = all_.labels == labels[all_.rows]
    assert said.scores is not None
    assert said.boxes is not None
    chosen = said.scores[torch.arange(40), labels + 1]
    torch.testing.assert_close(chosen, all_.scores[mine])
    torch.testing.assert_close(said.boxes, all_.boxes[mine])
    torch.testing.assert_close(said.scores.sum(1), torch.ones(40))


def test_what_a_branch_does_not_predict_is_none(study_model: Callable[..., Path]) -> None:
    double = study_model("d", FC | {"lambda": 1.0}, CONV | {"lambda": 1.0})
    fc, conv = open_subjects([double], None, CPU)
    images = batch()
    arguments = (fc.levels(images), boxes_of(3), torch.zeros(3).long(), torch.zeros(3).long())

    assert (fc.can_score, fc.can_refine, conv.can_score, conv.can_refine) == (1, 0, 0, 1)
    assert fc.judge(*arguments).boxes is None
    assert conv.judge(*arguments).scores is None


def test_proposals_and_detections_are_those_of_the_detector(
    study_model: Callable[..., Path],
) -> None:
    fc, _ = open_subjects([study_model("ext")], None, CPU)
    images = batch()
    levels = fc.levels(images)

    found = fc.detect(levels, images, DetectOptions(threshold=0.0))

    options = DetectOptions(threshold=0.0, read_outs=(ReadOut("fc", "fc"),))
    with torch.inference_mode():
        [[same]] = fc.detector.detect(images, options)
    assert len(same) > 0
    np.testing.assert_array_equal(found[0].boxes, same.boxes)
    assert fc.propose(levels, images)[0].shape[1] == 4


def test_a_branch_that_is_not_there_is_an_error_that_names_those_that_are(
    study_model: Callable[..., Path],
) -> None:
    with pytest.raises(ConfigError, match="has no branch `conv`") as caught:
        open_subjects([study_model("one", FC)], ["conv"], CPU)

    assert caught.value.hint == "it has `fc`"


def test_a_model_of_another_kind_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(config=SimpleNamespace(model=SimpleNamespace(kind="torchvision")))
    monkeypatch.setattr(EagerRunner, "open", lambda *_: other)

    with pytest.raises(ModelError, match="of kind `torchvision`, which has no branches to study"):
        open_subjects([Path("ssd.safetensors")], None, CPU)


def test_a_cascade_is_an_error(study_model: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="is a cascade") as caught:
        open_subjects([study_model("one", FC, cascade=[{}, {}])], None, CPU)

    assert caught.value.hint == "studies look at heads without `model.head.cascade`"
