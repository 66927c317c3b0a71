from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dhcli.engine.load import choose_device, load_detector, restore_detector
from dhcli.errors import ConfigError, ModelError
from dhcli.weights.model_file import ModelFile, save_model

CPU = torch.device("cpu")


def test_a_model_file_becomes_the_detector_it_was(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    saved = small_model("car", "van")
    save_model(tmp_path / "m.safetensors", saved)

    detector, model = load_detector(tmp_path / "m.safetensors", CPU)

    assert not detector.training
    assert model.classes == ("car", "van")
    state = detector.state_dict()
    assert all(torch.equal(state[name], saved.state[name]) for name in saved.state)


def test_weights_that_do_not_fit_are_listed_with_the_file(
    small_model: Callable[..., ModelFile], tmp_path: Path
) -> None:
    one = small_model("car", "van")
    lying = ModelFile(one.config, ("car",), (1,), one.state)
    save_model(tmp_path / "m.safetensors", lying)

    with pytest.raises(ModelError, match="of another shape") as caught:
        load_detector(tmp_path / "m.safetensors", CPU)

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
