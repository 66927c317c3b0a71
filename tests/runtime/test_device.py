from __future__ import annotations

import pytest
import torch

from dhcli.errors import ConfigError
from dhcli.runtime.device import choose_device

CPU = torch.device("cpu")


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
