"""The head: one or two branches on the same proposals, and how they are read.

Every detector of the paper is a choice of branches, their λ and ω, and a read-out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dhcli.config.heads import ReadOut, own_read_out
from dhcli.config.schema import FUSIONS
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.losses import classification_loss, regression_loss
from dhcli.models.two_stage.branches import Branch, BranchOutput, Res5Trunk, build_trunk
from dhcli.models.two_stage.pool import Pool
from dhcli.ops.batch import Target
from dhcli.ops.box_rules import PLAIN, BoxRules
from dhcli.ops.boxes import encode_boxes
from dhcli.ops.match import match_boxes, sample_matches

GROUP = 256
"""RoIs that a CPU runs through a branch at a time: 50 MB an activation of the conv branch."""


class Rois(NamedTuple):
    """Sampled proposals of a batch and what they should become.

    boxes    (N, 4) float32 xyxy
    images   (N,) int64, the image each lies in
    classes  (N,) int64, 0 for background, else label + 1
    goals    (N, 4) float32, the object's box; the proposal's own for background
    """

    boxes: Tensor
    images: Tensor
    classes: Tensor
    goals: Tensor


class Scored(NamedTuple):
    """Scored and refined proposals, in the order of the proposals and then of the classes.

    rows    (D,) int64 into the proposals
    labels  (D,) int64 in 0…K-1
    scores  (D,) float32
    boxes   (D, 4) float32 xyxy, not clipped
    """

    rows: Tensor
    labels: Tensor
    scores: Tensor
    boxes: Tensor


class Head(nn.Module):
    """Branches, their losses, and scores and boxes read from them."""

    def __init__(
        self,
        config: HeadConfig,
        pool: Pool,
        channels: int,
        classes: int,
        rules: BoxRules = PLAIN,
        res5: Res5Trunk | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.pool = pool
        self.rules = rules
        self.branches = nn.ModuleDict()
        for branch in config.branches:
            trunk = build_trunk(branch, channels, pool.size, res5)
            self.branches[branch.name] = Branch(branch, trunk, classes, config)
        self.read_out = own_read_out(config)

    def run(
        self, name: str, levels: Sequence[Tensor], boxes: Tensor, images: Tensor
    ) -> BranchOutput:
        """What the branch `name` says of `boxes` (N, 4) in images (N,)."""
        output: BranchOutput = self.branch(name)(self.pooled(name, levels, boxes, images))
        return output

    def pooled(self, name: str, levels: Sequence[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
        """What the branch `name` sees of `boxes`: (N, C, S, S), channels_last."""
        pooled: Tensor = self.pool(levels, boxes, images, self.branch(name).config.roi_scale)
        return pooled.contiguous(memory_format=torch.channels_last)

    def run_in_groups(
        self, name: str, levels: Sequence[Tensor], boxes: Tensor, images: Tensor
    ) -> BranchOutput:
        """As `run`, on a CPU some RoIs at a time: one does not depend on another in detection."""
        if torch.compiler.is_exporting():
            return self._run_exported(name, levels, boxes, images)
        size = GROUP if boxes.is_cpu else max(len(boxes), 1)
        groups = zip(torch.split(boxes, size), torch.split(images, size), strict=True)
        logits, deltas = zip(*(self.run(name, levels, *group) for group in groups), strict=True)
        return BranchOutput(*(None if of[0] is None else torch.cat(of) for of in (logits, deltas)))

    def _run_exported(
        self, name: str, levels: Sequence[Tensor], boxes: Tensor, images: Tensor
    ) -> BranchOutput:
        """As `run`, with two RoIs more that are thrown away.

        No runtime convolves an empty batch, and torch 2.9 has to know that it is more than one.
        """
        boxes = torch.cat([boxes.new_tensor([[0, 0, 1, 1]] * 2), boxes])
        images = torch.cat([images.new_zeros(2), images])
        output = self.run(name, levels, boxes, images)
        return BranchOutput(*(None if part is None else part[2:] for part in output))

    def branch(self, name: str) -> Branch:
        """The branch `name`."""
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        return branch

    def losses(
        self, levels: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """loss_<branch>_cls and loss_<branch>_reg, weighted by ω and λ."""
        rois = self.sample(proposals, targets)
        goals = self.goals(rois)
        losses: dict[str, Tensor] = {}
        for name in self.branches:
            output = self.run(name, levels, rois.boxes, rois.images)
            losses |= self.branch_losses(name, output, rois.classes, goals, len(goals))
        return losses

    def goals(self, rois: Rois) -> Tensor:
        """The deltas (N, 4) that would take each RoI to its object."""
        return encode_boxes(rois.goals, rois.boxes, self.config.box_std)

    def branch_losses(
        self, name: str, output: BranchOutput, classes: Tensor, goals: Tensor, sampled: int
    ) -> dict[str, Tensor]:
        """The weighted losses of one branch, of what it says about n of the `sampled` RoIs.

        in   output   of n RoIs;  classes (n,) int64, 0 for background;  goals (n, 4) float32
        """
        branch = self.branch(name)
        losses: dict[str, Tensor] = {}
        if output.logits is not None:
            loss = classification_loss(output.logits, classes)
            losses[f"loss_{name}_cls"] = loss * branch.weight("cls")
        if output.deltas is not None:
            loss = self._box_loss(output.deltas, goals, classes, sampled)
            losses[f"loss_{name}_reg"] = loss * branch.weight("reg")
        return losses

    def notes(self) -> list[str]:
        """What a user should know of how the branches train."""
        return []

    @torch.no_grad()
    def sample(self, proposals: Sequence[Tensor], targets: Sequence[Target]) -> Rois:
        """Choose the RoIs that carry a loss from the proposals and the objects themselves."""
        config = self.config
        parts = []
        for index, (boxes, target) in enumerate(zip(proposals, targets, strict=True)):
            boxes = torch.cat([boxes, target.boxes])
            matches = match_boxes(
                boxes,
                target.boxes,
                target.ignore,
                positive_iou=config.positive_iou,
                negative_iou=config.positive_iou,
            )
            positive, negative = sample_matches(matches, config.samples, config.positive_fraction)
            chosen, objects = torch.cat([positive, negative]), matches[positive]
            classes = torch.cat([target.labels[objects] + 1, torch.zeros_like(negative)])
            goals = torch.cat([target.boxes[objects], boxes[negative]])
            parts.append((boxes[chosen], torch.full_like(chosen, index), classes, goals))
        return Rois(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def detect(
        self,
        read_outs: Sequence[ReadOut],
        levels: Sequence[Tensor],
        boxes: Tensor,
        images: Tensor,
        threshold: float,
        gate: float = 0.0,
    ) -> list[Scored]:
        """By each of `read_outs`, every class of every proposal that scores above `threshold`.

        No branch runs twice. One that only refines boxes runs on the proposals that still can
        become a detection; what it says of the others would be thrown away, so the result is the
        same. Fused scores need both branches on all proposals; a `gate` leaves out those that no
        class scores that high in the first branch, which does change the result.

        in   boxes  (N, 4) float32 xyxy;  images  (N,) int64
        """
        scorers = {name for read_out in read_outs for name in self.scorers(read_out)}
        first, *others = (name for name in self.branches if name in scorers)
        outputs = {first: self.run_in_groups(first, levels, boxes, images)}
        passed = torch.arange(boxes.shape[0], device=boxes.device)
        if gate and others:
            passed = _pass_gate(outputs[first], gate)
            outputs[first] = outputs[first].take(passed)
            boxes, images = boxes[passed], images[passed]
        outputs |= {name: self.run_in_groups(name, levels, boxes, images) for name in others}
        found = []
        for read_out in read_outs:
            scores = self.scores(read_out, outputs)
            above = scores[:, 1:] > threshold
            rows, labels = torch.nonzero(above, as_tuple=True)
            if read_out.boxes in outputs:
                deltas, own = outputs[read_out.boxes].deltas, rows
            else:  # a branch that does not score: the head has no other read-out with its boxes
                deltas, own = self._refine_alive(read_out.boxes, levels, boxes, images, above)
                own = own[rows]
            assert deltas is not None  # the configuration was checked: this branch predicts boxes
            chosen = deltas[own, torch.zeros_like(labels) if self.config.class_agnostic else labels]
            refined = self.rules.decode(chosen, boxes[rows], self.config.box_std)
            found.append(Scored(passed[rows], labels, scores[rows, labels + 1], refined))
        return found

    def _refine_alive(
        self,
        name: str,
        levels: Sequence[Tensor],
        boxes: Tensor,
        images: Tensor,
        above: Tensor,
    ) -> tuple[Tensor | None, Tensor]:
        """What the branch `name` says of the proposals that have a class above the threshold.

        in   above   (N, K) bool
        out  deltas  (n, K or 1, 4) float of those; their places (N,) among them
        """
        alive = above.any(dim=1)
        rows = torch.nonzero(alive).flatten()
        deltas = self.run_in_groups(name, levels, boxes[rows], images[rows]).deltas
        return deltas, alive.long().cumsum(0) - 1

    def scorers(self, read_out: ReadOut) -> list[str]:
        """The branches whose scores `read_out` needs."""
        if read_out.scores not in FUSIONS:
            return [read_out.scores]
        return [name for name in self.branches if self.branch(name).cls is not None]

    def scores(self, read_out: ReadOut, outputs: Mapping[str, BranchOutput]) -> Tensor:
        """Probabilities (N, K+1) float32, from what the `scorers` of `read_out` say."""
        logits = [outputs[name].logits for name in self.scorers(read_out)]
        scores = [x.float().softmax(dim=1) for x in logits if x is not None]
        if len(scores) == 1:
            return scores[0]
        return fuse_scores(scores[0], scores[1], read_out.scores)

    def _box_loss(self, deltas: Tensor, goals: Tensor, classes: Tensor, sampled: int) -> Tensor:
        rows = torch.nonzero(classes).flatten()
        column = torch.zeros_like(rows) if self.config.class_agnostic else classes[rows] - 1
        beta = self.config.smooth_l1_beta
        return regression_loss(deltas[rows, column], goals[rows], beta, sampled)


def _pass_gate(output: BranchOutput, gate: float) -> Tensor:
    """Rows (n,) of the proposals that have a foreground class of score `gate` or more."""
    assert output.logits is not None  # it is the output of a branch that scores
    scores = output.logits.float().softmax(dim=1)[:, 1:]
    return torch.nonzero(scores.amax(1) >= gate).flatten()


def fuse_scores(first: Tensor, second: Tensor, how: str) -> Tensor:
    """Scores of two classifiers as one, class by class (Table 3).

    max            the larger
    average        the mean
    complementary  s = s_fc + s_conv (1 − s_fc)  (Eq. 4); symmetric, never below either

    Both (N, K+1) float probabilities.
    """
    if how == "max":
        return torch.maximum(first, second)
    if how == "average":
        return (first + second) / 2
    return first + second * (1 - first)
