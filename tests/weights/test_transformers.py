"""transformers' own detectors: their state dicts, outputs, hidden states and losses are ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dhcli.config.schema import Detr
from dhcli.models.queries.detector import QueryDetector
from dhcli.models.queries.set_loss import set_losses
from dhcli.ops.batch import ImageBatch, Target
from dhcli.runtime.eager import restore_detector
from dhcli.weights.exchange import import_weights
from dhcli.weights.model_file import ModelFile
from tests.weights.test_sparse_rcnn import step_data

SIZES = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 12,
    "num_labels": 5,
}


KINDS: dict[str, dict[str, Any]] = {
    "detr": {},
    "deformable": {},
    "refined": {"with_box_refine": True},
    "two-stage": {"with_box_refine": True, "two_stage": True, "two_stage_num_proposals": 12},
}


def library(kind: str, **more: Any) -> nn.Module:
    """transformers' own small detector with random weights, offline, in eval mode."""
    import transformers

    stages = ["stage4"] if kind == "detr" else ["stage2", "stage3", "stage4"]
    backbone = transformers.ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=stages,
    )
    settings = {"use_timm_backbone": False, "backbone_config": backbone, **SIZES}
    settings |= KINDS[kind] | more
    torch.manual_seed(0)
    if kind == "detr":
        network = transformers.DetrForObjectDetection(transformers.DetrConfig(**settings))
    else:
        told = transformers.DeformableDetrConfig(**settings)
        network = transformers.DeformableDetrForObjectDetection(told)
    shared = kind in ("detr", "deformable")
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "backbone" not in name and not (shared and "_embed.1" in name):
                weight += torch.randn_like(weight) * (0.3 if weight.ndim == 1 else 0.1)
    return network.eval()


def imported(network: nn.Module, folder: Path) -> ModelFile:
    torch.save(network.state_dict(), folder / "pytorch_model.bin.pth")
    still = ["model.head.dropout=0", "model.backbone.frozen_stages=0", "model.head.queries=12"]
    return import_weights(folder / "pytorch_model.bin.pth", overrides=still).model


def asked(detector: QueryDetector, images: ImageBatch, dtype: torch.dtype) -> dict[str, Tensor]:
    """What transformers takes: our loader's pixels, and 1 where they are of an image."""
    inside = torch.zeros(images.pixels[:, 0].shape)
    for mask, (height, width) in zip(inside, images.sizes.tolist(), strict=True):
        mask[:height, :width] = 1
    return {"pixel_values": detector.pixels(images).to(dtype), "pixel_mask": inside.long()}


def in_pixels(parts: Tensor, images: ImageBatch) -> Tensor:
    """Boxes of cxcywh (B, N, 4) in 0…1 as xyxy of each image."""
    centre, half = parts[..., :2], parts[..., 2:] / 2
    sides = images.sizes.flip(1).repeat(1, 2)[:, None]
    return torch.cat([centre - half, centre + half], dim=-1) * sides


@pytest.mark.parametrize("kind", KINDS)
def test_its_outputs_and_every_layer_are_the_librarys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    network = library(kind)
    detector = restore_detector(imported(network, tmp_path), torch.device("cpu")).double()
    assert isinstance(detector, QueryDetector)
    images, _ = step_data()
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    network = network.double()

    with torch.no_grad():
        said = detector.head(detector.extract(images), images)
        theirs = network(**asked(detector, images, torch.float64), output_hidden_states=True)

    boxes = in_pixels(theirs.pred_boxes, images)
    logits = theirs.logits.roll(1, -1) if kind == "detr" else theirs.logits
    torch.testing.assert_close(said[-1].logits, logits, rtol=1e-6, atol=1e-6)
    if kind == "two-stage":
        torch.testing.assert_close(said[0].logits, theirs.enc_outputs_class, rtol=1e-6, atol=1e-6)
        cells = in_pixels(theirs.enc_outputs_coord_logits.sigmoid(), images)
        torch.testing.assert_close(said[0].boxes, cells, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(said[-1].boxes, boxes, rtol=1e-6, atol=1e-5)
    if kind == "detr":  # `auxiliary_loss=True` would give others: it changes the network
        first = network.model.decoder.layernorm(theirs.decoder_hidden_states[1])
        own = network.class_labels_classifier(first).roll(1, -1)
        torch.testing.assert_close(said[0].logits, own, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_its_losses_of_the_last_layer_are_the_librarys(tmp_path: Path, kind: str) -> None:
    network = library(kind, **({} if kind == "detr" else {"class_cost": 2}))
    model = imported(network, tmp_path)
    detector = restore_detector(model, torch.device("cpu"))
    assert isinstance(detector, QueryDetector)
    images, targets = step_data()
    targets = [Target(one.boxes.float(), one.labels, one.ignore.float()) for one in targets]
    labels = []
    for target, size in zip(targets, images.sizes, strict=True):
        low, high = (part / size.flip(0) for part in target.boxes.split(2, dim=1))
        boxes = torch.cat([(low + high) / 2, high - low], dim=1)
        labels.append({"class_labels": target.labels, "boxes": boxes})

    with torch.no_grad():
        said = detector.head(detector.extract(images), images)
        ours = set_losses(said[-1:], images.sizes, targets, detector.loss)
        told = network(**asked(detector, images, torch.float32), labels=labels).loss_dict

    weights = {"loss_ce": 1 if kind == "detr" else 2, "loss_bbox": 5, "loss_giou": 2}
    expected = [weight * told[name].item() for name, weight in weights.items()]
    assert [x.item() for x in ours.values()] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["refined", "two-stage"])
def test_a_file_may_have_what_is_the_same_only_once(tmp_path: Path, kind: str) -> None:
    network = library(kind)
    whole = imported(network, tmp_path)
    state = network.state_dict()
    once = {
        name: x
        for name, x in state.items()
        if name in whole.state or f"model.decoder.{name}" not in state
    }
    torch.save(once, tmp_path / "once.pth")

    still = ["model.head.dropout=0", "model.head.queries=12"]
    read = import_weights(tmp_path / "once.pth", overrides=still).model

    assert len(once) < len(state)
    assert all(torch.equal(read.state[name], x) for name, x in whole.state.items())


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_version_4_and_of_timms_backbone_are_read_as_the_same(
    tmp_path: Path, kind: str
) -> None:
    network = library(kind)
    new = imported(network, tmp_path)
    old = {}
    for name, x in network.state_dict().items():
        name = re.sub(r"_attn\.o_proj", "_attn.out_proj", name)
        name = re.sub(r"(layers\.\d)\.mlp\.", r"\1.", name)
        name = re.sub(r"embedder\.embedder\.convolution", "conv1", name)
        name = re.sub(r"embedder\.embedder\.normalization", "bn1", name)
        found = re.search(r"stages\.(\d)\.layers\.(\d)\.(layer\.(\d)|shortcut)\.(\w+)", name)
        if found:
            stage, block, _, number, kind_of = found.groups()
            is_norm = kind_of == "normalization"
            unit = f"{'bn' if is_norm else 'conv'}{int(number) + 1}" if number else ""
            unit = unit or f"downsample.{int(is_norm)}"
            name = (
                f"model.backbone.model.layer{int(stage) + 1}.{block}.{unit}." + name.split(".")[-1]
            )
        old[name.replace("model.backbone.", "model.backbone.conv_encoder.")] = x
    torch.save(old, tmp_path / "old.pth")

    still = ["model.head.dropout=0", "model.head.queries=12"]
    read = import_weights(tmp_path / "old.pth", overrides=still).model

    assert isinstance(read.config.model, Detr)
    assert read.config.model.head == new.config.model.head
    assert all(torch.equal(read.state[name], x) for name, x in new.state.items())
