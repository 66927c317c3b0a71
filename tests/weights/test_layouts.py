"""Layouts against lists of the origins' own names and shapes, and there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2

from dhcli.config.load import config_from_dict
from dhcli.errors import ModelError
from dhcli.models.build import describe_detector
from dhcli.ops.anchors import cell_anchors
from dhcli.weights.class_names import coco_names, parse_class_names
from dhcli.weights.exchange import import_weights
from dhcli.weights.foreign import export_state
from dhcli.weights.layout_names import ExportName
from dhcli.weights.layouts import LAYOUTS, tsd
from tests.references.network import STRIDES
from tests.weights.round_trip import assert_written_back

KEYS = Path(__file__).parent / "keys"
LISTS = {
    "mmdet": "mmdet_double_head_r50",
    "maskrcnn-benchmark": "authors_double_head_ext_r50",
    "cascade": "mmdet_cascade_r50",
    "tsd": "tsd_r50",
}
PROGRAMS = {"cascade": "mmdet"}
"""Whose another list is."""


def key_list(layout: str, *, depth: int = 6) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the origin's state dict; of R101, whose layer3 alone is deeper."""
    text = (KEYS / f"{LISTS[layout]}.txt").read_text()
    pairs = (line.split() for line in text.splitlines())
    keys = {k: tuple(int(n) for n in s.split("x")) if s != "-" else () for k, s in pairs}
    last = [name for name in keys if ".layer3.5." in name]
    every: dict[str, tuple[int, ...]] = {}
    for name, shape in keys.items():
        every[name] = shape
        if last and name == last[-1]:
            for block in range(6, depth):
                every |= {n.replace("3.5.", f"3.{block}."): keys[n] for n in last}
    return every


def fill(keys: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A state dict of these shapes, every tensor another; the authors' anchors are theirs.

    A tensor is one number in memory and in the file, seen in every place, unless it is a predictor.
    """
    state = {}
    for index, (name, shape) in enumerate(keys.items()):
        number = torch.tensor(index)
        state[name] = number if name.endswith("tracked") else number.float().expand(shape)
        if name.endswith(("cls.weight", "cls_score.weight", "fc_reg.weight")):
            state[name] = torch.arange(number.new_tensor(shape).prod()).float().reshape(shape)
    for level, stride in enumerate(STRIDES):
        name = f"module.rpn.anchor_generator.cell_anchors.{level}"
        if name in state:
            ours = cell_anchors(8 * stride, stride, (0.5, 1, 2), "maskrcnn_benchmark")
            state[name] = ours - torch.tensor([0.0, 0.0, 1.0, 1.0])
    return state


@pytest.mark.parametrize("depth", [6, 23], ids=["r50", "r101"])
@pytest.mark.parametrize("layout", list(LISTS))
def test_names_shapes_and_order_are_the_origins(tmp_path: Path, layout: str, depth: int) -> None:
    keys = key_list(layout, depth=depth)
    holder = {"maskrcnn-benchmark": "model"}.get(layout, "state_dict")
    torch.save({holder: fill(keys)}, tmp_path / "w.pth")

    found = import_weights(tmp_path / "w.pth")  # it compares shapes with those of the detector

    config = found.model.config
    assert config.model.backbone.name == ("resnet50" if depth == 6 else "resnet101")
    names = [one.theirs for one in LAYOUTS[PROGRAMS.get(layout, layout)].pairs(config)]
    bare = [name.removeprefix("module.") for name in keys if "cell_anchors" not in name]
    assert names == bare
    assert sum(row.tensors for row in found.rows) == len(keys)
    assert found.model.classes == coco_names(80)
    assert found.model.category_ids == tuple(range(1, 81))


def test_background_goes_from_last_to_first(tmp_path: Path) -> None:
    state = fill(key_list("mmdet"))
    torch.save({"state_dict": state}, tmp_path / "w.pth")

    own = import_weights(tmp_path / "w.pth").model.state

    theirs = state["roi_head.bbox_head.fc_cls.weight"]
    ours = own["head.branches.fc.cls.weight"]
    assert torch.equal(ours[0], theirs[80])
    assert torch.equal(ours[1:], theirs[:80])
    assert torch.equal(
        own["head.branches.conv.reg.weight"], state["roi_head.bbox_head.fc_reg.weight"]
    )


@pytest.mark.parametrize("layout", ["mmdet", "cascade", "tsd", "torchvision"])
def test_there_and_back_byte_for_byte(tmp_path: Path, layout: Any) -> None:
    program = PROGRAMS.get(layout, layout)
    if program != "torchvision":
        state, holder = fill(key_list(layout)), "state_dict"
        meta = {"CLASSES": tuple(f"c{i}" for i in range(80)), "epoch": 12}
        torch.save({"meta": meta, "state_dict": state}, tmp_path / "w.pth")
    else:
        with torch.device("meta"):
            network = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
        state = fill({name: tuple(x.shape) for name, x in network.state_dict().items()})
        torch.save(state, tmp_path / "w.pth")
        holder = ""

    _, content = assert_written_back(tmp_path / "w.pth", state, program, holder)

    if program != "torchvision":
        assert content["meta"]["CLASSES"] == meta["CLASSES"]


def test_a_cascade_has_its_programs_stages_and_proposals(tmp_path: Path) -> None:
    torch.save({"state_dict": fill(key_list("cascade"))}, tmp_path / "w.pth")

    model = import_weights(tmp_path / "w.pth").model.config.model

    stages = [(one.positive_iou, one.box_std[0], one.weight) for one in model.head.cascade]
    assert stages == [(0.5, 0.1, 1), (0.6, 0.05, 0.5), (0.7, 0.033, 0.25)]
    assert model.head.class_agnostic
    assert (model.rpn.proposals_train, model.rpn.allowed_border) == (2000, 0)
    assert model.rpn.smooth_l1_beta == pytest.approx(1 / 9)


def test_a_prefix_goes_only_where_every_name_has_it(tmp_path: Path) -> None:
    state = fill(key_list("mmdet"))
    torch.save({f"module.{name}": x for name, x in state.items()}, tmp_path / "all.pth")
    state["module.backbone.conv1.weight"] = state.pop("backbone.conv1.weight")
    torch.save(state, tmp_path / "one.pth")

    assert len(import_weights(tmp_path / "all.pth").model.state) == len(state)
    with pytest.raises(ModelError) as caught:
        import_weights(tmp_path / "one.pth")

    assert "missing: backbone.conv1.weight; unknown: module.backbone.conv1" in str(caught.value)


@pytest.mark.parametrize("prefix", ["model.", "net.detector.", "module.model."])
@pytest.mark.parametrize("holder", ["state_dict", "model_state_dict", "model"])
def test_a_wrappers_prefix_and_holder_are_taken_off(
    prefix: str, holder: str, tmp_path: Path
) -> None:
    state = fill(key_list("mmdet"))
    content = {"epoch": 7, holder: {f"{prefix}{name}": x for name, x in state.items()}}
    torch.save(content, tmp_path / "w.pth")

    found = import_weights(tmp_path / "w.pth")

    assert len(found.model.state) == len(state)
    assert found.model.metadata["origin"]["epoch"] == 7


def test_what_a_wrapper_has_beside_its_detector_is_named(tmp_path: Path) -> None:
    state = {f"model.{name}": x for name, x in fill(key_list("mmdet")).items()}
    torch.save({"state_dict": {**state, "metric.sum": torch.zeros(1)}}, tmp_path / "w.pth")

    with pytest.raises(ModelError, match=r"unknown: metric\.sum"):
        import_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("layout", list(LISTS))
def test_another_detector_of_a_known_program_is_one_error(layout: str, tmp_path: Path) -> None:
    """As MMDetection's SABL is: every tensor alone may be the one that is not there."""
    state = fill(key_list(layout))
    heads = [n for n in state if "head" in n and n.endswith("weight") and "rpn" not in n]
    path = tmp_path / "w.pth"
    for name in heads:
        torch.save({k: x for k, x in state.items() if k != name}, path)

        with pytest.raises(ModelError) as caught:
            import_weights(path)

        assert str(path) in str(caught.value)


def test_names_classes_and_moving_averages(tmp_path: Path) -> None:
    state = fill(key_list("mmdet"))
    averages = {f"ema_{name.replace('.', '_')}": x for name, x in state.items()}
    classes = [f"thing {i}" for i in range(80)]
    meta = {"dataset_meta": {"classes": classes}, "epoch": 12}
    content = {"meta": meta, "state_dict": {**state, **averages}, "ema_state_dict": averages}
    torch.save(content, tmp_path / "w.pth")

    found = import_weights(tmp_path / "w.pth")

    assert found.model.classes == tuple(classes)
    assert found.rows[-1].part == "left"
    assert found.rows[-1].tensors == len(averages)
    origin = {"layout": "mmdet", "file": "w.pth", "notes": [], "epoch": 12}
    assert found.model.metadata["origin"] == origin
    assert found.notes == []


def test_class_names_and_ids_of_a_coco_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '{"categories": [{"id": 9, "name": "b"}, {"id": 3, "name": "a"}]}'
    )
    (tmp_path / "a.txt").write_text("x\ny\n")

    assert parse_class_names(str(tmp_path / "a.json")) == (("a", "b"), (3, 9))
    assert parse_class_names(str(tmp_path / "a.txt")) == (("x", "y"), (1, 2))
    assert parse_class_names("x, y z") == (("x", "y z"), (1, 2))
    assert coco_names(90)[11] == "N/A 12"
    assert len(set(coco_names(90))) == 90


def test_other_anchors_are_refused_until_they_are_named(tmp_path: Path) -> None:
    state = fill(key_list("maskrcnn-benchmark"))
    for level, stride in enumerate(STRIDES):
        ours = cell_anchors(4 * stride, stride, (0.5, 1, 2), "maskrcnn_benchmark")
        name = f"module.rpn.anchor_generator.cell_anchors.{level}"
        state[name] = ours - torch.tensor([0.0, 0.0, 1.0, 1.0])
    torch.save({"model": state}, tmp_path / "w.pth")

    with pytest.raises(ModelError, match="its anchors on level 0 are"):
        import_weights(tmp_path / "w.pth")
    sizes = "model.anchors.sizes=[16,32,64,128,256]"
    found = import_weights(tmp_path / "w.pth", overrides=[sizes])

    assert found.model.config.model.anchors.sizes[0] == 16


def test_what_is_no_known_detector_says_so(tmp_path: Path) -> None:
    with torch.device("meta"):
        second = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=4)
    keys = {name: tuple(x.shape) for name, x in second.state_dict().items()}
    torch.save({name: torch.zeros(1) for name in keys}, tmp_path / "v2.pth")
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({"state_dict": fill(key_list("mmdet"))}, tmp_path / "mmdet.pth")

    with pytest.raises(ModelError, match="fasterrcnn_resnet50_fpn_v2"):
        import_weights(tmp_path / "v2.pth")
    with pytest.raises(ModelError, match=r"names such as conv\.weight"):
        import_weights(tmp_path / "other.pth")
    with pytest.raises(ModelError, match="is not a detector of detectron2, but of MMDetection"):
        import_weights(tmp_path / "mmdet.pth", "detectron2")


def test_an_old_torchvision_file_and_a_frozen_one(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    keys = {n: tuple(x.shape) for n, x in network.state_dict().items() if "tracked" not in n}
    new = fill(keys)
    old = {
        name.replace(".0.0.", ".").replace("_blocks.0.0", "_blocks.0")
        if name.startswith("rpn")
        else _old_fpn(name): x
        for name, x in new.items()
    }
    torch.save(old, tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
    torch.save(new, tmp_path / "mine.pth")

    published = import_weights(tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth").model
    mine = import_weights(tmp_path / "mine.pth").model

    assert set(old) != set(new)
    assert all(torch.equal(published.state[name], x) for name, x in mine.state.items())
    assert published.config.model.backbone.bn_epsilon == 0
    assert mine.config.model.backbone.bn_epsilon == 1e-5
    assert mine.config.model.backbone.norm == "frozen_bn"


def _old_fpn(name: str) -> str:
    parts = name.split(".")
    if parts[:2] == ["backbone", "fpn"]:
        del parts[4]
    return ".".join(parts)


def detectron2_state(channels: int, width: int, classes: int) -> dict[str, torch.Tensor]:
    """Names and shapes of detectron2's `faster_rcnn_R_50_FPN`, as its modules are nested."""
    shapes: dict[str, tuple[int, ...]] = {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}

    def conv(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{part}"] = shape[:1]

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    body, inputs = "backbone.bottom_up", 64
    conv(f"{body}.stem.conv1", 64, 3, 7, 7)
    for stage, depth in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        inner, outer = 2 ** (4 + stage), 2 ** (6 + stage)
        for block in range(depth):
            place = f"{body}.res{stage}.{block}"
            if block == 0:
                conv(f"{place}.shortcut", outer, inputs, 1, 1)
            conv(f"{place}.conv1", inner, inputs, 1, 1)
            conv(f"{place}.conv2", inner, inner, 3, 3)
            conv(f"{place}.conv3", outer, inner, 1, 1)
            inputs = outer
        layer(f"backbone.fpn_lateral{stage}", channels, outer, 1, 1)
        layer(f"backbone.fpn_output{stage}", channels, channels, 3, 3)
    rpn, head = "proposal_generator.rpn_head", "roi_heads"
    layer(f"{rpn}.conv", channels, channels, 3, 3)
    layer(f"{rpn}.objectness_logits", 3, channels, 1, 1)
    layer(f"{rpn}.anchor_deltas", 12, channels, 1, 1)
    layer(f"{head}.box_head.fc1", width, channels * 49)
    layer(f"{head}.box_head.fc2", width, width)
    layer(f"{head}.box_predictor.cls_score", classes + 1, width)
    layer(f"{head}.box_predictor.bbox_pred", classes * 4, width)
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    for level in range(5):
        sides = [(32 * 2**level / r**0.5, 32 * 2**level * r**0.5) for r in (0.5, 1.0, 2.0)]
        cell = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])
        state[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = cell
    return state


def test_detectron2s_names_are_read_without_a_rest(tmp_path: Path) -> None:
    state = detectron2_state(channels=8, width=16, classes=80)
    state["roi_heads.box_predictor.cls_score.bias"][80] = 1.0  # background, its last
    torch.save({"model": state, "iteration": 1}, tmp_path / "d2.pth")

    found = import_weights(tmp_path / "d2.pth")

    model = found.model.config.model
    assert found.model.metadata["origin"]["layout"] == "detectron2"
    assert (model.backbone.name, model.backbone.stride_in_1x1) == ("resnet50", True)
    assert found.model.config.input.channels == "bgr"
    assert found.model.state["head.branches.fc.cls.bias"].tolist() == [1.0, *[0.0] * 80]

    del state["backbone.fpn_lateral3.bias"]
    torch.save({"model": state}, tmp_path / "d2.pth")
    with pytest.raises(ModelError, match=r"fpn_lateral3\.bias"):
        import_weights(tmp_path / "d2.pth")
    state["backbone.fpn_lateral3.bias"] = torch.zeros(8)
    state["proposal_generator.anchor_generator.cell_anchors.2"] += 1
    torch.save({"model": state}, tmp_path / "d2.pth")
    with pytest.raises(ModelError, match="anchors on level 2"):
        import_weights(tmp_path / "d2.pth")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("model.head.branches.sibling.name=fc", "its branches are sibling, pc, pr"),
        ("model.head.cascade=[{}, {}]", "it is a cascade"),
        ("model.head.background_box=false", "boxes by class include the background's there"),
        ("model.head.branches.pr.roi.move=cells", "its branch pr is another"),
        ("model.head.branches.pc.lambda=0.7", "only its sibling predicts both"),
    ],
)
def test_tsds_code_has_no_other_head(change: str, why: str) -> None:
    config = config_from_dict(tsd.settings(fill(key_list("tsd")), "w.pth"), "a test", [change])

    assert why in str(tsd.misfit(config))
    with pytest.raises(ModelError, match=r"TSD \(Sense-X\) has no such detector: "):
        export_state({}, config, "tsd")


FC = "{kind: fc, lambda: 0.5}"
SCORES, PLACES = "{kind: fc}", "{kind: conv}"
JUDGES = "{kind: fc, name: iou, focus: iou}"
TSD = [
    f"{{kind: fc, name: {name}, focus: {focus}, {more}}}"
    for name, focus, more in (
        ("sibling", "cls", "lambda: 0.5"),
        ("pc", "cls", "roi: {kind: disentangled}"),
        ("pr", "reg", "roi: {kind: disentangled}"),
    )
]
MOVES = "roi: {kind: disentangled, margin: 0}"
GROUPS, NO_BATCH_NORM = "model.backbone.norm=gn", "not a ResNet with batch norm"
OTHER_LEVELS = "its pyramid does not begin with P2 … P5"
FINEST_3 = ["model.neck.finest=3", "model.anchors.sizes=[64,128,256,512]"]
COARSEST_4 = ["model.neck.coarsest=4", "model.anchors.sizes=[32,64,128]"]
C4 = ["model.neck.kind=none", "model.pool.size=14"]
BACKGROUND = "model.head.background_box=true"
SHARED = "model.head.class_agnostic=true"
PREDICTS_IOU, MOVED = "one of its branches predicts IoU", "its branches have RoIs of their own"


@pytest.mark.parametrize(
    ("layout", "branches", "change", "why"),
    [
        ("mmdet", [FC, JUDGES], [], PREDICTS_IOU),
        ("mmdet", [SCORES, PLACES, JUDGES], [], PREDICTS_IOU),
        ("mmdet", [SCORES, "{kind: side}", JUDGES], [], PREDICTS_IOU),
        ("mmdet", [f"{{kind: fc, {MOVES}}}", f"{{kind: conv, {MOVES}}}"], [], MOVED),
        ("mmdet", [f"{{kind: fc, lambda: 0.5, {MOVES}}}"], [], MOVED),
        ("torchvision", [f"{{kind: fc, lambda: 0.5, {MOVES}}}"], [BACKGROUND], MOVED),
        ("torchvision", [FC], [BACKGROUND, SHARED], "all classes share its boxes"),
        ("mmdet", [FC], [GROUPS], NO_BATCH_NORM),
        ("torchvision", [FC], [GROUPS, BACKGROUND], NO_BATCH_NORM),
        ("tsd", TSD, [GROUPS, BACKGROUND], NO_BATCH_NORM),
        ("mmdet", [FC], FINEST_3, OTHER_LEVELS),
        ("mmdet", [FC], COARSEST_4, OTHER_LEVELS),
        ("mmdet", [FC], ["model.neck.extra=on_output"], r"no place for neck\.further\.0"),
        ("torchvision", [FC], [*FINEST_3, BACKGROUND], OTHER_LEVELS),
        ("tsd", TSD, [*FINEST_3, BACKGROUND], OTHER_LEVELS),
        ("mmdet", ["{kind: res5, lambda: 0.5}"], C4, "it has no pyramid"),
    ],
)
def test_a_program_without_such_a_detector_gets_no_part_of_it(
    layout: ExportName, branches: list[str], change: list[str], why: str
) -> None:
    made = f"model.head.branches=[{', '.join(branches)}]"
    config = config_from_dict({}, "a test", [made, *change])
    state = describe_detector(config, 3).state_dict()

    with pytest.raises(ModelError, match=why):
        export_state(state, config, layout)


def test_no_tensor_is_left_out_or_taken_from_nowhere() -> None:
    config = config_from_dict({}, "a test", [f"model.head.branches=[{FC}]"])
    state = describe_detector(config, 3).state_dict()
    lost = {name: x for name, x in state.items() if name != "rpn.cls.bias"}

    assert len(export_state(state, config, "mmdet")) == len(state)
    with pytest.raises(ModelError, match=r"no place for head\.new there"):
        export_state({**state, "head.new": torch.zeros(1)}, config, "mmdet")
    with pytest.raises(ModelError, match=r"lacks rpn\.cls\.bias"):
        export_state(lost, config, "mmdet")
