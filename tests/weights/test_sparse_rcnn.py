"""Sparse R-CNN of MMDetection: its names, there and back, its numbers, a step of its training."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dhcli.config.schema import Queries
from dhcli.models.build import build_detector
from dhcli.models.fast import prepare_for_training
from dhcli.ops.batch import ImageBatch, Target
from dhcli.runtime.eager import restore_detector
from dhcli.weights.class_names import coco_names
from dhcli.weights.exchange import conventions, import_weights
from dhcli.weights.layouts import LAYOUTS
from dhcli.weights.model_file import save_model
from tests.references import sparse_rcnn
from tests.weights.round_trip import assert_written_back
from tests.weights.test_layouts import fill
from tests.weights.test_parity import (
    KEYS,
    LONG,
    SHORT,
    SIZES,
    SMALL,
    assert_same,
    gain,
    photo,
    predict,
)

NARROW = {256: 32, 768: 96, 32768: 2 * 32 * 8, 64: 8, 12544: 32 * 49, 2048: 48, 80: 5, 100: 16}
"""Sizes of the head in the key list → of a head of five classes and 16 proposals."""


def key_list(*, narrow: bool = False, stages: int = 6) -> dict[str, tuple[int, ...]]:
    shapes = {}
    later = tuple(f"roi_head.bbox_head.{stage}." for stage in range(stages, 6))
    for line in (KEYS / "mmdet_sparse_rcnn_r50.txt").read_text().splitlines():
        name, text = line.split()
        shape = () if text == "-" else tuple(map(int, text.split("x")))
        if narrow and "lateral" in name:
            shape = (32, *shape[1:])
        elif narrow and "backbone" not in name:
            shape = tuple(NARROW.get(side, side) for side in shape)
        if not later or not name.startswith(later):
            shapes[name] = shape
    return shapes


def tame_state(stages: int = 6) -> dict[str, Tensor]:
    """Seeded weights by which boxes move a little in each stage: rounding is not blown up."""
    generator = torch.Generator().manual_seed(0)

    def normal(shape: tuple[int, ...], std: float) -> Tensor:
        return torch.randn(shape, generator=generator) * std

    state: dict[str, Tensor] = {}
    for name, shape in key_list(narrow=True, stages=stages).items():
        inputs = max(1, int(np.prod(shape[1:])))
        if name.endswith("tracked"):
            state[name] = torch.tensor(5)
        elif name.endswith("running_var"):
            state[name] = 1e-4 * (0.5 + torch.rand(shape, generator=generator))
        elif "proposal_bboxes" in name:
            state[name] = 0.2 + 0.5 * torch.rand(shape, generator=generator)
        elif "proposal_features" in name:
            state[name] = normal(shape, 1)
        elif len(shape) > 1:
            small = {"fc_reg": 0.03, "out_proj": 0.1, "fc_layer": 0.3}.get(name.split(".")[-2], 1.0)
            state[name] = normal(shape, (1 / inputs) ** 0.5 * small * gain(name))
        else:
            quiet = 1e-3 if name.endswith("running_mean") else 0.1
            state[name] = normal(shape, quiet) + 0.5 * name.endswith("weight")  # of a norm
    return state


def test_names_shapes_and_order_are_the_origins(tmp_path: Path) -> None:
    keys = key_list()
    torch.save({"state_dict": fill(keys)}, tmp_path / "w.pth")

    found = import_weights(tmp_path / "w.pth")  # it compares shapes with those of the detector

    model = found.model.config.model
    assert isinstance(model, Queries)
    assert (model.head.proposals, model.head.stages, model.detect.max_detections) == (100, 6, 100)
    assert [one.theirs for one in LAYOUTS["mmdet"].pairs(found.model.config)] == list(keys)
    assert len(keys) == 576
    assert found.model.classes == coco_names(80)
    assert sum(row.tensors for row in found.rows) == len(keys)
    assert "model.backbone.norm=eval_bn" in conventions(found.model.config)
    assert not [line for line in conventions(found.model.config) if line.endswith("None")]
    with torch.device("meta"):
        network = build_detector(found.model.config, 80)
    assert sum(weight.numel() for weight in network.parameters()) == 106_290_888


def test_there_and_back_byte_for_byte(tmp_path: Path) -> None:
    state = tame_state()
    meta = {"CLASSES": tuple(f"c{i}" for i in range(5))}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "w.pth")

    found, content = assert_written_back(tmp_path / "w.pth", state)

    assert found.model.classes == content["meta"]["CLASSES"] == meta["CLASSES"]


@torch.no_grad()
def test_its_detections_from_image_to_file(tmp_path: Path) -> None:
    photos = {f"{height}.png": photo(height, width) for height, width in SIZES}
    state = tame_state()
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    model = import_weights(tmp_path / "w.pth", overrides=SMALL).model
    save_model(tmp_path / "m.safetensors", model)

    ours = predict(tmp_path, tmp_path / "m.safetensors", photos)

    for name, pixels in photos.items():
        theirs = sparse_rcnn.detect(state, pixels, SHORT, LONG, most=16)
        assert len({label for label, *_ in theirs}) > 1
        assert_same(ours[name], theirs)


def test_a_training_step_plain_and_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tame_state(stages=3)
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    model = import_weights(tmp_path / "w.pth", overrides=["model.backbone.frozen_stages=0"]).model
    images, targets = step_data()
    plain = {
        name: x.double().requires_grad_(not re.search(r"running|tracked", name))
        for name, x in state.items()
    }
    said = []
    for pixels, (height, width) in zip(images.pixels, images.sizes.tolist(), strict=True):
        x = sparse_rcnn.normalise(pixels[None].double())
        x[:, :, height:], x[..., width:] = 0, 0
        said.append(sparse_rcnn.stages(plain, x, (height, width)))
    objects = [(target.boxes, target.labels) for target in targets]
    theirs = sparse_rcnn.losses(said, [tuple(s) for s in images.sizes.tolist()], objects)
    sum(theirs).backward()
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    pairs = [one for one in LAYOUTS["mmdet"].pairs(model.config) if plain[one.theirs].requires_grad]

    for prepare in (lambda _: None, prepare_for_training):
        detector = restore_detector(model, torch.device("cpu")).double().train()
        prepare(detector)
        ours = detector.losses(images, targets)
        sum(ours.values()).backward()

        expected = [x.item() for x in theirs]
        assert [x.item() for x in ours.values()] == pytest.approx(expected, rel=1e-9)
        for one in pairs:
            wanted = plain[one.theirs].grad
            if wanted is None:  # no box is pooled from this level
                assert re.match(r"neck.*\.[123]\.conv", one.theirs)
                wanted = torch.zeros_like(plain[one.theirs])
            difference = (detector.get_parameter(one.ours).grad - wanted).abs().max()
            assert difference <= 1e-9 * wanted.abs().max(), one.theirs


def step_data() -> tuple[ImageBatch, list[Target]]:
    """Two images of unequal size, with two objects and one."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [50, 80]])
    pixels[1, :, 50:] = 0
    pixels[1, :, :, 80:] = 0
    two = torch.tensor([[4.0, 4, 36, 36], [40, 10, 90, 60]]).double()
    none = torch.zeros(0, 4).double()
    first = Target(two, torch.tensor([0, 2]), none)
    return ImageBatch(pixels, sizes, sizes), [first, Target(two[:1] + 5, torch.tensor([4]), none)]
