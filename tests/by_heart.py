"""Learning two images by heart: the shortest proof that losses, gradients and detection fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from dhcli.models.fast import prepare_for_training
from dhcli.models.two_stage.detector import TwoStageDetector
from dhcli.ops.batch import Detections, ImageBatch, Target
from dhcli.ops.boxes import iou_matrix
from dhcli.training.optimizer import set_rate


def draw(batch: ImageBatch, targets: Sequence[Target]) -> None:
    """Each object as a rectangle, its class as its colour."""
    batch.pixels[:] = 120
    for pixels, target in zip(batch.pixels, targets, strict=True):
        for (x1, y1, x2, y2), label in zip(target.boxes.int().tolist(), target.labels, strict=True):
            pixels[:, y1:y2, x1:x2] = 20
            pixels[label, y1:y2, x1:x2] = 230


def learn(
    losses: Callable[[], dict[str, Tensor]],
    parameters: Iterable[nn.Parameter],
    *,
    steps: int,
    lr: float = 1e-3,
) -> None:
    """AdamW on `losses`; the last quarter at a fifth of the rate, where boxes no longer jump."""
    weights = [*parameters]
    optimizer = torch.optim.AdamW(weights)
    for step in range(steps):
        set_rate(optimizer, lr if step < 0.75 * steps else 0.2 * lr)
        optimizer.zero_grad()
        sum(losses().values(), torch.tensor(0.0)).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()


def learn_two_stage(
    detector: TwoStageDetector,
    batch: ImageBatch,
    targets: Sequence[Target],
    *,
    steps: int = 200,
) -> None:
    """RPN and head; the features stay as they are at first, so that a step takes milliseconds."""
    prepare_for_training(detector)
    few = {"pre_nms_train": 60, "pre_nms_test": 60}
    detector.rpn.config = detector.rpn.config.model_copy(update=few)
    features = [level.detach() for level in detector.extract(batch)]

    def losses() -> dict[str, Tensor]:
        found, losses = detector.rpn.learn(features, batch.sizes, targets)
        return losses | detector.head.losses(features, found, targets, batch.sizes)

    parameters = [*detector.rpn.parameters(), *detector.head.parameters()]
    learn(losses, parameters, steps=steps)
    detector.eval()


def assert_known(found: Sequence[Detections], targets: Sequence[Target], *, scale: int) -> None:
    """What is found in each image is its objects, once each.

    in   scale  pixels of the original image per pixel of the targets
    """
    for own, target in zip(found, targets, strict=True):
        mine, order = own.labels.argsort(), target.labels.argsort()
        assert own.labels[mine].tolist() == target.labels[order].tolist()
        fit = iou_matrix(own.boxes[mine], target.boxes[order] * scale).diag()
        assert (fit > 0.75).all()
