"""MMDetection's detectors of one stage: their names, there and back, their numbers, a step."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dhcli.config.schema import Dense
from dhcli.errors import ModelError
from dhcli.models.build import build_detector
from dhcli.models.fast import prepare_for_training
from dhcli.ops.batch import ImageBatch, Target
from dhcli.runtime.eager import restore_detector
from dhcli.weights.class_names import coco_names
from dhcli.weights.exchange import conventions, import_weights
from dhcli.weights.layouts import LAYOUTS
from dhcli.weights.model_file import save_model
from tests.references import dense
from tests.weights.round_trip import assert_written_back
from tests.weights.test_layouts import fill
from tests.weights.test_parity import (
    KEYS,
    LONG,
    SHORT,
    SIZES,
    SMALL,
    assert_same,
    photo,
    predict,
)

NARROW = {256: 32, 512: 48, 128: 16, 80: 5, 400: 25, 720: 45}
"""Sizes of neck and head in the key lists → of a detector of five classes."""
FACTS = {
    "retinanet": ("RetinaNet", 354, 37_970_000),
    "fcos": ("FCOS", 369, 32_300_000),
    "atss": ("ATSS", 369, 32_300_000),
    "paa": ("PAA", 369, 32_300_000),
    "vfnet": ("VarifocalNet", 373, 32_890_000),
    "yolof": ("YOLOF", 446, 44_160_000),
}
"""What it is called, tensors, and parameters to the nearest 10,000."""


def key_list(kind: str, *, narrow: bool = False) -> dict[str, tuple[int, ...]]:
    shapes = {}
    name_of_list = "atss" if kind in ("paa", "retinanet", "fcos") else kind
    for line in (KEYS / f"mmdet_{name_of_list}_r50.txt").read_text().splitlines():
        name, text = line.split()
        shape = () if text == "-" else tuple(map(int, text.split("x")))
        if kind == "fcos":
            name = name.replace(".atss_", ".conv_")
        if kind == "retinanet" and re.search(r"gn\.weight|centerness|scales", name):
            continue
        if kind == "retinanet":
            name = name.replace(".atss_", ".retina_").replace(".gn.bias", ".conv.bias")
            if ".retina_" in name:
                shape = (9 * shape[0], *shape[1:])
            shape = (256, 2048, 3, 3) if name == "neck.fpn_convs.3.conv.weight" else shape
        if narrow and "lateral_conv" in name and len(shape) > 1:
            shape = (NARROW[shape[0]], *shape[1:])
        elif narrow and "backbone" not in name:
            shape = tuple(NARROW.get(side, side) for side in shape)
        shapes[name] = shape
    return shapes


PREDICTS = {"cls": 2.0, "score": 2.0, "reg": 0.4, "pred": 0.4, "refine": 0.2, "centerness": 2.0}
"""By the last word of a predictor: how widely what it says is spread."""


STARTS = {"cls.bias": -2.0, "score.bias": -2.0, "conv_reg.bias": 3.0}
"""Added to the bias of scores, and of FCOS' boxes: e³ pixels."""


def tame_state(kind: str) -> dict[str, Tensor]:
    """Seeded weights by which there are many detections of plain sizes."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, shape in key_list(kind, narrow=True).items():
        inputs = max(1, int(np.prod(shape[1:])))
        draws = torch.randn(shape, generator=generator)
        if name.endswith("tracked"):
            state[name] = torch.tensor(5)
        elif name.endswith("running_var"):
            state[name] = 1e-4 * (0.5 + torch.rand(shape, generator=generator))
        elif name.endswith(".scale"):
            state[name] = 1 + 0.1 * draws
        elif len(shape) > 1:
            normed = re.search(r"backbone|\.conv\.weight|_conv\.weight", name)
            end = name.split(".")[-2].split("_")[-1]
            wide = 0.01 if normed and "_convs" not in name else PREDICTS.get(end, 1.0)
            colour = 1 / 58 if kind in dense.CAFFE and name == "backbone.conv1.weight" else 1.0
            state[name] = draws * (2 / inputs) ** 0.5 * wide * colour
        else:
            quiet = 1e-3 if name.endswith(("running_mean", "_conv.bias")) else 0.1
            state[name] = draws * quiet + 0.5 * name.endswith("weight")  # of a norm
    for name in state:
        state[name] += sum(value for end, value in STARTS.items() if name.endswith(end))
    return state


def save(kind: str, state: dict[str, Tensor], folder: Path) -> Path:
    path = folder / f"{kind}_r50.pth"
    torch.save({"state_dict": state}, path)
    return path


@pytest.mark.parametrize("kind", FACTS)
def test_names_shapes_and_order_are_the_origins(kind: str, tmp_path: Path) -> None:
    keys, (title, tensors, parameters) = key_list(kind), FACTS[kind]

    found = import_weights(save(kind, fill(keys), tmp_path))  # it compares shapes

    assert title in found.title
    assert [one.theirs for one in LAYOUTS["mmdet"].pairs(found.model.config)] == list(keys)
    assert len(keys) == tensors == sum(row.tensors for row in found.rows)
    assert found.model.classes == coco_names(80)
    assert not [line for line in conventions(found.model.config) if line.endswith("None")]
    with torch.device("meta"):
        network = build_detector(found.model.config, 80)
    counted = sum(x.numel() for name, x in network.state_dict().items() if "running" not in name)
    counted -= sum(x.numel() for name, x in network.state_dict().items() if "tracked" in name)
    assert round(counted, -4) == parameters


@pytest.mark.parametrize("kind", FACTS)
def test_there_and_back_byte_for_byte(kind: str, tmp_path: Path) -> None:
    state = tame_state(kind)

    found, _ = assert_written_back(save(kind, state, tmp_path), state)

    assert import_weights(tmp_path / "back.pth").title == found.title


@pytest.mark.parametrize("told", ["configuration", "biases"])
def test_a_later_fcos_is_refused(told: str, tmp_path: Path) -> None:
    state, meta = tame_state("fcos"), {"config": "bbox_head=dict(norm_on_bbox=True)"}
    if told == "biases":
        state["bbox_head.cls_convs.0.conv.bias"] = torch.zeros(16)
    torch.save(
        {"meta": meta if told == "configuration" else {}, "state_dict": state}, tmp_path / "x.pth"
    )

    with pytest.raises(ModelError, match=r"x\.pth: FCOS with `norm_on_bbox`"):
        import_weights(tmp_path / "x.pth")


def test_atss_and_paa_are_told_apart_by_configuration_then_by_name(tmp_path: Path) -> None:
    state = tame_state("atss")

    def title(name: str, **meta: str) -> str:
        torch.save({"meta": meta, "state_dict": state}, tmp_path / name)
        return import_weights(tmp_path / name).title

    assert "PAA" in title("atss.pth", config="bbox_head=dict(type='PAAHead',")
    assert "ATSS" in title("paa.pth", cfg="bbox_head=dict(type='ATSSHead',")
    assert "PAA" in title("paa_r50_fpn_1x_coco_20200821-936edec3.pth")
    with pytest.raises(ModelError, match="ATSS and PAA have the same tensors") as caught:
        title("epoch_12.pth")
    assert "name the file after its detector" in str(caught.value.hint)


@torch.no_grad()
@pytest.mark.parametrize("kind", FACTS)
def test_its_detections_from_image_to_file(kind: str, tmp_path: Path) -> None:
    photos = {f"{height}.png": photo(height, width) for height, width in SIZES}
    state = tame_state(kind)
    model = import_weights(save(kind, state, tmp_path), overrides=SMALL).model
    save_model(tmp_path / "m.safetensors", model)

    ours = predict(tmp_path, tmp_path / "m.safetensors", photos)

    for name, pixels in photos.items():
        theirs = dense.detect(kind, state, pixels, SHORT, LONG)
        assert len(theirs) > 10
        assert len({label for label, *_ in theirs}) > 1
        assert_same(ours[name], theirs)


@pytest.mark.parametrize("kind", FACTS)
def test_a_training_step_plain_and_fast(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tame_state(kind)
    whole = ["model.backbone.frozen_stages=0", "model.backbone.norm=eval_bn"]
    model = import_weights(save(kind, state, tmp_path), overrides=whole).model
    assert isinstance(model.config.model, Dense)
    images, targets = step_data()
    plain = {
        name: x.double().requires_grad_(not re.search(r"running|tracked", name))
        for name, x in state.items()
    }
    said = []
    for pixels, (height, width) in zip(images.pixels, images.sizes.tolist(), strict=True):
        x = dense.normalise(kind, pixels[None].double())
        x[:, :, height:], x[..., width:] = 0, 0
        said.append(dense.run(kind, plain, x))
    objects = [(target.boxes, target.labels) for target in targets]
    theirs = dense.losses(kind, said, objects, images.sizes.tolist())
    sum(theirs.values()).backward()
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    pairs = [one for one in LAYOUTS["mmdet"].pairs(model.config) if plain[one.theirs].requires_grad]

    for prepare in (lambda _: None, prepare_for_training):
        detector = restore_detector(model, torch.device("cpu")).double().eval()
        prepare(detector)
        detector.requires_grad_(True)
        ours = detector.losses(images, targets)
        sum(ours.values()).backward()

        assert ours.keys() == theirs.keys()
        for name, loss in theirs.items():
            assert ours[name].item() == pytest.approx(loss.item(), rel=1e-9), name
        for one in pairs:
            wanted, got = plain[one.theirs].grad, detector.get_parameter(one.ours).grad
            assert got is not None
            assert wanted is not None
            assert (got - wanted).abs().max() <= 1e-8 * wanted.abs().max() + 1e-20, one.theirs


def step_data() -> tuple[ImageBatch, list[Target]]:
    """Two images of unequal size, with two objects and one."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [30, 60]])  # cells of every level but the last begin beyond
    pixels[1, :, 30:] = 0
    pixels[1, :, :, 60:] = 0
    # No two cells are as near to one of them
    two = torch.tensor([[4.3, 5.1, 35.2, 37.4], [41.7, 9.2, 89.5, 60.9]]).double()
    none = torch.zeros(0, 4).double()
    first = Target(two, torch.tensor([0, 2]), none)
    other = torch.tensor([[9.3, 4.1, 50.2, 27.4]]).double()
    return ImageBatch(pixels, sizes, sizes), [first, Target(other, torch.tensor([4]), none)]
