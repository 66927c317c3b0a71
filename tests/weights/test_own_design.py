"""The tutorial's own detector as MMDetection writes it: YOLOF on PVT-tiny, one level."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dhcli.config.load import load_config
from dhcli.config.presets import preset_names
from dhcli.config.schema import Dense, Pvt
from dhcli.models.build import build_detector
from dhcli.ops.batch import ImageBatch, Target
from dhcli.weights.exchange import export_weights, import_weights
from dhcli.weights.layouts import LAYOUTS
from dhcli.weights.model_file import save_model
from tests.models.keys import names_and_shapes
from tests.weights.test_layouts import fill

LIST = "mmdet_yolof_pvt_tiny_3classes"


def test_the_preset_has_the_tensors_of_mmdetections_file() -> None:
    config = load_config("design-yolof-pvt").config
    with torch.device("meta"):
        detector = build_detector(config, classes=3)

    pairs = list(LAYOUTS["mmdet"].pairs(config))
    shapes = {name: tuple(x.shape) for name, x in detector.state_dict().items()}
    assert [(one.theirs, shapes[one.ours]) for one in pairs] == names_and_shapes(LIST)
    assert {one.ours for one in pairs} == set(shapes)
    assert len(shapes) == 186
    assert round(sum(p.numel() for p in detector.parameters()), -4) == 13_860_000


def test_its_file_is_read_and_written_back(tmp_path: Path) -> None:
    state = fill(dict(names_and_shapes(LIST)))
    path = tmp_path / "epoch_12.pth"
    torch.save({"state_dict": state}, path)

    found = import_weights(path)

    model = found.model.config.model
    assert isinstance(model, Dense)
    assert isinstance(model.backbone, Pvt)
    assert found.title == "MMDetection's YOLOF, PVT-tiny-FPN"
    assert len(found.model.classes) == 3
    pixels = found.model.config.input  # "the tutorial leaves it": YOLOF's
    assert (pixels.channels, pixels.std) == ("bgr", (1, 1, 1))
    save_model(tmp_path / "m.safetensors", found.model)
    assert export_weights(tmp_path / "m.safetensors", tmp_path / "back.pth", "mmdet") == []
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert list(back) == list(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_the_second_preset_changes_the_backbone_alone() -> None:
    assert {"design-yolof-pvt", "design-yolof-pvt-v2"} <= set(preset_names())
    first, second = (load_config(f"design-yolof-pvt{end}").config for end in ("", "-v2"))

    changed = first.model.model_copy(update={"backbone": second.model.backbone})
    assert second.model == changed
    assert second.model.backbone.name == "pvt_v2_b0"


def test_published_weights_are_those_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dhcli.errors import ModelError
    from dhcli.models.backbones.pvt import PvtFeatures
    from dhcli.weights.pretrained import load_backbone
    from tests.models.backbones.test_pvt import NARROW, published

    asked: list[str] = []

    def offline(url: str, path: str, checksum: str | None, **_: object) -> None:
        asked.append(url)
        assert checksum is None
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    ours, theirs = PvtFeatures("pvt_tiny", **NARROW), PvtFeatures("pvt_tiny", **NARROW)

    with pytest.raises(ModelError, match=r"pvt_tiny\.pth and could not be fetched") as caught:
        load_backbone(ours, Pvt(kind="pvt"))
    torch.save(published(theirs), tmp_path / "checkpoints/pvt_tiny.pth")
    said = load_backbone(ours, Pvt(kind="pvt"))

    assert asked[0].endswith("/pvt_tiny.pth")
    assert "copy pvt_tiny.pth there" in str(caught.value.hint)
    assert said.startswith("ImageNet, ")
    assert torch.equal(
        ours.state_dict()["layers.3.1.0.pos_embed"], theirs.state_dict()["layers.3.1.0.pos_embed"]
    )


def test_it_learns_and_detects() -> None:
    config = load_config("design-yolof-pvt", overrides=["model.backbone.weights=none"]).config
    torch.manual_seed(0)
    detector = build_detector(config, classes=3)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    size = torch.tensor([[64, 96], [50, 80]])
    batch, none = ImageBatch(pixels, size, size * 2), torch.zeros(0, 4)
    boxes, labels = torch.tensor([[4.0, 4.0, 60.0, 60.0]]), torch.tensor([2])
    targets = [Target(boxes, labels, none), Target(none, labels[:0], none)]

    losses = detector.losses(batch, targets)
    sum(losses.values()).backward()  # type: ignore[union-attr]

    assert all(loss.isfinite() for loss in losses.values())
    learning = [p for p in detector.parameters() if p.requires_grad]
    assert len(learning) == len(list(detector.parameters()))
    assert all(p.grad is not None for p in learning)
    with torch.no_grad():
        assert len(detector.eval().detect(batch)[0]) == 2
