from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dhcli.errors import ConfigError, ModelError
from dhcli.ops.batch import ImageBatch
from dhcli.runtime.eager import Runtime, choose_device, load_detector, restore_detector
from dhcli.weights.model_file import ModelFile, save_model

CPU = torch.device("cpu")


def test_a_model_file_becomes_the_detector_it_was(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    saved = small_model("car", "van")
    save_model(tmp_path / "m.safetensors", saved)

    detector, model = load_detector(tmp_path / "m.safetensors", Runtime("cpu"))

    assert not detector.training
    assert model.classes == ("car", "van")
    state = detector.head.state_dict()  # the rest is folded, and convolves another way
    assert all(torch.equal(state[name], saved.state[f"head.{name}"]) for name in state)


def test_weights_that_do_not_fit_are_listed_with_the_file(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    one = small_model("car", "van")
    lying = ModelFile(one.config, ("car",), (1,), one.state)
    save_model(tmp_path / "m.safetensors", lying)

    with pytest.raises(ModelError, match="of another shape") as caught:
        load_detector(tmp_path / "m.safetensors", Runtime("cpu"))

    assert "head.branches.fc.cls.weight 3×24 instead of 2×24" in str(caught.value)
    assert str(tmp_path / "m.safetensors") in str(caught.value)


def test_a_description_of_a_giant_takes_no_memory(small_model: Callable[..., ModelFile]) -> None:
    one = small_model("car")
    giant = one.config.model.neck.model_copy(update={"channels": 2**20})
    model = one.config.model.model_copy(update={"neck": giant})
    config = one.config.model_copy(update={"model": model})  # its 3×3 alone would take 37 TB

    with pytest.raises(ModelError, match="does not fit"):
        restore_detector(ModelFile(config, one.classes, one.category_ids, one.state), CPU)


def test_auto_is_the_cpu_where_there_is_nothing_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    assert choose_device("auto") == CPU


@pytest.mark.parametrize(("name", "chosen"), [("auto", "cuda"), ("cuda:1", "cuda:1")])
def test_a_gpu_is_chosen(name: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert choose_device(name) == torch.device(chosen)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu", "unknown device `gpu`"),
        ("cuda", "there is no `cuda` here"),
        ("cpu:3", "there is no `cpu:3` here"),
        ("meta", "there is no `meta` here"),
    ],
)
def test_a_device_that_is_not_there_is_an_error(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ConfigError, match=said):
        choose_device(name)


@torch.inference_mode()
def test_a_prepared_detector_finds_the_same_and_bf16_nearly(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    model = small_model("car", "van", scores="fc")
    images = ImageBatch(torch.randint(256, (1, 3, 64, 96)).byte(), *[torch.tensor([[64, 96]])] * 2)
    plain = restore_detector(model, CPU)
    plain.config = plain.config.model_copy(update={"score_threshold": 0.0, "max_detections": 20})
    [expected] = plain.detect(images)

    for precision, tolerance in (("fp32", 1e-4), ("bf16", 0.05)):
        detector = Runtime("cpu", precision).prepare(restore_detector(model, CPU))
        detector.config = plain.config
        [found] = detector.detect(images)
        assert detector.backbone.conv1.weight.dtype == {"fp32": torch.float32}.get(
            precision, torch.bfloat16
        )
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert torch.allclose(found.scores, expected.scores, atol=tolerance)


def test_fp16_is_refused_on_a_cpu(small_model: Callable[..., ModelFile]) -> None:
    with pytest.raises(ConfigError, match="fp16 is for GPUs"):
        Runtime("cpu", "fp16").prepare(restore_detector(small_model("car"), CPU))


def test_a_gate_needs_two_scores(small_model: Callable[..., ModelFile]) -> None:
    both = Runtime("cpu", gate=0.1).prepare(restore_detector(small_model("car"), CPU))
    assert both.config.gate == 0.1
    one = small_model("car", branches=[{"kind": "fc", "width": 8, "lambda": 0.5}])
    with pytest.raises(ConfigError, match="only one branch"):
        Runtime("cpu", gate=0.1).prepare(restore_detector(one, CPU))
