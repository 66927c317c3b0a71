"""The head: branches on the same proposals, and how they are read.

Every detector of the paper is a choice of branches, their λ and ω, and a read-out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dhcli.config.heads import ReadOut, own_read_out
from dhcli.config.schema import FUSIONS, DisentangledRoi, readers
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.contract import Predictor
from dhcli.models.losses import classification_loss
from dhcli.models.two_stage.branches import Branch, BranchOutput, Res5Trunk, build_trunk
from dhcli.models.two_stage.disentangle import Disentangle, Said, View, margin_losses
from dhcli.models.two_stage.pool import Pool
from dhcli.models.two_stage.regressor import Regressor
from dhcli.models.two_stage.rois import Rois
from dhcli.ops.batch import Target
from dhcli.ops.box_rules import PLAIN, BoxRules
from dhcli.ops.boxes import paired_iou
from dhcli.ops.jitter import jitter_boxes
from dhcli.ops.match import match_boxes, sample_matches

GROUP = 256
"""RoIs that a CPU runs through a branch at a time: 50 MB an activation of the conv branch."""

STILL, WORSE = 0.001, 0.01
"""Change and loss of predicted IoU at which a box is refined no more (Ω1, −Ω2 of IoU-Net)."""

NOTHING: Mapping[str, Sequence[Tensor]] = {}


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

    def above(self, threshold: float) -> Scored:
        """Those that score above `threshold`."""
        return self.where(self.scores > threshold)

    def where(self, wanted: Tensor) -> Scored:
        """Those that are `wanted` (D,) bool."""
        kept = torch.nonzero(wanted).flatten()
        return Scored(*(column[kept] for column in self))


class Judged(NamedTuple):
    """Boxes whose IoU is known.

    boxes   (N, 4) float32 xyxy
    images  (N,) int64, the image each lies in
    labels  (N,) int64 in 0…K-1
    ious    (N,) float32 with an object of that class
    """

    boxes: Tensor
    images: Tensor
    labels: Tensor
    ious: Tensor


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
            self.branches[branch.name] = Branch(branch, trunk, classes, config, rules)
        self.disentangle: Disentangle | None = None
        if any(isinstance(branch.roi, DisentangledRoi) for branch in config.branches):
            self.disentangle = Disentangle(config.branches, channels, pool)
        self.read_out = own_read_out(config)
        self.judges = [one.name for one in config.branches if one.focus == "iou"]
        self.taught = [one.name for one in config.branches if one.focus != "iou"]

    def run(
        self, name: str, levels: Sequence[Tensor], boxes: Tensor, images: Tensor
    ) -> BranchOutput:
        """What the branch `name` says of `boxes` (N, 4) in images (N,)."""
        view = self.view(name, levels, boxes, images)
        output: BranchOutput = self.branch(name)(view.pooled)
        return output._replace(rois=view.boxes)

    def view(self, name: str, levels: Sequence[Tensor], boxes: Tensor, images: Tensor) -> View:
        """What the branch `name` sees of `boxes`, channels_last, and where it moved them."""
        config = self.branch(name).config
        if isinstance(config.roi, DisentangledRoi):
            assert self.disentangle is not None  # there is such a branch
            shared = self.pool(levels, boxes, images)
            view: View = self.disentangle(name, shared, levels, boxes, images)
        else:
            view = View(self.pool(levels, boxes, images, config.roi_scale))
        return view._replace(pooled=view.pooled.contiguous(memory_format=torch.channels_last))

    def pooled(self, name: str, levels: Sequence[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
        """What the branch `name` sees of `boxes`: (N, C, S, S), channels_last."""
        return self.view(name, levels, boxes, images).pooled

    def run_in_groups(
        self, name: str, levels: Sequence[Tensor], boxes: Tensor, images: Tensor
    ) -> BranchOutput:
        """As `run`, on a CPU some RoIs at a time: one does not depend on another in detection."""
        if torch.compiler.is_exporting():
            return self._run_exported(name, levels, boxes, images)
        size = GROUP if boxes.is_cpu else max(len(boxes), 1)
        groups = zip(torch.split(boxes, size), torch.split(images, size), strict=True)
        return join_outputs([self.run(name, levels, *group) for group in groups])

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

    def regressor(self, name: str) -> Regressor:
        """How the branch `name` says a box."""
        regressor = self.branch(name).reg
        assert regressor is not None  # the configuration was checked: this branch predicts boxes
        return regressor

    def losses(
        self,
        levels: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        sizes: Tensor,
    ) -> dict[str, Tensor]:
        """loss_<branch>_cls and loss_<branch>_reg, weighted by ω and λ.

        in   proposals  (n, 4) float32 xyxy of each image;  sizes  (B, 2) int64 height, width
        """
        learnt = self.learn(levels, self.sample(proposals, targets))[0]
        return learnt | self.judge_losses(levels, targets, sizes) if self.judges else learnt

    def judge_losses(
        self, levels: Sequence[Tensor], targets: Sequence[Target], sizes: Tensor
    ) -> dict[str, Tensor]:
        """loss_<branch>_iou, weighted by ω, of boxes that are made around the objects."""
        [name] = self.judges
        made = self.jitter(targets, sizes)
        empty = not len(made.boxes)
        if empty:  # any box, so that all weights take part
            box, zero = made.boxes.new_tensor([[0, 0, 32, 32]]), made.labels.new_zeros(1)
            made = Judged(box, zero, zero, made.ious)
        output = self.run(name, levels, made.boxes, made.images)
        assert output.ious is not None  # it is what this branch is for
        said = output.ious.gather(1, made.labels[:, None])[:, 0]
        branch = self.branch(name)
        loss = said.sum() * 0 if empty else branch.iou_error(said, made.ious)
        return {f"loss_{name}_iou": loss * branch.weight("iou")}

    @torch.no_grad()
    def jitter(self, targets: Sequence[Target], sizes: Tensor) -> Judged:
        """Boxes around the objects of each image, and the IoU that each has with its object."""
        config, parts = self.config.jitter, []
        for index, (target, size) in enumerate(zip(targets, sizes, strict=True)):
            boxes, rows = jitter_boxes(target.boxes, config.samples, config.least_iou, size)
            ious = paired_iou(boxes, target.boxes[rows])
            parts.append((boxes, torch.full_like(rows, index), target.labels[rows], ious))
        return Judged(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def judge(
        self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor, labels: Tensor
    ) -> Tensor:
        """The IoU (N,) float32 that boxes (N, 4) of classes `labels` (N,) are predicted to have."""
        [name] = self.judges
        said = self.run_in_groups(name, levels, boxes, images).ious
        assert said is not None  # it is what this branch is for
        return self.branch(name).read_iou(said.gather(1, labels[:, None])[:, 0])

    def climb(
        self,
        levels: Sequence[Tensor],
        boxes: Tensor,
        images: Tensor,
        labels: Tensor,
        steps: int,
        length: float,
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, 4) moved up the gradient of their predicted IoU, and that IoU (N,).

        Δ = λ ∂IoU/∂b · (w, h, w, h) ("Acquisition of Localization Confidence", Alg. 2). A box stops
        when a step changes its IoU by less than `STILL`, or lowers it by more than `WORSE`: that
        step is taken back, as is one that leaves it less than a pixel wide or high.
        """
        with torch.inference_mode(False), torch.enable_grad():
            levels = [level.clone() for level in levels]
            boxes, images, labels = boxes.clone(), images.clone(), labels.clone()
            moving = torch.ones_like(labels, dtype=torch.bool)
            # A box whose step is taken back moves no more: its slope there is not asked for
            at = boxes.clone().requires_grad_()
            ious = self._judge_precisely(levels, at, images, labels)
            best = ious.detach()
            for _ in range(steps if len(boxes) else 0):
                [slope] = torch.autograd.grad(ious.sum(), at)
                sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
                ahead = boxes + length * slope * sides
                moving = moving & self.rules.has_area(ahead, 1.0)
                at = torch.where(moving[:, None], ahead, boxes).detach().requires_grad_()
                ious = self._judge_precisely(levels, at, images, labels)
                gain = ious.detach() - best
                worse = gain < -WORSE
                moving = moving & (gain.abs() >= STILL) & ~worse
                boxes = torch.where(worse[:, None], boxes, at.detach())
                best = torch.where(worse, best, ious.detach())
                if not moving.any():
                    break
            return boxes, best

    def _judge_precisely(
        self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor, labels: Tensor
    ) -> Tensor:
        """As `judge`, with a gradient to the boxes."""
        [name] = self.judges
        branch = self.branch(name)
        cells = self.pool.integrate(levels, boxes, images, branch.config.roi_scale)
        said: Tensor = branch(cells).ious
        return branch.read_iou(said.gather(1, labels[:, None])[:, 0])

    def learn(
        self, levels: Sequence[Tensor], rois: Rois, *, of_all: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, BranchOutput]]:
        """The losses, and what each branch says of the `rois` that its loss reads, or `of_all`."""
        losses: dict[str, Tensor] = {}
        outputs = {}
        for name in self.taught:
            outputs[name] = self.run(name, levels, rois.boxes, rois.images)
            losses |= self.branch_losses(name, outputs[name], rois, len(rois.classes))
        said = {name: (output, rois) for name, output in outputs.items()}
        return losses | self.margin_losses(said, levels), outputs

    def margin_losses(self, said: Said, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """The losses between branches; see `disentangle.margin_losses`."""
        if self.disentangle is None:
            return {}
        branches = {name: self.branch(name) for name in self.branches}
        return margin_losses(branches, said, len(levels[0]))

    def branch_losses(
        self, name: str, output: BranchOutput, rois: Rois, sampled: int
    ) -> dict[str, Tensor]:
        """The weighted losses of one branch, of what it says about n `rois` of the `sampled`."""
        branch = self.branch(name)
        losses: dict[str, Tensor] = {}
        if output.logits is not None:
            loss = classification_loss(output.logits, rois.classes)
            losses[f"loss_{name}_cls"] = loss * branch.weight("cls")
        if output.boxes is not None and branch.reg is not None:
            placed = rois._replace(boxes=output.placed(rois.boxes))
            loss = branch.reg.loss(output.boxes, placed, sampled)
            losses[f"loss_{name}_reg"] = loss * branch.weight("reg")
        return losses

    def parts(self) -> dict[str, nn.Module]:
        """The modules by name, in the order they run."""
        moves = {} if self.disentangle is None else {"disentangle": self.disentangle}
        branches = {f"{name} branch": x for name, x in self.branches.items()}
        return {"pool": self.pool} | moves | branches

    def predictors(self) -> dict[str, Predictor]:
        """The tensors that have rows by class; see the contract."""
        return {
            f"branches.{name}.{tensor}": rows
            for name in self.branches
            for tensor, rows in self.branch(name).predictors().items()
        }

    def notes(self) -> list[str]:
        """What a user should know of how the branches train."""
        return []

    @torch.no_grad()
    def sample(self, proposals: Sequence[Tensor], targets: Sequence[Target]) -> Rois:
        """Choose the RoIs that carry a loss from the proposals and the objects themselves."""
        config = self.config
        parts = []
        for index, (boxes, target) in enumerate(zip(proposals, targets, strict=True)):
            added = torch.arange(len(boxes) + len(target.boxes), device=boxes.device) >= len(boxes)
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
            images = torch.full_like(chosen, index)
            parts.append((boxes[chosen], images, classes, goals, added[chosen]))
        return Rois(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def detect(
        self,
        read_outs: Sequence[ReadOut],
        levels: Sequence[Tensor],
        boxes: Tensor,
        images: Tensor,
        sizes: Tensor,
        threshold: float,
        gate: float = 0.0,
        earlier: Mapping[str, Sequence[Tensor]] = NOTHING,
    ) -> list[Scored]:
        """By each of `read_outs`, every class of every proposal that scores above `threshold`.

        No branch runs twice. One that only refines boxes runs on the proposals that still can
        become a detection; what it says of the others would be thrown away, so the result is the
        same. Fused scores need both branches on all proposals; a `gate` leaves out those that no
        class scores that high in the first branch, which does change the result. It saves work
        where all of `read_outs` are fused.

        in   boxes  (N, 4) float32 xyxy;  images  (N,) int64;  sizes  (B, 2) int64 height, width
             earlier  logits (N, K+1) that others gave by branch, to be averaged with its own
        """
        first, *others = self.all_scorers(read_outs)
        outputs = {first: self._average(first, levels, boxes, images, earlier)}
        passed = torch.arange(boxes.shape[0], device=boxes.device)
        fused = [one for one in read_outs if len(self.scorers(one)) > 1] if gate else []
        if fused and len(fused) == len(read_outs):
            passed = _pass_gate(outputs[first], gate)
            outputs[first] = outputs[first].take(passed)
            boxes, images = boxes[passed], images[passed]
            earlier = {name: [x[passed] for x in given] for name, given in earlier.items()}
        outputs |= {name: self._average(name, levels, boxes, images, earlier) for name in others}
        found = []
        for read_out in read_outs:
            scored = self._read(read_out, outputs, levels, boxes, images, threshold)
            if read_out in fused and len(fused) < len(read_outs):
                open_to = _pass_gate(outputs[self.scorers(read_out)[0]], gate)
                scored = scored.where(torch.isin(scored.rows, open_to))
            found.append(scored._replace(rows=passed[scored.rows]))
        return found

    def _average(
        self,
        name: str,
        levels: Sequence[Tensor],
        boxes: Tensor,
        images: Tensor,
        earlier: Mapping[str, Sequence[Tensor]],
    ) -> BranchOutput:
        """What the branch `name` says, its logits averaged with the `earlier` ones."""
        output = self.run_in_groups(name, levels, boxes, images)
        if not earlier or output.logits is None:
            return output
        every = [*earlier[name], output.logits]
        return output._replace(logits=torch.stack(every).mean(0))

    def _read(
        self,
        read_out: ReadOut,
        outputs: Mapping[str, BranchOutput],
        levels: Sequence[Tensor],
        boxes: Tensor,
        images: Tensor,
        threshold: float,
    ) -> Scored:
        """What `read_out` finds in what the branches say of `boxes`."""
        scores = self.scores(read_out, outputs)
        above = scores[:, 1:] > threshold
        rows, labels = torch.nonzero(above, as_tuple=True)
        output, own = outputs.get(read_out.boxes), rows
        if output is None:  # a branch that does not score: no other read-out has its boxes
            alive = above.any(dim=1)
            kept = torch.nonzero(alive).flatten()
            boxes = boxes[kept]
            output = self.run_in_groups(read_out.boxes, levels, boxes, images[kept])
            own = (alive.long().cumsum(0) - 1)[rows]
        said, regressor = output.boxes, self.regressor(read_out.boxes)
        assert said is not None  # the configuration was checked: this branch predicts boxes
        found, confidence = scores[rows, labels + 1], regressor.confidence(said, own)
        found = found if confidence is None else found * confidence
        placed = regressor.decode(said, output.placed(boxes), own, labels)
        return Scored(rows, labels, found, placed)

    def all_scorers(self, read_outs: Sequence[ReadOut]) -> list[str]:
        """The branches whose scores some of `read_outs` needs, in their order."""
        wanted = {name for read_out in read_outs for name in self.scorers(read_out)}
        return [name for name in self.branches if name in wanted]

    @torch.no_grad()
    def refine(
        self,
        outputs: Mapping[str, BranchOutput],
        boxes: Tensor,
        images: Tensor,
        sizes: Tensor,
        classes: Tensor | None = None,
    ) -> Tensor:
        """The boxes (N, 4) that what is said of `boxes` makes of them, within their images.

        The branch is that of the configured read-out. A box of each class is that of the class
        that an object is known to have, else of the one that scores best.

        in   boxes  (N, 4) float32 xyxy;  images  (N,) int64;  sizes  (B, 2) int64 height, width
             classes  (N,) int64 in training, 0 for background, else label + 1
        """
        output = outputs[self.read_out.boxes]
        regressor, said = self.regressor(self.read_out.boxes), output.boxes
        assert said is not None  # see `regressor`
        labels = self._rank(outputs)[:, 1:].argmax(1)
        if classes is not None:
            labels = torch.where(classes > 0, classes - 1, labels)
        rows = torch.arange(boxes.shape[0], device=boxes.device)
        refined = regressor.decode(said, output.placed(boxes), rows, labels)
        return self.rules.clip(refined, sizes[images])

    def _rank(self, outputs: Mapping[str, BranchOutput]) -> Tensor:
        """What orders the classes (N, K+1): logits, which do not vanish, if one branch scores."""
        logits = outputs[self.read_out.scores].logits if self.read_out.scores in outputs else None
        return self.scores(self.read_out, outputs) if logits is None else logits

    def scorers(self, read_out: ReadOut) -> list[str]:
        """The branches whose scores `read_out` needs."""
        if read_out.scores not in FUSIONS:
            return [read_out.scores]
        return [branch.name for branch in readers(self.config.branches, "cls")]

    def scores(self, read_out: ReadOut, outputs: Mapping[str, BranchOutput]) -> Tensor:
        """Probabilities (N, K+1) float32, from what the `scorers` of `read_out` say."""
        logits = [outputs[name].logits for name in self.scorers(read_out)]
        scores = [x.float().softmax(dim=1) for x in logits if x is not None]
        if len(scores) == 1:
            return scores[0]
        return fuse_scores(scores[0], scores[1], read_out.scores)


def join_outputs(outputs: Sequence[BranchOutput]) -> BranchOutput:
    """What a branch says of some RoIs after others as one."""
    columns = zip(*outputs, strict=True)
    return BranchOutput(*(None if of[0] is None else torch.cat(of) for of in columns))


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
