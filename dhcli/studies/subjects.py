"""What a study looks at: branches of models, which score and refine any boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.heads import ReadOut
from dhcli.config.schema import TwoStage
from dhcli.errors import ConfigError, ModelError
from dhcli.models.two_stage.branches import Branch
from dhcli.models.two_stage.detector import TwoStageDetector
from dhcli.models.two_stage.head import GROUP, Head
from dhcli.ops.batch import Detections, ImageBatch
from dhcli.runtime.eager import EagerRunner
from dhcli.weights.locate_model import name_models

ROUND = 16 * GROUP
"""RoIs that a study has in memory at a time."""


class Judgement(NamedTuple):
    """What a branch says of N boxes; None: it does not predict it.

    scores  (N, K+1) float32 probabilities, background first
    boxes   (N, 4) float32 xyxy in network pixels, refined by the class asked for; not clipped
    """

    scores: Tensor | None
    boxes: Tensor | None


@dataclass(frozen=True, eq=False)
class Subject:
    """A branch of a model.

    label   `fc`; `MODEL/fc` where there are several models
    model   the model's name, unlike those of the other models
    runner  shared by the subjects of one model
    branch  the name of the branch in its head
    path    the model's file
    """

    label: str
    model: str
    runner: EagerRunner
    branch: str
    path: Path = Path()

    @property
    def detector(self) -> TwoStageDetector:
        """The detector that the branch is of."""
        detector = self.runner.detector
        assert isinstance(detector, TwoStageDetector)  # `open_subjects` looked
        return detector

    @property
    def head(self) -> Head:
        """The head that the branch is of."""
        head = self.detector.head
        assert isinstance(head, Head)  # `open_subjects` looked
        return head

    @property
    def module(self) -> Branch:
        """The branch itself."""
        return self.head.branch(self.branch)

    @property
    def can_score(self) -> bool:
        """Whether the branch scores boxes: by class, or by the IoU that it predicts."""
        return self.module.cls is not None or self.module.iou is not None

    @property
    def can_refine(self) -> bool:
        """Whether the branch refines boxes."""
        return self.module.reg is not None

    @torch.inference_mode()
    def levels(self, images: ImageBatch) -> list[Tensor]:
        """The neck's levels of the batch, the same for all subjects of one model."""
        return self.detector.extract(images)

    @torch.inference_mode()
    def propose(self, levels: Sequence[Tensor], images: ImageBatch) -> list[Tensor]:
        """The RPN's proposals as at detection, best first: B tensors (n, 4) in network pixels."""
        rpn = self.detector.rpn
        return rpn.propose(rpn(levels), images.sizes, training=False)

    @torch.inference_mode()
    def detect(
        self,
        levels: Sequence[Tensor],
        images: ImageBatch,
        options: DetectOptions = AS_CONFIGURED,
    ) -> list[Detections]:
        """What the branch alone finds, in original pixels; it scores and refines."""
        read = options.reading(ReadOut(self.branch, self.branch))
        return self.detector.find(levels, images, read)[0]

    @torch.inference_mode()
    def judge(
        self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor, labels: Tensor
    ) -> Judgement:
        """What the branch says of any boxes, in rounds of bounded memory.

        in   boxes   (N, 4) float32 xyxy in network pixels
             images  (N,) int64, the image in the batch that each lies in
             labels  (N,) int64 in 0…K-1, the class that refines each
        """
        rounds = (torch.split(part, ROUND) for part in (boxes, images, labels))
        said = [self._judge(levels, *of_round) for of_round in zip(*rounds, strict=True)]
        scores = [one.scores for one in said if one.scores is not None]
        refined = [one.boxes for one in said if one.boxes is not None]
        return Judgement(
            torch.cat(scores) if scores else None, torch.cat(refined) if refined else None
        )

    def cut(self, boxes: Tensor, images: ImageBatch) -> Tensor:
        """Boxes (N, 4) in network pixels cut at the border of the one image, as at detection."""
        return self.head.rules.clip(boxes, images.sizes)

    def _judge(
        self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor, labels: Tensor
    ) -> Judgement:
        output = self.head.run_in_groups(self.branch, levels, boxes, images)
        scores = None if output.logits is None else output.logits.float().softmax(dim=1)
        if output.ious is not None:  # of no background
            scores = F.pad(self.module.read_iou(output.ious), (1, 0))
        if output.boxes is None:
            return Judgement(scores, None)
        rows = torch.arange(len(labels), device=labels.device)
        placed = output.placed(boxes)
        refined = self.head.regressor(self.branch).decode(output.boxes, placed, rows, labels)
        return Judgement(scores, refined)


def open_subjects(
    weights: Sequence[Path],
    branches: Sequence[str] | None = None,
    options: DetectOptions = AS_CONFIGURED,
) -> list[Subject]:
    """The branches of each model, or those named, model after model.

    Raises ModelError where a file cannot be read or is no detector with branches, ConfigError
    where it lacks a branch asked for.
    """
    found = []
    for path, name in zip(weights, name_models(weights), strict=True):
        runner = EagerRunner.open(path, options)
        for branch in _branches(runner, path, branches):
            label = branch if len(weights) == 1 else f"{name}/{branch}"
            found.append(Subject(label, name, runner, branch, path))
    return found


def by_model(subjects: Sequence[Subject]) -> list[list[Subject]]:
    """The subjects of each model, which share its features."""
    names = dict.fromkeys(subject.model for subject in subjects)
    return [[subject for subject in subjects if subject.model == name] for name in names]


def _branches(runner: EagerRunner, path: Path, wanted: Sequence[str] | None) -> list[str]:
    """The branches of the model to look at, in its order. Raises as `open_subjects`."""
    model = runner.config.model
    if not isinstance(model, TwoStage):
        what = f"is a model of kind `{model.kind}`, which has no branches to study"
        raise ModelError(what, where=path, hint="studies look at models of kind `two_stage`")
    if model.head.cascade:
        what = "is a cascade, whose branches read other boxes in each stage"
        hint = "studies look at heads without `model.head.cascade`"
        raise ModelError(what, where=path, hint=hint)
    has = [branch.name for branch in model.head.branches]
    for name in wanted or ():
        if name not in has:
            listed = ", ".join(f"`{one}`" for one in has)
            what = f"{path} has no branch `{name}`"
            raise ConfigError(what, where="--branch", hint=f"it has {listed}")
    return [name for name in has if not wanted or name in wanted]
