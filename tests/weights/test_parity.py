"""Imported detectors against plain references, and torchvision's real one, from pixels to boxes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.data.loading.loader import collate_images
from dhcli.data.loading.transforms import resize, resized_size
from dhcli.runtime.eager import restore_detector
from dhcli.weights.exchange import import_weights
from dhcli.weights.model_file import save_model
from tests.references import cascade, maskrcnn_benchmark, mmdet, tsd
from tests.references.network import STRIDES

KEYS = Path(__file__).parent / "keys"
NARROW = {256: 32, 512: 64, 1024: 128, 12544: 32 * 49, 81: 6, 324: 24, 320: 20}
"""Sizes of the neck and the head in the key lists → of a detector of five classes to test with."""
SHORT, LONG = 192, 300
SIZES = [(240, 320), (333, 200), (150, 420)]
"""Height and width: both sides free, portrait, and one whose long side is at its limit."""

Found = Sequence[tuple[int, float, Sequence[float]]]


def narrow_shapes(keys: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a key list, ResNet-50 as it is, the rest `NARROW`."""
    shapes = {}
    for line in (KEYS / f"{keys}.txt").read_text().splitlines():
        name, text = line.removeprefix("module.").split()
        shape = () if text == "-" else tuple(map(int, text.split("x")))
        if "backbone." in name and "fpn" not in name:
            shapes[name] = shape
        elif "lateral" in name or "fpn_inner" in name:
            shapes[name] = (32, *shape[1:])
        else:
            shapes[name] = tuple(NARROW.get(side, side) for side in shape)
    return shapes


def draw_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Seeded weights whose detections are many and plain.

    Variances are so small that batch norm's epsilon is seen.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(shape: tuple[int, ...], std: float) -> Tensor:
        return torch.randn(shape, generator=generator) * std

    state = {}
    for name, shape in shapes.items():
        inputs = max(1, int(np.prod(shape[1:])))
        if name.endswith("tracked"):
            state[name] = torch.tensor(5)
        elif name.endswith("running_var"):
            state[name] = 1e-4 * (0.5 + torch.rand(shape, generator=generator))
        elif len(shape) > 1:
            state[name] = normal(shape, (2 / inputs) ** 0.5 * gain(name))
        else:
            state[name] = normal(
                shape, 1e-3 if name.endswith(("running_mean", "W.0.bias")) else 0.1
            )
            state[name] += 0.5 * name.endswith("weight")  # of a norm
    return state


def gain(name: str) -> float:
    """Of a convolution before a norm 1/100, as its variances are; of predictors what suits them."""
    if re.search(r"rpn.*(rpn_reg|bbox_pred)\.weight", name):
        return 0.15
    if name.endswith(("delta_c.2.weight", "delta_r.2.weight")):  # moves of a tenth of a RoI
        return 0.3
    if re.search(r"(fc_cls|cls_score\w*)\.weight", name):
        return 2.0
    if "stem" in name:  # of the authors' pixels, which have no deviation
        return 0.01 / 60
    if re.search(r"lateral|fpn_inner|theta|phi", name):
        return 0.3
    normed = r"backbone\.(body\.|conv1|layer)|res_block|conv_branch|nonlocal_conv|ffconv|W\.0"
    return 0.01 if re.search(normed, name) else 1.0


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """Blobs of colour and noise."""
    rng = np.random.default_rng(height)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def predict(
    folder: Path, weights: Path, images: dict[str, NDArray[np.uint8]], *options: str
) -> dict[str, Found]:
    """What `dh predict` writes, by image: label, score, x1, y1, x2, y2."""
    (folder / "images").mkdir(exist_ok=True)
    for name, pixels in images.items():
        Image.fromarray(pixels).save(folder / "images" / name)
    command = ["predict", str(folder / "images"), "--weights", str(weights), "--no-draw"]
    result = CliRunner().invoke(app, [*command, "--out", str(folder / "out"), *options])
    assert result.exit_code == 0, result.output
    found: dict[str, list[Any]] = {name: [] for name in images}
    for row in json.loads((folder / "out/predictions.bbox.json").read_text()):
        x, y, w, h = row["bbox"]
        box = [x, y, x + w, y + h]
        found[row["image_id"]].append((row["category_id"] - 1, row["score"], box))
    return dict(found)


def assert_same(ours: Found, theirs: Found, *, pixels: float = 0.05, score: float = 1e-3) -> None:
    """Each detection of one side is on the other, within the tolerances; none twice."""
    assert len(ours) == len(theirs)
    free = list(ours)
    for label, value, box in theirs:
        near = [
            one
            for one in free
            if one[0] == label
            and abs(one[1] - value) <= score
            and np.abs(np.subtract(one[2], box)).max() <= pixels
        ]
        assert near, f"{label} {value:.4f} {np.round(box, 2)} is not there"
        free.remove(near[0])


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def photos() -> dict[str, NDArray[np.uint8]]:
    return {f"{height}.png": photo(height, width) for height, width in SIZES}


SMALL = [f"input.min_size={SHORT}", f"input.max_size={LONG}"]


def test_mmdetections_double_head(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    state = draw_state(narrow_shapes("mmdet_double_head_r50"))
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    model = import_weights(tmp_path / "w.pth", overrides=SMALL).model
    save_model(tmp_path / "m.safetensors", model)

    ours = predict(tmp_path, tmp_path / "m.safetensors", photos)

    for name, pixels in photos.items():
        theirs = mmdet.detect(state, pixels, SHORT, LONG)
        assert len(theirs) > 10
        assert_same(ours[name], theirs)


def test_mmdetections_soft_nms(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    state = draw_state(narrow_shapes("mmdet_double_head_r50"))
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    soft = "model.detect.nms.kind=soft"
    model = import_weights(tmp_path / "w.pth", overrides=[*SMALL, soft]).model
    save_model(tmp_path / "m.safetensors", model)
    save_model(
        tmp_path / "hard.safetensors", import_weights(tmp_path / "w.pth", overrides=SMALL).model
    )

    ours = predict(tmp_path, tmp_path / "m.safetensors", photos)
    options = ("--nms", "soft", "--overwrite")
    asked = predict(tmp_path, tmp_path / "hard.safetensors", photos, *options)
    more = predict(tmp_path, tmp_path / "m.safetensors", photos, "--top-k", "2000", "--overwrite")

    assert asked == ours
    for name, pixels in photos.items():
        theirs = mmdet.detect(state, pixels, SHORT, LONG, soft=True)
        assert len(theirs) > 10
        assert_same(ours[name], theirs)
    assert 1e-3 <= min(score for found in more.values() for _, score, _ in found) < 0.05


def test_mmdetections_cascade(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    state = draw_state(narrow_shapes("mmdet_cascade_r50"))
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    model = import_weights(tmp_path / "w.pth", overrides=SMALL).model
    save_model(tmp_path / "m.safetensors", model)

    ours = predict(tmp_path, tmp_path / "m.safetensors", photos)

    for name, pixels in photos.items():
        theirs = cascade.detect(state, pixels, SHORT, LONG)
        assert len(theirs) > 10
        assert_same(ours[name], theirs)


def test_the_authors_tsd(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    state = draw_state(narrow_shapes("tsd_r50"))
    torch.save({"meta": {"epoch": 14}, "state_dict": state}, tmp_path / "w.pth")
    few = "model.rpn.proposals_test=100"
    model = import_weights(tmp_path / "w.pth", overrides=[*SMALL, few]).model
    save_model(tmp_path / "m.safetensors", model)

    ours = predict(tmp_path, tmp_path / "m.safetensors", photos)

    for name, pixels in photos.items():
        theirs = tsd.detect(state, pixels, SHORT, LONG, most=100)
        assert len(theirs) > 10
        assert_same(ours[name], theirs)


def authors_state() -> dict[str, Tensor]:
    state = draw_state(narrow_shapes("authors_double_head_ext_r50"))
    for level, stride in enumerate(STRIDES):
        state[f"rpn.anchor_generator.cell_anchors.{level}"] = legacy_cell(stride)
    return state


def legacy_cell(stride: int) -> Tensor:
    """Anchors of a cell, their maximum inclusive: rounded at the stride's size, then 8 times it."""
    cell = []
    for ratio in (0.5, 1.0, 2.0):
        width = round(math.sqrt(stride**2 / ratio))
        half_w, half_h = (8 * width - 1) / 2, (8 * round(width * ratio) - 1) / 2
        centre = (stride - 1) / 2
        cell.append([centre - half_w, centre - half_h, centre + half_w, centre + half_h])
    return torch.tensor(cell)


def test_the_authors_double_head_ext(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    state = authors_state()
    torch.save({"model": {f"module.{k}": x for k, x in state.items()}}, tmp_path / "w.pth")
    file = tmp_path / "m.safetensors"
    save_model(file, import_weights(tmp_path / "w.pth", overrides=SMALL).model)
    modes = [("conv", "conv"), ("fc", "fc"), ("fc", "conv"), ("complementary", "conv")]

    ours = [
        predict(tmp_path, file, photos, "--scores", scores, "--boxes", boxes, "--overwrite")
        for scores, boxes in modes
    ]

    for name, pixels in photos.items():
        theirs = maskrcnn_benchmark.detect(state, pixels, SHORT, LONG)
        for found, expected in zip(ours, theirs, strict=True):
            assert len(expected) > 10
            assert_same(found[name], expected)


def seeded_torchvision(min_size: int, max_size: int) -> torch.nn.Module:
    """torchvision's detector with seeded weights and calibrated batch norms: many detections.

    The pyramid is scaled to what trained ones hold: float32's noise grows with its values.
    """
    torch.manual_seed(0)
    network = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=6, min_size=min_size, max_size=max_size
    )
    for norm in network.backbone.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None  # the average of what it sees
    network.backbone.train()(torch.randn(2, 3, 96, 128))
    for lateral in network.backbone.fpn.inner_blocks:
        lateral[0].weight *= 0.01
    torch.nn.init.normal_(network.rpn.head.cls_logits.weight, std=0.3)
    torch.nn.init.normal_(network.rpn.head.bbox_pred.weight, std=0.03)
    torch.nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.3)
    torch.nn.init.normal_(network.roi_heads.box_predictor.bbox_pred.weight, std=0.05)
    return network.eval()


def check_torchvision(folder: Path, photos: dict[str, NDArray[np.uint8]], *sizes: int) -> None:
    network = seeded_torchvision(*sizes)
    torch.save(network.state_dict(), folder / "w.pth")
    overrides = [f"input.min_size={sizes[0]}", f"input.max_size={sizes[1]}"]
    model = import_weights(folder / "w.pth", overrides=overrides).model
    detector = restore_detector(model, torch.device("cpu"))
    for pixels in photos.values():
        theirs = network([torch.from_numpy(pixels).permute(2, 0, 1) / 255])[0]
        height, width = pixels.shape[:2]
        size = resized_size(width, height, model.config.input)
        resized = resize(pixels, size, model.config.input.interpolation)

        [[ours]] = detector.detect(collate_images([resized], [(height, width)], 32))

        assert len(ours) > 10
        expected = zip(theirs["labels"] - 1, theirs["scores"], theirs["boxes"], strict=True)
        found = zip(ours.labels, ours.scores, ours.boxes, strict=True)
        rows = [
            [(int(label), float(score), box.tolist()) for label, score, box in side]
            for side in (found, expected)
        ]
        assert_same(*rows, pixels=1e-3, score=1e-4)


def test_torchvisions_own_detector(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    check_torchvision(tmp_path, photos, SHORT, LONG)


@pytest.mark.slow
def test_torchvisions_own_detector_at_its_own_size(tmp_path: Path) -> None:
    check_torchvision(tmp_path, {"a": photo(427, 640)}, 800, 1333)
