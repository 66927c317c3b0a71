"""Our RetinaNet and FCOS against torchvision's: outputs and losses of one image in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead

from dhcli.models.dense.detector import DenseDetector
from dhcli.models.dense.losses import dense_losses
from dhcli.ops.batch import Target

Make = Callable[..., DenseDetector]
WIDE = ["model.neck.channels=64", "model.head.width=64"]
LEVELS = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]


def levels() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 64, h, w, generator=generator, dtype=torch.float64) for h, w in LEVELS]


def target() -> Target:
    boxes = torch.tensor([[4.3, 5.1, 39.2, 41.4], [41.7, 9.2, 89.5, 60.9]]).double()
    return Target(boxes, torch.tensor([0, 2]), boxes[:0])


def copy_towers(ours: nn.Module, theirs: nn.Module, task: str, *, norms: bool) -> None:
    """Weights of `theirs` into ours; their convolutions before a norm have a bias: none."""
    own, other = (
        [layer for layer in tower.modules() if not list(layer.children())]
        for tower in (ours.get_submodule(f"towers.0.{task}_convs"), theirs.get_submodule("conv"))
    )
    for mine, its in zip(own, other, strict=True):
        for name, weight in its.named_parameters():
            if norms and isinstance(its, nn.Conv2d) and name == "bias":
                nn.init.zeros_(weight)
            else:
                nn.init.normal_(weight, mean=float(weight.ndim == 1), std=0.1)
                mine.get_parameter(name).data.copy_(weight.data)


def copy_end(ours: nn.Module, theirs: nn.Module) -> None:
    for name, weight in theirs.named_parameters():
        nn.init.normal_(weight, std=0.05)
        ours.get_parameter(name).data.copy_(weight.data)


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def anchors_of(detector: DenseDetector, x: list[Tensor]) -> Tensor:
    return detector.lay(x).boxes


def test_retinanet(dense: Make) -> None:
    detector = dense("retinanet", *WIDE).double()
    head, x = RetinaNetHead(64, 9, 3).double(), levels()
    for task, name in (("cls", "classification_head"), ("reg", "regression_head")):
        copy_towers(detector.head, getattr(head, name), task, norms=False)
    copy_end(detector.head.towers[0].cls, head.classification_head.cls_logits)
    copy_end(detector.head.towers[0].reg, head.regression_head.bbox_reg)

    ours, theirs = detector.head(x), head(x)

    torch.testing.assert_close(ours.logits, theirs["cls_logits"])
    torch.testing.assert_close(ours.boxes, theirs["bbox_regression"])
    one, anchors = target(), anchors_of(detector, x)
    wanted = [{"boxes": one.boxes, "labels": one.labels}]
    network = RetinaNet.__new__(RetinaNet)
    nn.Module.__init__(network)
    network.proposal_matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    network.head = head
    expected = network.compute_loss(wanted, theirs, [anchors])
    lost = dense_losses(ours, detector.lay(x), [one], detector.coder, detector.config)
    torch.testing.assert_close(lost["loss_cls"], expected["classification"], rtol=1e-8, atol=0)
    torch.testing.assert_close(lost["loss_box"], expected["bbox_regression"], rtol=1e-8, atol=0)


def test_fcos(dense: Make) -> None:
    """torchvision's points lie on the corners of cells."""
    detector = dense("fcos", "model.priors.offset=0", *WIDE).double()
    head, x = FCOSHead(64, 1, 3).double(), levels()
    for task, name in (("cls", "classification_head"), ("reg", "regression_head")):
        copy_towers(detector.head, getattr(head, name), task, norms=True)
    copy_end(detector.head.towers[0].cls, head.classification_head.cls_logits)
    copy_end(detector.head.towers[0].reg, head.regression_head.bbox_reg)
    copy_end(detector.head.towers[0].quality, head.regression_head.bbox_ctrness)

    ours, theirs = detector.head(x), head(x)

    torch.testing.assert_close(ours.logits, theirs["cls_logits"])
    torch.testing.assert_close(ours.boxes.relu(), theirs["bbox_regression"])
    torch.testing.assert_close(ours.quality[..., None], theirs["bbox_ctrness"])
    one, anchors = target(), anchors_of(detector, x)
    network = FCOS.__new__(FCOS)
    nn.Module.__init__(network)
    network.center_sampling_radius, network.head = 1.5, head
    wanted = [{"boxes": one.boxes, "labels": one.labels}]
    counts = [h * w for h, w in LEVELS]
    expected = network.compute_loss(wanted, theirs, [anchors], counts)
    lost = dense_losses(ours, detector.lay(x), [one], detector.coder, detector.config)
    torch.testing.assert_close(lost["loss_cls"], expected["classification"], rtol=1e-8, atol=0)
    torch.testing.assert_close(lost["loss_box"], expected["bbox_regression"], rtol=1e-8, atol=0)
    torch.testing.assert_close(lost["loss_quality"], expected["bbox_ctrness"], rtol=1e-8, atol=0)
