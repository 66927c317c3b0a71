"""RoIs of a branch's own, learned from the features of the proposal.

"Revisiting the Sibling Head in Object Detector" (TSD, task-aware spatial disentanglement): each
task looks where it is easiest. Scores come from cells that move one by one, boxes from a RoI that
moves as a whole; a branch that stays on the proposal is trained beside them, and is to be beaten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import AnyBranch, DisentangledRoi, predicts
from dhcli.models.two_stage.branches import Branch, BranchOutput
from dhcli.models.two_stage.pool import Pool, choose_levels
from dhcli.models.two_stage.rois import Rois
from dhcli.ops.boxes import box_area, enlarge_boxes
from dhcli.ops.deform_pool import Sampling, deform_pool


class View(NamedTuple):
    """What a branch sees of N RoIs.

    pooled  (N, C, S, S) float
    boxes   (N, 4) float32 xyxy, where the RoIs moved to; None: they did not
    """

    pooled: Tensor
    boxes: Tensor | None = None


class Disentangle(nn.Module):
    """From the features of the proposals to what each branch sees instead (Eq. 3, 5, 6).

    ΔR = γ F_r(F) · (w, h) moves the RoI, ΔC = γ F_c(F) · (w, h) each of its S × S cells. F_r and
    F_c are three layers, the first shared.
    """

    def __init__(self, branches: Sequence[AnyBranch], channels: int, pool: Pool) -> None:
        super().__init__()
        self.rois = {b.name: b.roi for b in branches if isinstance(b.roi, DisentangledRoi)}
        own = [branch for branch in branches if branch.name in self.rois]
        self.by_cells = {branch.name: moves_cells(branch) for branch in own}
        self.enlarged = {branch.name: branch.roi_scale for branch in own}
        self.size, self.strides, self.legacy = pool.size, pool.strides, pool.legacy
        self.level_epsilon = pool.level_epsilon
        width = self.rois[own[0].name].width  # the configuration was checked: all have the same
        inputs = channels * self.size**2
        self.shared = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU())
        self.moves = nn.ModuleDict()
        for name, by_cells in self.by_cells.items():
            outputs = 2 * self.size**2 if by_cells else 2
            layers = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
            self.moves[name] = nn.Sequential(*layers)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)

    def forward(
        self, name: str, shared: Tensor, levels: Sequence[Tensor], boxes: Tensor, images: Tensor
    ) -> View:
        """What the branch `name` sees instead of `shared`, the pooled RoIs (N, C, S, S).

        in   boxes  (N, 4) float32 xyxy;  images  (N,) int64
        """
        said = self.moves[name](self.shared(shared)).to(boxes.dtype)
        shares = said.unflatten(1, (2, -1)) * self.rois[name].reach  # (N, 2, 1 or S²)
        moves = shares.expand(-1, -1, self.size**2).unflatten(2, (self.size, self.size))
        pooled = self._pool(name, levels, boxes, images, moves)
        if self.by_cells[name]:
            return View(pooled)
        shift = shares[..., 0] * (boxes[:, 2:] - boxes[:, :2])
        return View(pooled, boxes + shift.repeat(1, 2))

    def _pool(
        self,
        name: str,
        levels: Sequence[Tensor],
        boxes: Tensor,
        images: Tensor,
        moves: Tensor,
    ) -> Tensor:
        """The cells, moved by `moves` (N, 2, S, S): (N, C, S, S). The level is the proposal's."""
        scale = self.enlarged[name]
        rois = torch.cat([images[:, None].to(boxes.dtype), enlarge_boxes(boxes, scale)], dim=1)
        level_of = choose_levels(boxes, self.strides, self.level_epsilon)
        sampling = Sampling(self.rois[name].samples, self.legacy)
        out = boxes.new_zeros(len(boxes), levels[0].shape[1], self.size, self.size)
        for index, stride in enumerate(self.strides):
            rows = torch.nonzero(level_of == index).flatten()
            if len(rows):
                features = levels[index].to(boxes.dtype)  # see `Pool.align`
                cells = deform_pool(features, rois[rows], moves[rows] / scale, stride, sampling)
                out = out.index_put((rows,), cells)
        return out.to(levels[0].dtype)


def moves_cells(branch: AnyBranch) -> bool:
    """Whether each cell of the RoI of `branch` moves on its own, rather than the whole RoI."""
    assert isinstance(branch.roi, DisentangledRoi)
    if branch.roi.move == "auto":
        return branch.focus == "cls"
    return branch.roi.move == "cells"


Said = Mapping[str, tuple[BranchOutput, Rois]]
"""What branches say, and of which RoIs."""


def margin_losses(branches: Mapping[str, Branch], said: Said, images: int) -> dict[str, Tensor]:
    """The progressive constraint: each disentangled branch is to beat one on the shared RoI.

    loss_<branch>_<task>_margin = mean of relu(q − p + min(m, 1 − q)), weighted as the branch's loss
    of the task (§3.3; the min as in the authors' code). p is what the branch reaches, q what the
    other does, without a gradient: of scores the probability of each RoI's class; of boxes the IoU
    with the object, of objects alone. An image without objects counts as a single 0, as there.
    """
    losses = {}
    for name, branch in branches.items():
        roi = branch.config.roi
        if not isinstance(roi, DisentangledRoi) or not roi.margin:
            continue
        for task, reach in (("cls", _probability), ("reg", _overlap)):
            if not predicts(branch.config, task):
                continue
            other = _sibling(branches, task)
            has = _with_objects(said[name][1], images)
            own = reach(branch, *said[name], has)
            theirs = reach(branches[other], *said[other], has).detach()
            gap = F.relu(theirs - own + (1 - theirs).clamp(max=roi.margin))
            mean = gap.sum() / (len(gap) + (~has).sum()).clamp(min=1)
            losses[f"loss_{name}_{task}_margin"] = mean * branch.weight(task)
    return losses


def _sibling(branches: Mapping[str, Branch], task: str) -> str:
    """The branch on the shared RoI that predicts `task`; the configuration sees to it."""
    return next(
        name
        for name, branch in branches.items()
        if not isinstance(branch.config.roi, DisentangledRoi) and predicts(branch.config, task)
    )


def _probability(branch: Branch, output: BranchOutput, rois: Rois, has: Tensor) -> Tensor:
    """Of the class of each of `rois` in the images that have objects (B,) bool: (n,) float32."""
    assert output.logits is not None
    rows = torch.nonzero(has[rois.images]).flatten()
    scores = output.logits[rows].to(rois.boxes.dtype).softmax(dim=1)
    return scores.gather(1, rois.classes[rows, None])[:, 0]


def _overlap(branch: Branch, output: BranchOutput, rois: Rois, has: Tensor) -> Tensor:
    """IoU of the box of each of P objects with what is said of it, not clipped: (P,) float32."""
    assert output.boxes is not None
    assert branch.reg is not None
    rows = torch.nonzero(rois.classes).flatten()
    labels = rois.classes[rows] - 1
    found = branch.reg.decode(output.boxes, output.placed(rois.boxes), rows, labels)
    goals = rois.goals[rows]
    low, high = torch.maximum(found[:, :2], goals[:, :2]), torch.minimum(found[:, 2:], goals[:, 2:])
    common = (high - low).clamp(min=0).prod(dim=1)
    return common / (box_area(found) + box_area(goals) - common).clamp(min=1e-9)


def _with_objects(rois: Rois, images: int) -> Tensor:
    """Whether each of the B = `images` of a batch has an object among `rois`: (B,) bool."""
    owners = rois.images[rois.classes > 0]
    return (torch.arange(images, device=owners.device)[:, None] == owners).any(dim=1)
