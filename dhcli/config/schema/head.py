"""`model.head`: branches on the proposals, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from dhcli.config.schema.base import (
    AtLeastOne,
    ByKind,
    Channels,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Section,
)
from dhcli.words import first_twice

_MODULE_NAMES = frozenset(
    """T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu
    cuda double dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
    get_submodule half ipu items keys load_state_dict modules mtia named_buffers named_children
    named_modules named_parameters parameters pop register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state_dict to to_empty train training type update values xpu
    zero_grad""".split()  # noqa: SIM905 - a line each otherwise
)
"""What nn.ModuleDict has beside its modules: no module can be called so."""


def _branch_name(name: str) -> str:
    """`name`, or ValueError where it cannot stand among weights, keys and read-outs."""
    if not re.fullmatch(r"[^\W_][\w-]*", name):
        raise ValueError("a branch's name is letters, digits, `-` and `_`, and begins with no sign")
    if name in ("auto", "rpn", *FUSIONS):  # a loss of that name would replace the RPN's
        raise ValueError(f"`{name}` means something else among read-outs and losses")
    if name in _MODULE_NAMES:
        raise ValueError(f"torch has a meaning of its own for `{name}`")
    return name


BranchName = Annotated[
    str,
    AfterValidator(_branch_name),
    Field(
        description="Name of the branch in weights, losses and read-outs: letters, digits, `-` "
        "and `_`."
    ),
]
Focus = Annotated[
    Literal["cls", "reg", "iou"],
    Field(
        description="The task with weight λ. The other has 1 − λ, and no predictor if that is 0. "
        "iou: it only predicts the IoU of boxes, λ is 1."
    ),
]


class Deltas(Section):
    """How a branch says a box: a shift and a change of size."""

    kind: Literal["deltas"] = "deltas"
    """deltas: a shift and a change of size of the RoI (R-CNN)."""


class Buckets(Section):
    """How a branch says a box: each side on its own, a bucket and an offset within it."""

    kind: Literal["buckets"] = "buckets"
    """buckets: for each side one of the places around the RoI where it can be, and how far from
    there (SABL). How sure the places are multiplies the score. All classes share them."""
    count: Annotated[int, Field(ge=4, le=256, multiple_of=2)] = 14
    """Buckets that the enlarged RoI is cut into, as wide and as high; half of them for a side."""
    scale: Positive = 1.7
    """Factor that enlarges the RoI about its centre before it is cut."""
    beta: NonNegative = 0.1
    """Where the loss of the offsets turns from quadratic to linear, in buckets (0: plain L1)."""


AnyRegressor: TypeAlias = Deltas | Buckets
"""Every way to say a box."""


class SharedRoi(Section):
    """What RoI a branch reads."""

    kind: Literal["shared"] = "shared"
    """shared: the proposal, as other branches do."""

    def in_words(self) -> str:
        """A few words; none of the usual one."""
        return ""


class DisentangledRoi(Section):
    """What RoI a branch reads."""

    kind: Literal["disentangled"]
    """disentangled: one of its own, moved to where the features of the proposal say (TSD)."""
    move: Literal["auto", "cells", "box"] = "auto"
    """cells: each cell of the RoI moves on its own; box: the RoI moves as a whole, and the box is
    refined from there; auto: cells for the focus cls, box for reg (the best pairing in the
    paper)."""
    reach: Positive = 0.1
    """γ, by which a move is multiplied; it counts in widths and heights of the RoI."""
    margin: Fraction = 0.3
    """Progressive constraint: by how much the branch is to beat one that reads the shared RoI, in
    the score of the right class or in the IoU of the box. 0: no such loss (none is needed then)."""
    width: Channels = 256
    """Outputs of the layers that say where to move; the first of them is shared."""
    samples: Annotated[int, Field(ge=1, le=16)] = 2
    """Samples per side of a cell (the authors' code: 4)."""

    def in_words(self) -> str:
        """A few words; none of the usual one."""
        return f", of its own, margin {self.margin:g}"


AnyRoi: TypeAlias = SharedRoi | DisentangledRoi
"""Every way for a branch to find its RoI."""


class BranchBase(Section):
    """What every branch has: its name, and how its losses are weighed."""

    kind: str
    name: BranchName
    focus: Focus = "cls"
    omega: NonNegative = 1.0
    """ω, weight of the branch's loss (Eq. 1)."""
    lambda_: Annotated[Fraction, Field(alias="lambda")] = 1.0
    """λ, weight of the focused task within the branch (Eq. 2, 3)."""
    roi_scale: Positive = 1.0
    """Factor that enlarges the RoI about its centre before pooling (public implementations: 1.3 for
    the conv branch)."""
    roi: Annotated[AnyRoi, ByKind("shared")] = SharedRoi()
    reg: Annotated[AnyRegressor, ByKind("deltas")] = Deltas()

    def describe(self) -> list[tuple[str, str]]:
        """Its kind and weights."""
        text = f"{self.kind}, focus {self.focus}, ω {self.omega:g}, λ {self.lambda_:g}, "
        roi = f"RoI × {self.roi_scale:g}{self.roi.in_words()}"
        boxes = ", boxes by buckets" if says_buckets(self) else ""
        return [(f"{self.name} branch", f"{text}{roi}{boxes}")]


class FcBranch(BranchBase):
    """Fully connected layers: sensitive to position, good at scoring."""

    kind: Literal["fc"]
    """fc: fully connected layers."""
    name: BranchName = "fc"
    width: Channels = 1024
    """Outputs of each layer."""
    layers: Annotated[int, Field(ge=1, le=64)] = 2
    """Number of layers."""


class ConvBranch(BranchBase):
    """Residual blocks and average pooling: the same weights for all cells, good at locating."""

    kind: Literal["conv"]
    """conv: residual blocks."""
    name: BranchName = "conv"
    focus: Focus = "reg"
    width: Annotated[int, Field(ge=4, le=4096, multiple_of=4)] = 1024
    """Channels of the blocks; their inner layers have a quarter of them."""
    residual: Annotated[int, Field(ge=1, le=64)] = 5
    """Residual blocks: the widening one (Fig. 5a), then bottlenecks (Fig. 5b)."""
    non_local: Count = 0
    """Non-local blocks (Fig. 5c), one before each of the first bottlenecks."""
    non_local_groups: AtLeastOne = 4
    """Groups that the channels of a non-local block are split into."""
    non_local_normalise: Literal["count", "softmax"] = "count"
    """count: divide affinities by the number of cells (the authors' code); softmax: use softmax."""
    norm: Literal["bn", "gn", "frozen_bn"] = "bn"
    """Norm of the blocks. gn (GroupNorm) does not depend on the batch."""

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.non_local >= self.residual:
            raise ValueError(
                f"{self.non_local} non-local blocks need as many bottlenecks after the first "
                f"block, but there are {self.residual - 1}"
            )
        if self.non_local and (self.width // 2) % self.non_local_groups:
            raise ValueError(f"width / 2 must divide into {self.non_local_groups} groups")
        return self


class SideBranch(BranchBase):
    """Convolutions, then a row and a column that are looked at for each side: good at locating."""

    kind: Literal["side"]
    """side: features of the four sides (SABL). It only places boxes, by buckets."""
    name: BranchName = "side"
    focus: Focus = "reg"
    width: Channels = 256
    """Channels of all layers."""
    pre: Count = 2
    """3×3 convolutions before the cells become a row and a column."""
    post: Count = 1
    """Convolutions along the row, and along the column."""
    reg: Annotated[Buckets, ByKind("buckets")] = Buckets()

    @model_validator(mode="after")
    def _only_boxes(self) -> Self:
        if self.focus != "reg" or self.lambda_ != 1:
            raise ValueError("a `side` branch only places boxes: `focus: reg` and `lambda: 1`")
        return self


class Res5Branch(BranchBase):
    """The backbone's last stage on each RoI of C4, as in Faster R-CNN before the pyramid.

    Depth, norm, stride and the initial weights are the backbone's.
    """

    kind: Literal["res5"]
    """res5: the backbone's last stage."""
    name: BranchName = "res5"


class Jitter(Section):
    """The boxes that a branch with focus `iou` learns from: made around objects (IoU-Net)."""

    samples: AtLeastOne = 1000
    """Boxes per image, as many of each object and of each tenth of IoU."""
    least_iou: Annotated[float, Field(ge=0.3, le=0.9)] = 0.5
    """Lowest IoU with the object, in tenths."""


AnyBranch: TypeAlias = FcBranch | ConvBranch | SideBranch | Res5Branch
"""Every kind of branch."""


Deviations: TypeAlias = tuple[Positive, Positive, Positive, Positive]


class Stage(Section):
    """A stage of a cascade: the head again, on the boxes of the stage before."""

    positive_iou: Fraction = 0.5
    """A box with at least this IoU is an object."""
    box_std: Deviations = (0.1, 0.1, 0.2, 0.2)
    """Standard deviations that its box deltas are divided by."""
    bucket_scale: Positive | None = None
    """Replaces the `scale` of boxes by buckets; none: as the branch has it."""
    weight: Positive = 1.0
    """Weight of its losses; ω is multiplied by it."""


class Head(Section):
    """One or two branches on the proposals. Every detector of the paper is a choice of branches."""

    branches: Annotated[
        tuple[Annotated[AnyBranch, ByKind()], ...], Field(min_length=1, max_length=5)
    ] = (FcBranch(kind="fc"), ConvBranch(kind="conv"))
    """The branches, at most two for each kind of `roi`, and one with `focus: iou`. `--set` finds
    one by its name: `model.head.branches.fc.omega=2`."""
    scores: str = "auto"
    """A branch's name, or `max`, `average`, `complementary` (Eq. 4) of both; auto: complementary
    if both branches classify, else the one that does. Of branches with RoIs of their own, if there
    are some."""
    boxes: str = "auto"
    """Name of the branch whose boxes are used; auto: the one that focuses on them, with RoIs of its
    own if there is one."""
    class_agnostic: bool = False
    """One box regression for all classes instead of one per class."""
    background_box: bool = False
    """Add a box regression for the background, which is not used (maskrcnn-benchmark,
    torchvision)."""
    positive_iou: Fraction = 0.5
    """A proposal with at least this IoU is an object."""
    samples: AtLeastOne = 512
    """RoIs per image used in the loss."""
    positive_fraction: Fraction = 0.25
    """Largest share of objects among `samples`."""
    smooth_l1_beta: NonNegative = 1.0
    """Where the regression loss turns from quadratic to linear (0: plain L1)."""
    box_std: Deviations = (0.1, 0.1, 0.2, 0.2)
    """Standard deviations that the box deltas are divided by."""
    jitter: Jitter = Jitter()
    iou_loss: Literal["binary", "smooth_l1"] = "binary"
    """Loss of a branch with focus `iou`. binary: binary cross entropy of the IoU; smooth_l1: smooth
    L1 of (IoU − 0.5) / 0.5 (the IoU-Net paper). Models trained with one cannot be read with the
    other."""
    cascade: tuple[Stage, ...] = ()
    """Stages of a cascade ("Cascade R-CNN"), each with branches of its own: it learns and refines
    the boxes of the stage before. Their `positive_iou` and `box_std` replace the head's. A list of
    `{positive_iou: 0.5, box_std: [0.1, 0.1, 0.2, 0.2], weight: 1}`; empty: one stage."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cascade and any(isinstance(branch, Res5Branch) for branch in self.branches):
            raise ValueError("`cascade`: each stage needs layers of its own; there is one `res5`")
        if twice := first_twice([branch.name for branch in self.branches]):
            raise ValueError(f"two branches are named `{twice}`; give one another name")
        for task in ("cls", "reg"):
            if not any(predicts(branch, task) for branch in self.branches):
                raise ValueError(f"no branch predicts `{task}`: check focus and lambda")
        if problem := _judge_problem(self) or _roi_problem(self.branches):
            raise ValueError(problem)
        for key, value, task in (("scores", self.scores, "cls"), ("boxes", self.boxes, "reg")):
            if problem := read_out_problem(value, self.branches, task):
                raise ValueError(f"`{key}`: {problem}")
        return self

    def describe(self) -> list[tuple[str, str]]:
        """The stages, if it is a cascade."""
        if not self.cascade:
            return []
        ious = ", ".join(f"{stage.positive_iou:g}" for stage in self.cascade)
        return [("cascade", f"{len(self.cascade)} stages of these branches, IoU {ious}")]


FUSIONS = ("max", "average", "complementary")
"""Ways to fuse the scores of two classifiers (Table 3)."""


def _judge_problem(head: Head) -> str:
    """Why the branches that predict IoU cannot stand there; "" if they can."""
    judges = [branch for branch in head.branches if branch.focus == "iou"]
    if len(judges) > 1:
        return "two branches have `focus: iou`; there can be one with `focus: iou`"
    if any(branch.roi.kind != "shared" for branch in judges):
        return "a branch with `focus: iou` has `roi.kind: shared`"
    if any(branch.lambda_ != 1 or isinstance(branch, Res5Branch) for branch in judges):
        return "a branch with `focus: iou` is `fc` or `conv`, and its `lambda` is 1"
    if judges and head.cascade:
        return "a cascade has no branch with `focus: iou`"
    return ""


def predicts(branch: BranchBase, task: str) -> bool:
    """Whether `branch` has a predictor for `task` ("cls", "reg" or "iou"): its weight is not 0."""
    if "iou" in (branch.focus, task):
        return branch.focus == task
    return branch.lambda_ > 0 if branch.focus == task else branch.lambda_ < 1


def says_buckets(branch: BranchBase) -> bool:
    """Whether `branch` says boxes by buckets."""
    return predicts(branch, "reg") and isinstance(branch.reg, Buckets)


def readers(branches: Sequence[AnyBranch], task: str) -> list[AnyBranch]:
    """The branches that `task` ("cls" or "reg") is read from, unless one is named.

    Those with RoIs of their own, if there are some: the others only train beside them.
    """
    able = [branch for branch in branches if predicts(branch, task)]
    return [branch for branch in able if branch.roi.kind == "disentangled"] or able


def _roi_problem(branches: Sequence[AnyBranch]) -> str:
    """Why these branches cannot have the RoIs that they ask for; "" if they can."""
    shared = [one for one in branches if one.roi.kind == "shared" and one.focus != "iou"]
    own = [(branch, branch.roi) for branch in branches if isinstance(branch.roi, DisentangledRoi)]
    for kind, count in (("shared", len(shared)), ("disentangled", len(own))):
        if count > 2:
            return f"{count} branches have `roi.kind: {kind}`; there can be two"
    if len({roi.width for _, roi in own}) > 1:
        return "`roi.width` differs between branches, but they share their first layer"
    for branch, roi in own:
        for task in ("cls", "reg"):
            beaten = any(predicts(other, task) for other in shared)
            if roi.margin and predicts(branch, task) and not beaten:
                return (
                    f"`{branch.name}` has a `roi.margin`, but no branch on the shared RoI predicts "
                    f"`{task}`: add one, or set the margin to 0"
                )
    return ""


def read_out_problem(value: str, branches: Sequence[AnyBranch], task: str) -> str:
    """Why `value` cannot say where scores (`task` "cls") or boxes ("reg") come from; "" if it can.

    A branch can be named that predicts the task; where two classify, also a fusion.
    """
    able = [branch.name for branch in branches if predicts(branch, task)]
    fusions = FUSIONS if task == "cls" and len(readers(branches, task)) == 2 else ()
    choices = ["auto", *able, *fusions]
    if value in choices:
        return ""
    unable = [branch for branch in branches if not predicts(branch, task)]
    missing = "no classifier" if task == "cls" else "no box regression"
    reasons = [f"`{x.name}` has {missing} (its λ is {x.lambda_:g})" for x in unable]
    if task == "cls" and value in FUSIONS:
        reason = reasons[0] if reasons else "there is one branch"
        why = f"`{value}` fuses two classifiers, but {reason}"
    elif named := [why for x, why in zip(unable, reasons, strict=True) if x.name == value]:
        why = named[0]
    else:
        why = f"there is no `{value}`"
    return f"{why}; it can be {', '.join(choices)}"
