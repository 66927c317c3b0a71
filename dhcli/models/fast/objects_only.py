"""A head whose branches train on objects only, if they only refine boxes.

Only objects have a regression loss. So of a branch that does not classify,

    its trunk's norms                    RoIs that go in     RoIs that come out
    do not see the batch (GroupNorm)     objects             objects
    see the batch (batch norm learns)    all: the objects'   objects, where the trunk can leave
                                         numbers depend on   the others out of its last block
                                         the others'         (ConvTrunk); else all

and of one that classifies, all go in and come out. Exact: what is left out has no loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.models.fast.norms import take_rows
from dhcli.models.two_stage.branches import (
    BottleneckBlock,
    Branch,
    BranchOutput,
    ConvTrunk,
    WideningBlock,
)
from dhcli.models.two_stage.head import Head, join_outputs
from dhcli.models.two_stage.rois import Rois


class ObjectsHead(Head):
    """A head that runs its branches on the RoIs that their losses read."""

    def learn(
        self, levels: Sequence[Tensor], rois: Rois, *, of_all: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, BranchOutput]]:
        objects = _objects(rois.classes)
        losses: dict[str, Tensor] = {}
        outputs, said = {}, {}
        for name in self.branches:
            branch = self.branch(name)
            inside = slice(None) if why_all(branch) else objects
            pooled, placed = self.view(name, levels, rois.boxes[inside], rois.images[inside])
            rows: Tensor | slice = inside
            if not of_all and why_all(branch) and _can_leave_out(branch):
                rows = objects
                output = branch.predict(branch.trunk(pooled, objects))
                placed = None if placed is None else placed[objects]
            else:
                output = branch(pooled)
            output = output._replace(rois=placed)
            said[name] = (output, rois.take(rows))
            losses |= self.branch_losses(name, *said[name], len(rois.classes))
            if of_all and isinstance(rows, Tensor):
                output = self._with_others(name, output, levels, rois, rows)
            outputs[name] = output
        return losses | self.margin_losses(said, levels), outputs

    @torch.no_grad()
    def _with_others(
        self, name: str, output: BranchOutput, levels: Sequence[Tensor], rois: Rois, rows: Tensor
    ) -> BranchOutput:
        """What a branch says of all `rois`, of what it says of `rows`: the others have no loss."""
        others = torch.ones_like(rois.classes, dtype=torch.bool)
        others[rows] = False
        rest = torch.nonzero(others).flatten()
        said = self.run(name, levels, rois.boxes[rest], rois.images[rest])
        back = torch.argsort(torch.cat([rows, rest]))
        return join_outputs([output, said]).take(back)

    def notes(self) -> list[str]:
        branches = {name: self.branch(name) for name in self.branches}
        return [
            f"the branch `{name}` trains on all sampled RoIs, not only on objects: {why}"
            for name, branch in branches.items()
            if branch.cls is None and (why := why_all(branch)) is not None
        ]


def why_all(branch: Branch) -> str | None:
    """Why training must run `branch` on all sampled RoIs; None: objects alone give the same."""
    if branch.cls is not None:
        return "it classifies"
    norms = (isinstance(m, nn.BatchNorm2d) and m.training for m in branch.trunk.modules())
    return "its batch norm depends on the others (norm: gn does not)" if any(norms) else None


def _can_leave_out(branch: Branch) -> bool:
    """Whether the loss reads nothing but objects, and the trunk can leave the others out."""
    return branch.cls is None and isinstance(branch.trunk, ObjectsTrunk)


def _objects(classes: Tensor) -> Tensor:
    """Rows (n,) of the objects; the first where there is none, so that all weights take part."""
    rows = torch.nonzero(classes).flatten()
    return rows if len(rows) else torch.arange(min(1, len(classes)), device=classes.device)


class ObjectsTrunk(ConvTrunk):
    """A conv trunk whose last block's widest layer runs on the wanted rows (n,) alone."""

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        *blocks, last, mean = self
        for block in blocks:
            x = block(x)
        means: Tensor = mean(last(x, rows))
        return means


class ObjectsWideningBlock(WideningBlock):
    """Ours, of which only the wanted rows (n,) are given."""

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return F.relu_(self.main(x, rows).add_(self.shortcut(x, rows)))


class ObjectsBottleneckBlock(BottleneckBlock):
    """Ours, of which only the wanted rows (n,) are given."""

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return F.relu_(self.main(x, rows).add_(take_rows(x, rows)))
