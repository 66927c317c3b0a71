"""What commands need to know of a model, without torch: its read-outs and parts.

A read-out is whose scores, or which fusion of them, beside whose boxes. Only a head of branches has
several; any other kind of model has one.
"""

from __future__ import annotations

from typing import NamedTuple

from dhcli.config.schema import FUSIONS, Head, TwoStage, predicts, read_out_problem, readers
from dhcli.config.schema.base import Section
from dhcli.errors import ConfigError


class ReadOut(NamedTuple):
    """One way to read a model.

    scores  name of the branch that scores, or of the fusion of both (`FUSIONS`)
    boxes   name of the branch that places the boxes
    """

    scores: str
    boxes: str


ONLY = ReadOut("model", "model")
"""The read-out of a model that has one."""


def choose_read_out(model: Section, scores: str | None, boxes: str | None) -> ReadOut:
    """The read-out that the section `model` is configured for, but for what is given here.

    Raises ConfigError that says why the model cannot be read so, and how it can.
    """
    if isinstance(model, TwoStage):
        return _choose(model.head, scores, boxes)
    for key, value in (("scores", scores), ("boxes", boxes)):
        if value not in (None, "auto"):
            what = f"a model of kind `{getattr(model, 'kind', '')}` can be read in one way only"
            raise ConfigError(what, where=f"--{key}", hint=f"leave out --{key}")
    return ONLY


def with_read_out(model: Section, scores: str | None, boxes: str | None) -> Section:
    """The section `model` configured to be read so, None leaving a choice as it is.

    Raises ConfigError as `choose_read_out`.
    """
    choose_read_out(model, scores, boxes)
    if not isinstance(model, TwoStage):
        return model  # `auto`, its only read-out
    given = {"scores": scores, "boxes": boxes}
    chosen = {key: value for key, value in given.items() if value is not None}
    return model.model_copy(update={"head": model.head.model_copy(update=chosen)})


def part_of(tensor: str, *, fine: bool = False) -> str:
    """The part of the network that a tensor of a state dict belongs to: `backbone`, `head fc`, ….

    `head disentangle` says where the branches with RoIs of their own look.

    With `fine`, what of a branch too: `head fc cls`. In a cascade after its stage: `head 0 fc`.
    """
    first, *rest = tensor.split(".")
    stage = rest[1:2] if rest[:1] == ["stages"] else []
    kind, *own = rest[2 * len(stage) :] or ("",)
    if first != "head" or kind not in ("branches", "disentangle"):
        return first
    return " ".join(("head", *stage, *(own[: 2 if fine else 1] if kind == "branches" else [kind])))


def stage_heads(head: Head) -> list[Head]:
    """The head of each stage of the cascade `head`: its branches, with what is the stage's own."""
    return [
        head.model_copy(
            update={
                "positive_iou": stage.positive_iou,
                "box_std": stage.box_std,
                "branches": tuple(
                    branch.model_copy(update={"omega": branch.omega * stage.weight})
                    for branch in head.branches
                ),
                "cascade": (),
            }
        )
        for stage in head.cascade
    ]


def own_read_out(head: Head) -> ReadOut:
    """The read-out that `head` is configured for, `auto` resolved."""
    able = readers(head.branches, "cls")
    auto = "complementary" if len(able) == 2 else able[0].name
    return ReadOut(
        auto if head.scores == "auto" else head.scores,
        _box_branch(head) if head.boxes == "auto" else head.boxes,
    )


def all_read_outs(head: Head) -> list[ReadOut]:
    """Each branch alone, then the boxes of the branch that focuses on them with other scores.

    Of Double-Head-Ext these are Fig. 6's four and Table 3's fusions. Branches with RoIs of their
    own are fused with one another, not with those that train beside them.
    """
    scorers, boxers, box = _able(head, "cls"), _able(head, "reg"), _box_branch(head)
    alone = [ReadOut(name, name) for name in scorers if name in boxers]
    crossed = [ReadOut(name, box) for name in scorers if name != box]
    fused = [ReadOut(fusion, box) for fusion in FUSIONS if len(readers(head.branches, "cls")) == 2]
    return alone + crossed + fused


def _choose(head: Head, scores: str | None, boxes: str | None) -> ReadOut:
    for key, value, task in (("scores", scores, "cls"), ("boxes", boxes, "reg")):
        if value is None:
            continue
        if problem := read_out_problem(value, head.branches, task):
            raise ConfigError(problem, where=f"--{key}")
        head = head.model_copy(update={key: value})
    return own_read_out(head)


def _able(head: Head, task: str) -> list[str]:
    return [branch.name for branch in head.branches if predicts(branch, task)]


def _box_branch(head: Head) -> str:
    """The branch that focuses on boxes, else the one that predicts them at all."""
    able = readers(head.branches, "reg")
    return next((branch for branch in able if branch.focus == "reg"), able[0]).name
