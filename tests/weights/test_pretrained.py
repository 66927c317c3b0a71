from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from dhcli.config.schema import Config, ResNet
from dhcli.errors import ConfigError, ModelError
from dhcli.models.build import build_detector
from dhcli.weights.plain_file import read_plain
from dhcli.weights.pretrained import fetch_imagenet, load_backbone


def detector(norm: str = "frozen_bn") -> Any:
    config = Config.model_validate(
        {"model": {"backbone": {"name": "resnet18", "norm": norm}, "neck": {"channels": 16}}}
    )
    return build_detector(config, 1)


def backbone(weights: Path | str, norm: Any = "frozen_bn", frozen: int = 2) -> ResNet:
    return ResNet(name="resnet18", weights=str(weights), norm=norm, frozen_stages=frozen)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return resnet18().state_dict()


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_a_state_dict_of_torch_is_loaded(
    tmp_path: Path, weights: dict[str, torch.Tensor], prefix: str, wrapped: str | None
) -> None:
    path, one = tmp_path / "w.pth", detector()
    state = {prefix + name: tensor for name, tensor in weights.items()}
    torch.save({wrapped: state, "epoch": 3} if wrapped else state, path)

    said = load_backbone(one.features(), backbone(path))

    assert said == str(path)
    assert torch.equal(one.backbone.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"])
    assert torch.equal(one.backbone.bn1.running_var, weights["bn1.running_var"])


def test_the_backbone_of_a_safetensors_detector_is_loaded(tmp_path: Path, weights: Any) -> None:
    path, one = tmp_path / "w.safetensors", detector()
    state = {f"backbone.{name}": tensor for name, tensor in weights.items() if "fc." not in name}
    save_file(state | {"neck.x": torch.zeros(1)}, path)

    load_backbone(one.features(), backbone(path))

    assert torch.equal(one.backbone.conv1.weight, weights["conv1.weight"])


def test_imagenet_comes_from_the_cache(
    tmp_path: Path, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path, one = tmp_path / "checkpoints/resnet18-f37072fd.pth", detector()
    path.parent.mkdir()
    torch.save(weights, path)

    said = load_backbone(one.features(), backbone("imagenet"))

    assert said == f"ImageNet, {path}"
    assert torch.equal(one.backbone.conv1.weight, weights["conv1.weight"])


def test_without_a_net_the_place_in_the_cache_and_the_way_out_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)

    with pytest.raises(ModelError, match="could not be fetched") as caught:
        fetch_imagenet("resnet50")

    assert str(tmp_path / "checkpoints/resnet50-0676ba61.pth") in str(caught.value)
    assert "no route to host" in str(caught.value)
    assert "model.backbone.weights=none" in str(caught.value.hint)
    assert str(caught.value.hint).startswith("`--preset small`")


def test_no_weights_need_a_norm_that_learns_and_nothing_frozen() -> None:
    assert "random" in load_backbone(detector("gn").features(), backbone("none", "gn", 0))
    with pytest.raises(ConfigError, match="frozen_bn fixes statistics"):
        load_backbone(detector().features(), backbone("none"))
    with pytest.raises(ConfigError, match="2 parts of the backbone would stay fixed"):
        load_backbone(detector("bn").features(), backbone("none", "bn"))


def test_batch_norm_does_not_fit_group_norm(tmp_path: Path, weights: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save(weights, path)

    with pytest.raises(ModelError, match="holds batch norm"):
        load_backbone(detector("gn").features(), backbone(path, "gn"))


def test_weights_of_another_depth_are_an_error(tmp_path: Path, weights: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save({name: x for name, x in weights.items() if "layer4" not in name}, path)

    with pytest.raises(ModelError, match=r"missing: layer4\.0\.conv1\.weight") as caught:
        load_backbone(detector().features(), backbone(path))

    assert "resnet18" in str(caught.value.hint)


class Dangerous:
    """What touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": Dangerous(tmp_path / "was-run")}, path)

    with pytest.raises(ModelError, match="could run code"):
        read_plain(path)

    assert not (tmp_path / "was-run").exists()


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(*_: Any, **__: Any) -> None:
        pytest.fail("torch was asked to unpack it")

    monkeypatch.setattr(torch, "load", unpack)
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    path = tmp_path / "w.pth"
    path.write_bytes(memory.getvalue())

    with pytest.raises(ModelError, match="can be read safely"):
        read_plain(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"<html>", b"PK\x03\x04" + bytes(100)])
def test_garbage_is_an_error(tmp_path: Path, content: bytes) -> None:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)

        with pytest.raises(ModelError, match="can be read safely"):
            read_plain(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_a_checkpoint_without_tensors_is_an_error(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")

    with pytest.raises(ModelError, match="holds"):
        read_plain(tmp_path / "w.pth")
