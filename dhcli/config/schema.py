"""The configuration tree: every setting, its default and its meaning, stated once.

Frozen pydantic models that refuse unknown keys. The description of a field is its documentation:
it feeds `docs/configuration.md`, the JSON schema for editors and the error messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


RESNETS: dict[str, tuple[Literal["basic", "bottleneck"], tuple[int, ...]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
"""Kind of block and number of blocks in each stage, by `model.backbone.name`."""


class Section(BaseModel):
    """A part of the tree: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )


class Data(Section):
    """Which images and boxes."""

    train: str | None = None
    """Dataset to train on: a folder or annotation file of any known format."""
    val: str | None = None
    """Dataset to validate on; left out, the val split of `train`."""
    train_split: str = "train"
    """Split of `train` to learn from. A dataset without splits is divided, see val_fraction."""
    val_split: str = "val"
    """Split to validate on."""
    val_fraction: Fraction = 0.2
    """Share of the images set aside for validation where the dataset names no splits."""
    classes: tuple[str, ...] | None = None
    """Class names in order; left out, those of the dataset."""
    others: Literal["error", "ignore", "drop"] = "error"
    """Boxes of classes not in `classes`: an error, regions to ignore, or left out."""
    difficult: Literal["ignore", "keep"] = "ignore"
    """Boxes marked difficult: regions to ignore in training, or ordinary objects."""
    empty: Literal["keep", "drop"] = "keep"
    """Images without objects."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An unreadable image found before training: stop and name it, or leave it out."""


class Input(Section):
    """How an image becomes a tensor."""

    min_size: AtLeastOne = 800
    """Shortest side after resizing, in pixels."""
    max_size: AtLeastOne = 1333
    """Longest side after resizing, in pixels; it wins over min_size."""
    divisor: AtLeastOne = 32
    """Height and width of a batch are padded to multiples of this."""
    resize: Literal["plain", "torchvision", "maskrcnn_benchmark"] = "plain"
    """Rounding of the new sides. plain: to the nearest (MMDetection, detectron2); torchvision:
    down; maskrcnn_benchmark: the short one to the nearest, the long one down."""
    interpolation: Literal["pil", "cv2", "float"] = "pil"
    """Bilinear resizing: Pillow's (antialiased), OpenCV's, or torch's without rounding."""
    exif: bool = True
    """Turn an image upright as its EXIF orientation says."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the colour channels the network sees."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Mean of each channel on the 0–255 scale, in the order of `channels`."""
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    """Deviation of each channel on the 0–255 scale."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_size < self.min_size:
            raise ValueError(f"max_size {self.max_size} is below min_size {self.min_size}")
        return self


class Augment(Section):
    """What training changes in an image. Drawn per (seed, epoch, image), whatever the workers."""

    flip: Fraction = 0.5
    """Chance of a left-right flip."""
    min_sizes: tuple[AtLeastOne, ...] = ()
    """Multi-scale: shortest sides to choose from; empty, always `input.min_size`."""
    colour: Fraction = 0.0
    """Strength of the changes of brightness, contrast, saturation and hue."""
    crop: Fraction = 0.0
    """Chance of a random crop that keeps at least one object whole enough."""


class Backbone(Section):
    """The network that turns pixels into features."""

    name: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    """Depth of the residual network."""
    weights: str = "imagenet"
    """`imagenet` (torchvision's), `none`, or a path of a state dict."""
    norm: Literal["frozen_bn", "eval_bn", "bn", "gn"] = "frozen_bn"
    """frozen_bn and eval_bn, whose scale and shift learn, need pretrained weights; gn (GroupNorm)
    and bn train from scratch."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """How many parts stay fixed, counted from the input: 1 the stem, 2 layer1 too, … 5 all."""
    stride_in_1x1: bool = False
    """Stride of a bottleneck in its first 1×1 (Caffe) instead of its 3×3."""
    bn_epsilon: NonNegative = 1e-5
    """Added to the variance in batch norm; maskrcnn-benchmark's frozen one has 0."""


class Neck(Section):
    """From the backbone's features to those that proposals and branches see."""

    kind: Literal["fpn", "none"] = "fpn"
    """fpn: the feature pyramid, P2 to P6; none: C4 alone, its last stage left to a res5 branch."""
    channels: AtLeastOne = 256
    """Channels of every level of the pyramid."""


class Anchors(Section):
    """The boxes that the RPN starts from: one size a level of the pyramid, all sizes on C4."""

    sizes: tuple[Positive, ...] = (32, 64, 128, 256, 512)
    """Sides of the square anchors, on each of P2 … P6 or all on C4, in pixels of the resized
    image."""
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """Height / width; the area stays."""
    convention: Literal["plain", "torchvision", "maskrcnn_benchmark"] = "plain"
    """plain: exact, centred on the cell's corner (MMDetection); the others round as they do, and
    torchvision also divides the padded image into cells (61 pixels on P6 of 800, not 64)."""


class Rpn(Section):
    """The region proposal network."""

    pre_nms_train: AtLeastOne = 2000
    """Best anchors of each level that enter NMS in training."""
    pre_nms_test: AtLeastOne = 1000
    """Best anchors of each level that enter NMS at test time."""
    proposals_train: AtLeastOne = 1000
    """Proposals kept in training."""
    proposals_test: AtLeastOne = 1000
    """Proposals kept at test time, an image."""
    proposals_per: Literal["image", "batch"] = "image"
    """What `proposals_train` counts: each image's best, or the batch's (maskrcnn-benchmark)."""
    min_size: NonNegative = 0.0
    """Shortest side of a proposal, in pixels; torchvision has 0.001. At 0, empty ones go."""
    nms_threshold: Fraction = 0.7
    """IoU above which the lower-scored of two proposals goes."""
    level_proposals: Count = 0
    """Best proposals of each level that NMS may leave, before those of all are counted; 0: all."""
    positive_iou: Fraction = 0.7
    """IoU from which an anchor is an object."""
    negative_iou: Fraction = 0.3
    """IoU below which an anchor is background."""
    samples: AtLeastOne = 256
    """Anchors an image that carry a loss."""
    positive_fraction: Fraction = 0.5
    """Share of objects among them, at most."""
    smooth_l1_beta: NonNegative = 0.0
    """Where the regression loss turns from square to straight; 0 is plain L1."""


class Pool(Section):
    """RoIAlign, from a pyramid level to size × size cells."""

    size: AtLeastOne = 7
    """Cells a side."""
    sampling_ratio: Count = 0
    """Samples a cell side; 0: as many as the cell has pixels."""
    aligned: bool = True
    """Shift by half a pixel, so that cells are centred on the samples."""
    level_epsilon: NonNegative = 1e-6
    """Added to √area / 56 before its logarithm is the level; maskrcnn-benchmark has 4e-6."""


class FcBranch(Section):
    """Fully connected layers: sensitive to position, good at scoring."""

    kind: Literal["fc"]
    """fc"""
    name: str = "fc"
    """Name of the branch in weights, losses and read-outs."""
    focus: Literal["cls", "reg"] = "cls"
    """The task that λ weighs; the other gets 1 − λ, and no predictor where that is 0."""
    omega: NonNegative = 1.0
    """ω, weight of the branch's loss (Eq. 1)."""
    lambda_: Annotated[Fraction, Field(alias="lambda")] = 1.0
    """λ, weight of the focused task within the branch (Eq. 2, 3)."""
    roi_scale: Positive = 1.0
    """Enlarges the RoI about its centre before pooling."""
    width: AtLeastOne = 1024
    """Outputs of each layer."""
    layers: AtLeastOne = 2
    """Number of layers."""


class ConvBranch(Section):
    """Residual blocks and average pooling: shared over the cells, good at locating."""

    kind: Literal["conv"]
    """conv"""
    name: str = "conv"
    """Name of the branch in weights, losses and read-outs."""
    focus: Literal["cls", "reg"] = "reg"
    """The task that λ weighs; the other gets 1 − λ, and no predictor where that is 0."""
    omega: NonNegative = 1.0
    """ω, weight of the branch's loss (Eq. 1)."""
    lambda_: Annotated[Fraction, Field(alias="lambda")] = 1.0
    """λ, weight of the focused task within the branch (Eq. 2, 3)."""
    roi_scale: Positive = 1.0
    """Enlarges the RoI about its centre before pooling; the public implementations use 1.3."""
    width: Annotated[int, Field(ge=4, multiple_of=4)] = 1024
    """Channels of the blocks; their inner layers have a quarter."""
    residual: AtLeastOne = 5
    """Residual blocks: the widening one (Fig. 5a) and bottlenecks (Fig. 5b)."""
    non_local: Count = 0
    """Non-local blocks (Fig. 5c), one before each of the first bottlenecks."""
    non_local_groups: AtLeastOne = 4
    """Groups that the channels of a non-local block are split into."""
    non_local_normalise: Literal["count", "softmax"] = "count"
    """Affinities divided by the number of cells (the authors' code), or softmax."""
    norm: Literal["bn", "gn", "frozen_bn"] = "bn"
    """gn (GroupNorm) does not depend on the batch."""

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


class Res5Branch(Section):
    """The backbone's last stage on each RoI of C4, as in Faster R-CNN before the pyramid.

    Depth, norm and stride are the backbone's, and so are the weights it starts from.
    """

    kind: Literal["res5"]
    """res5"""
    name: str = "res5"
    """Name of the branch in weights, losses and read-outs."""
    focus: Literal["cls", "reg"] = "cls"
    """The task that λ weighs; the other gets 1 − λ, and no predictor where that is 0."""
    omega: NonNegative = 1.0
    """ω, weight of the branch's loss (Eq. 1)."""
    lambda_: Annotated[Fraction, Field(alias="lambda")] = 1.0
    """λ, weight of the focused task within the branch (Eq. 2, 3)."""
    roi_scale: Positive = 1.0
    """Enlarges the RoI about its centre before pooling."""


AnyBranch = FcBranch | ConvBranch | Res5Branch
Branch = Annotated[AnyBranch, Field(discriminator="kind")]


class Head(Section):
    """One or two branches on the proposals. Every detector of the paper is a row of these."""

    branches: Annotated[tuple[Branch, ...], Field(min_length=1, max_length=2)] = (
        FcBranch(kind="fc"),
        ConvBranch(kind="conv"),
    )
    """The branches; `--set` addresses one by its name: `model.head.branches.fc.omega=2`."""
    scores: str = "auto"
    """A branch's name, or `max`, `average`, `complementary` (Eq. 4) of both; auto: complementary
    where both branches classify, else the one that does."""
    boxes: str = "auto"
    """Name of the branch whose boxes are used; auto: the one that focuses on them."""
    class_agnostic: bool = False
    """One box regression for all classes instead of one a class."""
    background_box: bool = False
    """A regression of the background too, first and unused (maskrcnn-benchmark, torchvision)."""
    positive_iou: Fraction = 0.5
    """IoU from which a proposal is an object."""
    samples: AtLeastOne = 512
    """RoIs an image that carry a loss."""
    positive_fraction: Fraction = 0.25
    """Share of objects among them, at most."""
    smooth_l1_beta: NonNegative = 1.0
    """Where the regression loss turns from square to straight; 0 is plain L1."""
    box_std: tuple[Positive, Positive, Positive, Positive] = (0.1, 0.1, 0.2, 0.2)
    """Deviations that the box deltas are divided by."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [branch.name for branch in self.branches]
        if len(set(names)) != len(names):
            raise ValueError(f"two branches are named `{names[0]}`; give one another name")
        for task in ("cls", "reg"):
            if not any(predicts(branch, task) for branch in self.branches):
                raise ValueError(f"no branch predicts `{task}`: check focus and lambda")
        for key, value, task in (("scores", self.scores, "cls"), ("boxes", self.boxes, "reg")):
            if problem := read_out_problem(value, self.branches, task):
                raise ValueError(f"`{key}`: {problem}")
        return self


FUSIONS = ("max", "average", "complementary")
"""Ways to fuse the scores of two classifiers (Table 3)."""


def predicts(branch: AnyBranch, task: str) -> bool:
    """Whether `branch` has a predictor for `task` ("cls" or "reg"): its weight is not 0."""
    return branch.lambda_ > 0 if branch.focus == task else branch.lambda_ < 1


def read_out_problem(value: str, branches: Sequence[AnyBranch], task: str) -> str:
    """Why `value` cannot say where scores (`task` "cls") or boxes ("reg") come from; "" if it can.

    A branch can be named that predicts the task; where two classify, also a fusion.
    """
    able = [branch.name for branch in branches if predicts(branch, task)]
    fusions = FUSIONS if task == "cls" and len(able) == 2 else ()
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


class Detect(Section):
    """From scored boxes to detections."""

    score_threshold: Fraction = 0.05
    """Lowest score of a detection."""
    gate: Fraction = 0.0
    """With fused scores: proposals that the first branch gives no class this score are dropped
    before the second runs. 0 is exact (docs/performance.md)."""
    nms_threshold: Fraction = 0.5
    """IoU above which the lower-scored of two boxes of a class goes."""
    max_detections: AtLeastOne = 100
    """Best detections kept, an image."""
    keep_ties: bool = False
    """Keep also all that score as high as the last one kept (maskrcnn-benchmark)."""
    min_size: NonNegative = 0.0
    """Shortest side of a detection, in pixels of the resized image; torchvision has 0.01."""
    nms_on: Literal["original", "resized"] = "original"
    """Pixels that NMS measures in: the original image's, or the resized one's."""


class Model(Section):
    """The detector."""

    backbone: Backbone = Backbone()
    neck: Neck = Neck()
    anchors: Anchors = Anchors()
    rpn: Rpn = Rpn()
    pool: Pool = Pool()
    head: Head = Head()
    detect: Detect = Detect()
    legacy_plus_one: bool = False
    """maskrcnn-benchmark's pixels: a box's width is x2 − x1 + 1."""
    clamp_shrinking: bool = True
    """Let no box shrink more than 62.5-fold, as none grows (MMDetection); the others only that."""
    nms: Literal["exact", "mmdet", "torchvision"] = "exact"
    """Arithmetic of NMS over classes and levels: exact, or rounded as the two round it."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        last_stages = sum(isinstance(branch, Res5Branch) for branch in self.head.branches)
        if last_stages != (self.neck.kind == "none"):
            raise ValueError("`neck.kind: none` and one branch of kind `res5` belong together")
        if self.neck.kind == "none" and self.backbone.frozen_stages > 4:
            raise ValueError("`backbone.frozen_stages` is at most 4 beside a `res5` branch")
        if self.neck.kind == "fpn" and len(self.anchors.sizes) != 5:
            got = len(self.anchors.sizes)
            raise ValueError(f"`anchors.sizes` needs one for each of P2 … P6, got {got}")
        return self


class Schedule(Section):
    """How the learning rate moves. A pure function of the iteration."""

    kind: Literal["step", "cosine"] = "step"
    """step: divided at each of `steps`; cosine: to zero along half a cosine."""
    unit: Literal["epoch", "iteration"] = "epoch"
    """What `length` and `steps` count."""
    length: AtLeastOne = 12
    """How long to train."""
    steps: tuple[AtLeastOne, ...] = (8, 11)
    """When the learning rate is multiplied by gamma."""
    gamma: Positive = 0.1
    """Factor at each step."""
    warmup: Count = 500
    """Iterations over which the learning rate rises to its value."""
    warmup_factor: Fraction = 0.001
    """Share of the learning rate that warm-up starts from."""


class Train(Section):
    """Training: optimiser, schedule, and what is watched."""

    lr: Positive = 0.01
    """Learning rate at `reference_batch` images a step."""
    batch_size: AtLeastOne = 2
    """Images a step of one process."""
    reference_batch: AtLeastOne = 8
    """Images a step that `lr` was found with."""
    scale_lr: bool = True
    """Multiply lr by (images a step) / reference_batch."""
    accumulate: AtLeastOne = 1
    """Steps whose gradients are added up before the optimiser moves."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimiser."""
    momentum: Fraction = 0.9
    """Momentum of SGD; β1 of AdamW."""
    weight_decay: NonNegative = 1e-4
    """Pull of the weights towards zero; norm layers and biases are spared by AdamW."""
    clip_norm: NonNegative = 0.0
    """Largest norm of the gradient; 0 leaves it."""
    schedule: Schedule = Schedule()
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights that is validated and saved; 0: none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 or fp16 on GPUs that have it, fp32 on the CPU."""
    seed: Count = 0
    """Seed of weights, order and augmentation."""
    workers: Annotated[int, Field(ge=-1)] = -1
    """Processes that load images; -1: as many as there are spare cores, at most 8."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Decode every image once, before training: into memory, or a file in the run folder."""
    log_every: AtLeastOne = 50
    """Iterations between lines of the log."""
    eval_every: Count = 1
    """Epochs between validations; 0: only at the end."""
    patience: Count = 0
    """Validations without a better AP before training stops early; 0: never."""
    save_every: Count = 1
    """Epochs between checkpoints of the whole state; 0: only at the end."""
    keep_epochs: bool = False
    """Keep the model of every validation, not only best and last."""
    non_finite: Literal["stop", "skip"] = "stop"
    """A loss that is not a number: stop, or skip the batch (and stop after ten in a row)."""


class Finetune(Section):
    """What `dh finetune` does beside training."""

    aliases: dict[str, str] = Field(default_factory=dict)
    """Class of the new data → class of the weights whose rows it starts from."""


class Config(Section):
    """Everything that decides a result."""

    name: str = "custom"
    """Name of the preset."""
    about: str = ""
    """One line: what it is for."""
    paper_tables: tuple[AtLeastOne, ...] = ()
    """Tables of the paper that it is a row of."""
    paper: dict[str, float] = Field(default_factory=dict)
    """What the paper reports for it there: AP in percent on COCO val, or on VOC07 test."""
    data: Data = Data()
    input: Input = Input()
    augment: Augment = Augment()
    model: Model = Model()
    train: Train = Train()
    finetune: Finetune = Finetune()
