from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from dhcli.config.detecting import DetectOptions
from dhcli.config.load import load_config
from dhcli.data.loading.pictures import collate_pictures
from dhcli.errors import ConfigError, DhError, ModelError
from dhcli.models.build import build_detector
from dhcli.ops.batch import ImageBatch
from dhcli.runtime.eager import EagerRunner, restore_detector
from dhcli.weights.model_file import ModelFile, save_model

CPU = torch.device("cpu")
ON_CPU = DetectOptions(device="cpu")


def test_a_model_file_becomes_the_detector_it_was(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    saved = small_model("car", "van")
    save_model(tmp_path / "m.safetensors", saved)

    runner = EagerRunner.open(tmp_path / "m.safetensors", ON_CPU)

    assert not runner.detector.training
    assert runner.classes == ("car", "van")
    state = runner.detector.head.state_dict()  # the rest is folded, and convolves another way
    assert all(torch.equal(state[name], saved.state[f"head.{name}"]) for name in state)


def test_weights_that_do_not_fit_are_listed_with_the_file(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    one = small_model("car", "van")
    lying = ModelFile(one.config, ("car",), (1,), one.state)
    save_model(tmp_path / "m.safetensors", lying)

    with pytest.raises(ModelError, match="of another shape") as caught:
        EagerRunner.open(tmp_path / "m.safetensors", ON_CPU)

    assert "head.branches.fc.cls.weight 3×24 instead of 2×24" in str(caught.value)
    assert str(tmp_path / "m.safetensors") in str(caught.value)


def test_a_description_of_a_giant_takes_no_memory(small_model: Callable[..., ModelFile]) -> None:
    one = small_model("car")
    giant = one.config.model.neck.model_copy(update={"channels": 2**20})
    model = one.config.model.model_copy(update={"neck": giant})
    config = one.config.model_copy(update={"model": model})  # its 3×3 alone would take 37 TB

    with pytest.raises(ModelError, match="does not fit"):
        restore_detector(ModelFile(config, one.classes, one.category_ids, one.state), CPU)


@pytest.mark.parametrize("preset", ["coco-r50-ext", "light", "coco-r50-retinanet", "coco-yolox-s"])
def test_no_weight_is_drawn_that_the_file_replaces(preset: str) -> None:
    config = load_config(preset).config
    state = dict(build_detector(config, 2).state_dict())
    before = torch.get_rng_state()

    found = restore_detector(ModelFile(config, ("a", "b"), (1, 2), state), CPU).state_dict()

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[name], state[name]) for name in state)


OWN = {"kind": "disentangled", "width": 8}
TSD = [
    {"kind": "fc", "name": "sibling", "width": 16, "lambda": 0.5},
    {"kind": "fc", "name": "pc", "width": 16, "roi": OWN},
    {"kind": "fc", "name": "pr", "width": 16, "focus": "reg", "roi": OWN},
]


@pytest.mark.parametrize("head", [{"scores": "fc"}, {"branches": TSD}], ids=["fc", "tsd"])
@torch.inference_mode()
def test_a_prepared_detector_finds_the_same_and_bf16_nearly(
    small_model: Callable[..., ModelFile], tmp_path: Path, head: dict[str, Any]
) -> None:
    model = small_model("car", "van", **head)
    images = ImageBatch(torch.randint(256, (1, 3, 64, 96)).byte(), *[torch.tensor([[64, 96]])] * 2)
    options = replace(ON_CPU, threshold=0.0, most=20)
    [[expected]] = restore_detector(model, CPU).detect(images, options)

    for precision, tolerance in (("fp32", 1e-4), ("bf16", 0.05)):
        runner = EagerRunner.of(model, replace(options, precision=precision))
        [[found]] = runner.detector.detect(images, options)
        assert runner.detector.backbone.conv1.weight.dtype == {"fp32": torch.float32}.get(
            precision, torch.bfloat16
        )
        assert runner.precision == precision
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert torch.allclose(found.scores, expected.scores, atol=tolerance)


def test_fp16_is_refused_on_a_cpu(small_model: Callable[..., ModelFile]) -> None:
    with pytest.raises(ConfigError, match="fp16 is for GPUs"):
        EagerRunner.of(small_model("car"), replace(ON_CPU, precision="fp16"))


def test_a_gate_needs_two_scores(small_model: Callable[..., ModelFile]) -> None:
    EagerRunner.of(small_model("car"), replace(ON_CPU, gate=0.1))
    one = small_model("car", branches=[{"kind": "fc", "width": 8, "lambda": 0.5}])
    with pytest.raises(ConfigError, match="only one branch"):
        EagerRunner.of(one, replace(ON_CPU, gate=0.1))


def test_classes_are_suppressed_together_by_every_read_out_in_any_precision(
    small_model: Callable[..., ModelFile],
) -> None:
    pictures = collate_pictures([np.full((64, 96, 3), 90, np.uint8)] * 2, [(64, 96)] * 2, 32)
    for precision in ("fp32", "bf16"):
        options = replace(ON_CPU, threshold=0.0, precision=precision, across_classes=0.3)
        runner = EagerRunner.of(small_model("car", "van"), options)
        options = options.reading(*runner.read_outs())

        every = runner.detect(pictures, options)

        assert len(every) > 1
        for found in (one for of_read_out in every for one in of_read_out):
            boxes = torch.from_numpy(found.boxes)
            assert 1 < len(boxes) < 50
            assert box_iou(boxes, boxes).triu(1).max() <= 0.3


def test_across_classes_needs_a_detector_that_can() -> None:
    config = load_config(
        None, overrides=["model.kind=torchvision", "model.name=fcos_resnet50_fpn"]
    ).config
    with pytest.raises(ConfigError, match="only has NMS per class"):
        EagerRunner.untrained(config, 2, replace(ON_CPU, across_classes=0.5))
    with pytest.raises(ConfigError, match="has no choice of NMS"):
        EagerRunner.untrained(config, 2, replace(ON_CPU, nms="soft"))


def test_what_is_asked_for_is_never_written_into_the_detector(
    small_model: Callable[..., ModelFile],
) -> None:
    runner = EagerRunner.of(small_model("car"), ON_CPU)
    pictures = collate_pictures([np.full((64, 96, 3), 90, np.uint8)], [(64, 96)], 32)
    usual = runner.detect(pictures)

    few = runner.detect(pictures, replace(ON_CPU, threshold=0.0, most=3, gate=0.2))

    assert len(few[0][0].scores) <= 3
    again = runner.detect(pictures)
    assert all(np.array_equal(a, b) for a, b in zip(usual[0][0], again[0][0], strict=True))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to"),
    ],
)
def test_lack_of_memory_names_the_pictures(
    small_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    runner = EagerRunner.of(small_model("car"), ON_CPU)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(runner.detector, "detect", fail)
    picture = np.zeros((60, 80, 3), np.uint8)

    with pytest.raises(DhError, match="cpu has too little memory for 1 image of 96 × 64"):
        runner.detect(collate_pictures([picture], [(60, 80)], 32), ON_CPU)
