"""The head: one or two branches on the same proposals, and how they are read.

Every detector of the paper is a choice of branches, their λ and ω, and a read-out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dhcli.config.heads import ReadOut, own_read_out
from dhcli.config.schema import FUSIONS, ConvBranch, FcBranch, predicts
from dhcli.config.schema import AnyBranch as BranchConfig
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.init import init_normal
from dhcli.models.losses import classification_loss, regression_loss
from dhcli.models.norms import norm_layer
from dhcli.models.two_stage.branches import ConvTrunk, FcTrunk, Res5Trunk, Trunk, fuse_scores
from dhcli.models.two_stage.pool import Pool
from dhcli.models.two_stage.rpn import PLAIN
from dhcli.ops.batch import Target
from dhcli.ops.box_rules import BoxRules
from dhcli.ops.boxes import encode_boxes
from dhcli.ops.match import match_boxes, sample_matches

GROUP = 256
"""RoIs that a CPU runs through a branch at a time: 50 MB an activation of the conv branch."""


class BranchOutput(NamedTuple):
    """logits (N, K+1) float, background first; deltas (N, K or 1, 4) float; None: not predicted."""

    logits: Tensor | None
    deltas: Tensor | None

    def take(self, rows: Tensor) -> BranchOutput:
        """The rows (n,) of what is predicted."""
        return BranchOutput(*(part if part is None else part[rows] for part in self))


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


class Branch(nn.Module):
    """A trunk and up to two predictors, `cls` and `reg`; a predictor of weight 0 is not there.

    in   pooled  (N, C, S, S) float pooled RoIs
         rows    (n,) int64, those that are wanted, of a conv branch; None: all
    out  BranchOutput
    """

    def __init__(self, config: BranchConfig, trunk: Trunk, classes: int, head: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk
        self.first_box = int(head.background_box)
        boxes = (1 if head.class_agnostic else classes) + self.first_box
        self.cls = _predictor(self, "cls", classes + 1, std=0.01)
        self.reg = _predictor(self, "reg", boxes * 4, std=0.001)

    def forward(self, pooled: Tensor, rows: Tensor | None = None) -> BranchOutput:
        x = self.trunk(pooled) if rows is None else self.trunk(pooled, rows)  # (N, D)
        logits = self.cls(x) if self.cls is not None else None
        if self.reg is None:
            return BranchOutput(logits, None)
        return BranchOutput(logits, self.reg(x).unflatten(1, (-1, 4))[:, self.first_box :])

    @property
    def needs_all(self) -> str | None:
        """Why training must run it on all sampled RoIs, or None: objects alone give the same.

        Only objects have a regression loss, but batch norm makes each RoI depend on the others.
        """
        if self.cls is not None:
            return "it classifies"
        norms = (isinstance(m, nn.BatchNorm2d) and m.training for m in self.trunk.modules())
        return "its batch norm depends on the others (norm: gn does not)" if any(norms) else None

    @property
    def reads_objects(self) -> bool:
        """Whether the loss reads nothing but objects, and the trunk can leave the others out."""
        return self.cls is None and isinstance(self.trunk, ConvTrunk)

    def weight(self, task: str) -> float:
        """ω times λ or 1 − λ: the weight of the branch's loss for `task` (Eq. 1, 2, 3)."""
        config = self.config
        share = config.lambda_ if config.focus == task else 1 - config.lambda_
        return config.omega * share


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
            trunk = _build_trunk(branch, channels, pool.size, res5)
            self.branches[branch.name] = Branch(branch, trunk, classes, config)
        self.read_out = own_read_out(config)

    def run(
        self,
        name: str,
        levels: Sequence[Tensor],
        boxes: Tensor,
        images: Tensor,
        rows: Tensor | None = None,
    ) -> BranchOutput:
        """What the branch `name` says of `boxes` (N, 4) in images (N,), or of `rows` of them."""
        branch = self.branch(name)
        pooled = self.pool(levels, boxes, images, branch.config.roi_scale)
        output: BranchOutput = branch(pooled.contiguous(memory_format=torch.channels_last), rows)
        return output

    def run_in_groups(
        self, name: str, levels: Sequence[Tensor], boxes: Tensor, images: Tensor
    ) -> BranchOutput:
        """As `run`, on a CPU some RoIs at a time: one does not depend on another in detection."""
        size = GROUP if boxes.is_cpu else max(len(boxes), 1)
        groups = zip(torch.split(boxes, size), torch.split(images, size), strict=True)
        logits, deltas = zip(*(self.run(name, levels, *group) for group in groups), strict=True)
        return BranchOutput(*(None if of[0] is None else torch.cat(of) for of in (logits, deltas)))

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
        goals = encode_boxes(rois.goals, rois.boxes, self.config.box_std)
        objects, losses = _objects(rois.classes), {}
        for name in self.branches:
            branch = self.branch(name)
            seen = slice(None) if branch.needs_all is not None else objects
            wanted = objects if branch.needs_all is not None and branch.reads_objects else None
            output = self.run(name, levels, rois.boxes[seen], rois.images[seen], wanted)
            rows = seen if wanted is None else wanted
            classes = rois.classes[rows]
            if output.logits is not None:
                loss = classification_loss(output.logits, classes)
                losses[f"loss_{name}_cls"] = loss * branch.weight("cls")
            if output.deltas is not None:
                loss = self._box_loss(output.deltas, goals[rows], classes, len(rois.classes))
                losses[f"loss_{name}_reg"] = loss * branch.weight("reg")
        return losses

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
        passed = torch.arange(len(boxes), device=boxes.device)
        if gate and others:
            passed = _pass_gate(outputs[first], gate)
            outputs[first] = outputs[first].take(passed)
            boxes, images = boxes[passed], images[passed]
        outputs |= {name: self.run_in_groups(name, levels, boxes, images) for name in others}
        found = []
        for read_out in read_outs:
            scores = self.scores(read_out, outputs)
            rows, labels = torch.nonzero(scores[:, 1:] > threshold, as_tuple=True)
            if read_out.boxes in outputs:
                deltas, own = outputs[read_out.boxes].deltas, rows
            else:  # a branch that does not score: the head has no other read-out with its boxes
                alive, own = torch.unique(rows, return_inverse=True)
                deltas = self.run_in_groups(
                    read_out.boxes, levels, boxes[alive], images[alive]
                ).deltas
            assert deltas is not None  # the configuration was checked: this branch predicts boxes
            chosen = deltas[own, torch.zeros_like(labels) if self.config.class_agnostic else labels]
            refined = self.rules.decode(chosen, boxes[rows], self.config.box_std)
            found.append(Scored(passed[rows], labels, scores[rows, labels + 1], refined))
        return found

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


def _objects(classes: Tensor) -> Tensor:
    """Rows (n,) of the objects; the first where there is none, so that all weights take part."""
    rows = torch.nonzero(classes).flatten()
    return rows if len(rows) else torch.arange(min(1, len(classes)), device=classes.device)


def _pass_gate(output: BranchOutput, gate: float) -> Tensor:
    """Rows (n,) of the proposals that have a foreground class of score `gate` or more."""
    assert output.logits is not None  # it is the output of a branch that scores
    scores = output.logits.float().softmax(dim=1)[:, 1:]
    return torch.nonzero(scores.amax(1) >= gate).flatten()


def _build_trunk(config: BranchConfig, channels: int, side: int, res5: Res5Trunk | None) -> Trunk:
    if isinstance(config, FcBranch):
        return FcTrunk(channels, side, config.width, config.layers)
    if isinstance(config, ConvBranch):
        return ConvTrunk(
            channels,
            norm_layer(config.norm),
            config.width,
            config.residual,
            config.non_local,
            config.non_local_groups,
            config.non_local_normalise,
        )
    assert res5 is not None  # the configuration was checked: the backbone gave its last stage
    return res5


def _predictor(branch: Branch, task: str, outputs: int, std: float) -> nn.Linear | None:
    if not predicts(branch.config, task):
        return None
    layer = nn.Linear(branch.trunk.width, outputs)
    init_normal(layer, std)
    return layer
