"""YOLOX: MMDetection's and Megvii's names there and back, its numbers, a step, its class rows."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dhcli.config.load import load_config
from dhcli.models.build import build_detector
from dhcli.models.fast import prepare_for_training
from dhcli.ops.batch import ImageBatch, Target
from dhcli.ops.boxes import paired_iou
from dhcli.runtime.eager import restore_detector
from dhcli.weights.class_names import coco_names
from dhcli.weights.exchange import Imported, conventions, import_weights
from dhcli.weights.layouts import LAYOUTS
from dhcli.weights.layouts.megvii import rename
from dhcli.weights.model_file import save_model
from dhcli.weights.transfer import transfer
from tests.models.keys import KEYS, names_and_shapes
from tests.references import yolox
from tests.weights.round_trip import assert_written_back
from tests.weights.test_layouts import fill
from tests.weights.test_parity import SIZES, assert_same, photo, predict

SIDE = 96
SMALL = [f"input.min_size={SIDE}", f"input.max_size={SIDE}"]
NARROW = {12: 12, 80: 5, **{1 << n: 1 << (n - 2) for n in range(5, 11)}}
"""Sizes in the key list → of a detector a quarter as wide, of five classes."""


def shapes(*, narrow: bool = False) -> dict[str, tuple[int, ...]]:
    listed = dict(names_and_shapes("mmdet_yolox_s"))
    if not narrow:
        return listed
    return {k: tuple(NARROW.get(side, side) for side in shape) for k, shape in listed.items()}


SPREAD = {"cls": 1.5, "obj": 1.5, "reg": 0.4}
"""Deviation of what is predicted."""


@cache
def tame_state() -> dict[str, Tensor]:
    """Seeded weights by which there are many detections of plain sizes."""
    state = drawn_state()
    with torch.no_grad():
        said = yolox.run(state, yolox.letterbox(photo(*SIZES[0]), SIDE)[0])
    found = {"cls": said.logits, "obj": said.objectness, "reg": said.deltas}
    for level, stride in enumerate(yolox.STRIDES):
        for end, rows in found.items():
            spread = rows[said.strides == stride].std()
            state[f"bbox_head.multi_level_conv_{end}.{level}.weight"] *= SPREAD[end] / spread
        state[f"bbox_head.multi_level_conv_cls.{level}.bias"] -= 2.0
    return state


def drawn_state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, shape in shapes(narrow=True).items():
        draws = torch.randn(shape, generator=generator)
        if name.endswith("tracked"):
            state[name] = torch.tensor(5)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        elif len(shape) > 1:
            inputs = shape[1] * shape[2] * shape[3]
            state[name] = draws * (2 / inputs) ** 0.5 / (128 if "stem" in name else 1)
        else:
            state[name] = 0.1 * draws + name.endswith("bn.weight")
    return state


def save(state: dict[str, Tensor], folder: Path, name: str = "yolox.pth") -> Path:
    torch.save({"state_dict": state}, folder / name)
    return folder / name


def imported(folder: Path, overrides: list[str] | None = None) -> Imported:
    return import_weights(save(tame_state(), folder), overrides=overrides or [])


def test_names_shapes_and_order_are_the_origins(tmp_path: Path) -> None:
    found = import_weights(save(fill(shapes()), tmp_path))  # it compares shapes

    assert found.title == "MMDetection's YOLOX-s"
    pairs = list(LAYOUTS["mmdet"].pairs(found.model.config))
    assert [one.theirs for one in pairs] == list(shapes())
    assert len(pairs) == 462
    assert found.model.classes == coco_names(80)
    ours = load_config("coco-yolox-s").config
    assert found.model.config.model == ours.model
    assert found.model.config.input == ours.input
    assert "input.letterbox=114" in conventions(found.model.config)


@pytest.mark.parametrize(
    ("sets", "parameters"),
    [
        ([], 8.97),
        (["model.backbone.width=0.375", "model.neck.channels=96", "model.head.width=96"], 5.06),
        (
            ["model.backbone={depth: 0.67, width: 0.75}", "model.neck={channels: 192, blocks: 2}",
             "model.head.width=192"],
            25.33,
        ),
        (
            ["model.backbone={depth: 1, width: 1}", "model.neck={channels: 256, blocks: 3}",
             "model.head.width=256"],
            54.21,
        ),
        (
            ["model.backbone={depth: 1.33, width: 1.25}", "model.neck={channels: 320, blocks: 4}",
             "model.head.width=320"],
            99.07,
        ),
        (
            ["model.backbone={depthwise: true, width: 0.25}", "model.head.depthwise=true",
             "model.neck={channels: 64, depthwise: true}", "model.head.width=64"],
            0.91,
        ),
    ],
    ids=["s", "tiny", "m", "l", "x", "nano"],
)  # fmt: skip
def test_every_size_has_the_published_parameters(sets: list[str], parameters: float) -> None:
    config = load_config("coco-yolox-s", overrides=sets).config

    with torch.device("meta"):
        network = build_detector(config, 80)

    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == parameters


@pytest.mark.parametrize("layout", ["mmdet", "megvii"])
def test_there_and_back_byte_for_byte(layout: str, tmp_path: Path) -> None:
    state = tame_state()
    if layout == "megvii":
        state = {rename(name): tensor for name, tensor in state.items()}
    holder = "state_dict" if layout == "mmdet" else "model"

    assert_written_back(save(state, tmp_path), state, layout, holder)  # type: ignore[arg-type]


def test_megviis_names_are_those_of_its_program() -> None:
    listed = (line.split() for line in (KEYS / "yolox_megvii.txt").read_text().splitlines())

    assert [(ours, rename(ours)) for ours in shapes()] == [tuple(both) for both in listed]


def test_the_other_side_of_a_moving_average_is_left(tmp_path: Path) -> None:
    state = tame_state()
    twice = {f"ema_{name.replace('.', '_')}": torch.zeros_like(x) for name, x in state.items()}
    torch.save({"state_dict": {**state, **twice}}, tmp_path / "v2.pth")
    apart = {f"module.{name}": torch.zeros_like(x) for name, x in state.items()}
    apart["steps"] = torch.tensor(9)
    torch.save({"ema_state_dict": apart, "state_dict": state}, tmp_path / "v3.pth")

    found = [import_weights(tmp_path / name) for name in ("v2.pth", "v3.pth")]

    for one in found:
        name = "backbone.stem.conv.conv.weight"
        assert torch.equal(one.model.state[name], state[name])
    assert [row.tensors for row in found[0].rows if row.part == "left"] == [462]


@pytest.mark.parametrize(
    ("text", "side", "thresholds"),
    [
        ("", 416, (0.01, 0.65)),
        ("dict(type='MultiScaleFlipAug', img_scale=(512, 512), flip=False)", 512, (0.01, 0.65)),
        ("train = dict(scale=(640, 640))\ntest_pipeline = [dict(type='LoadImageFromFile'),\n"
         " dict(type='Resize', scale=(608, 608), keep_ratio=True)]\n"
         "test_cfg=dict(score_thr=0.001, nms=dict(type='nms', iou_threshold=0.5))",
         608, (0.001, 0.5)),
    ],
)  # fmt: skip
def test_size_and_thresholds_are_those_of_the_configuration_in_the_file(
    text: str, side: int, thresholds: tuple[float, float], tmp_path: Path
) -> None:
    torch.save({"meta": {"config": text}, "state_dict": tame_state()}, tmp_path / "x.pth")

    config = import_weights(tmp_path / "x.pth").model.config

    assert (config.input.min_size, config.input.max_size) == (side, side)
    rule = config.model.detect
    assert (rule.score_threshold, rule.nms_threshold) == thresholds  # type: ignore[union-attr]


@torch.no_grad()
def test_its_detections_from_image_to_file(tmp_path: Path) -> None:
    photos = {f"{height}.png": photo(height, width) for height, width in SIZES}
    save_model(tmp_path / "m.safetensors", imported(tmp_path, SMALL).model)

    ours = predict(tmp_path, tmp_path / "m.safetensors", photos, "--score-threshold", "0.01")

    for name, pixels in photos.items():
        theirs = yolox.detect(tame_state(), pixels, SIDE)
        assert len(theirs) > 10
        assert len({label for label, *_ in theirs}) > 1
        assert min(box[0] for _, _, box in theirs) < 0  # not clipped
        assert_same(ours[name], theirs)


@pytest.mark.parametrize("late", [False, True])
def test_a_training_step_plain_and_fast(
    late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = imported(tmp_path).model
    images, targets = step_data()
    plain = {
        name: x.double().requires_grad_(not re.search(r"running|tracked", name))
        for name, x in tame_state().items()
    }
    said = [yolox.run(plain, pixels[None].flip(1).double()) for pixels in images.pixels]
    theirs = yolox.losses(said, [(t.boxes, t.labels) for t in targets], late=late)
    sum(theirs.values()).backward()
    monkeypatch.setattr(Tensor, "float", Tensor.double)

    for prepare in (lambda _: None, prepare_for_training):
        detector = restore_detector(model, torch.device("cpu")).double().eval()
        prepare(detector)
        detector.requires_grad_(True)
        if late:
            detector.settle()
        ours = detector.losses(images, targets)
        sum(ours.values()).backward()

        assert ours.keys() == theirs.keys()
        assert (ours["loss_l1"] > 0) == late
        for name, loss in theirs.items():
            assert ours[name].item() == pytest.approx(loss.item(), rel=1e-9), name
        for one in LAYOUTS["mmdet"].pairs(model.config):
            if not plain[one.theirs].requires_grad:
                continue
            wanted, got = plain[one.theirs].grad, detector.get_parameter(one.ours).grad
            assert got is not None
            assert wanted is not None
            assert (got - wanted).abs().max() <= 1e-8 * wanted.abs().max(), one.theirs


def step_data() -> tuple[ImageBatch, list[Target]]:
    """Two squares, the second with grey below its image; with two objects and one."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[64, 64], [50, 64]])
    pixels[1, :, 50:] = 114
    two = torch.tensor([[4.0, 4, 36, 36], [20, 10, 60, 60]]).double()
    none = torch.zeros(0, 4).double()
    first = Target(two, torch.tensor([0, 2]), none)
    return ImageBatch(pixels, sizes, sizes), [first, Target(two[:1] + 5, torch.tensor([4]), none)]


def test_without_objects_only_objectness_is_taught(tmp_path: Path) -> None:
    images, targets = step_data()
    none = Target(targets[0].boxes[:0].float(), targets[0].labels[:0], targets[0].ignore.float())
    detector = restore_detector(imported(tmp_path).model, torch.device("cpu"))
    detector.settle()

    losses = detector.losses(images, [none, none])
    sum(losses.values()).backward()

    assert losses["loss_quality"] > 0
    assert losses["loss_cls"] == losses["loss_box"] == losses["loss_l1"] == 0
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)


def test_class_rows_of_all_three_levels_are_carried_over_by_name(tmp_path: Path) -> None:
    source = imported(tmp_path).model
    names = ("car", source.classes[3])
    detector = build_detector(source.config, 2)

    started, told = transfer(source, detector, names, {})

    assert [row.how for row in told.rows] == ["new", "exact"]
    for level in range(3):
        place = f"head.towers.{level}"
        old, new = source.state[f"{place}.cls.weight"], started[f"{place}.cls.weight"]
        assert torch.equal(new[1], old[3])
        assert torch.equal(new[0], detector.state_dict()[f"{place}.cls.weight"][0])
        assert torch.equal(started[f"{place}.quality.bias"], source.state[f"{place}.quality.bias"])
    assert not told.fresh


def test_it_overfits_two_images() -> None:
    torch.manual_seed(0)
    sets = ["model.backbone={width: 0.125, depth: 0.1}", "model.neck.channels=16"]
    sets += ["model.head.width=16"]
    sets += [f"model.{part}.bn_momentum=1" for part in ("backbone", "neck", "head")]
    detector = build_detector(load_config("coco-yolox-s", overrides=sets).config, 2)
    pixels = torch.full((2, 3, 64, 64), 114, dtype=torch.uint8)
    pixels[0, 0, 8:40, 8:40], pixels[1, 2, 16:48, 24:56] = 255, 255
    sizes = torch.full((2, 2), 64)
    images, none = ImageBatch(pixels, sizes, sizes), torch.zeros(0, 4)
    wanted = torch.tensor([[8.0, 8, 40, 40], [24, 16, 56, 48]])
    targets = [Target(wanted[i : i + 1], torch.tensor([i]), none) for i in (0, 1)]
    optimizer = torch.optim.Adam(detector.parameters(), 3e-3)
    for step in range(80):
        if step == 50:
            detector.settle()
        optimizer.zero_grad()
        sum(detector.train().losses(images, targets).values()).backward()
        optimizer.step()

    [found] = detector.eval().detect(images)

    for i, one in enumerate(found):
        assert one.labels[0] == i
        assert paired_iou(one.boxes[0], wanted[i]) > 0.6
