"""How to detect this time, over what a model is configured for. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from dhcli.config.heads import ReadOut
from dhcli.config.schema import (
    FUSIONS,
    Config,
    Detect,
    DetectBest,
    DetectDense,
    TwoStage,
    readers,
    says_buckets,
)
from dhcli.config.schema.base import Section
from dhcli.config.schema.detect import GuidedNms, HardNms, SoftNms, Suppression
from dhcli.config.short import SQUARE, resized
from dhcli.errors import ConfigError

AnyDetect = TypeVar("AnyDetect", bound=DetectBest)
_BY_KIND: dict[str, Suppression] = {
    "hard": HardNms(),
    "soft": SoftNms(kind="soft"),
    "guided": GuidedNms(kind="guided"),
}
"""What `--nms` stands for, with the other settings as they are by default."""


@dataclass(frozen=True)
class DetectOptions:
    """What a user asks of a detector; passed along, never written into it. None: as configured.

    threshold       lowest score of a detection
    most            most detections per image
    gate            see `model.detect.gate`
    nms             see `model.detect.nms`: hard, soft, or guided by a branch that predicts IoU
    nms_threshold   IoU above which the lower-scored of two boxes of a class goes
    across_classes  see `model.detect.across_classes`
    read_outs       the ways to read it, each its own list of detections
    image_size      shortest side of the images that it sees, in pixels; the longest side may be as
                    many times that as is configured
    device          auto, cpu, cuda, cuda:1 or mps
    precision       fp32, bf16, fp16 or auto: what the network computes in
    """

    threshold: float | None = None
    most: int | None = None
    gate: float | None = None
    nms: Literal["hard", "soft", "guided"] | None = None
    nms_threshold: float | None = None
    across_classes: float | None = None
    read_outs: tuple[ReadOut, ...] | None = None
    image_size: int | None = None
    device: str = "auto"
    precision: str = "fp32"

    def over(self, configured: AnyDetect) -> AnyDetect:
        """The rule that holds: what is asked for, else what is configured."""
        asked: dict[str, object] = {
            "score_threshold": self.threshold,
            "max_detections": self.most,
            "gate": self.gate,
            "nms_threshold": self.nms_threshold,
            "across_classes": self.across_classes,
        }
        has = type(configured).model_fields
        given = {key: value for key, value in asked.items() if value is not None and key in has}
        if nms := self._nms(configured):
            given["nms"] = nms
        if self.threshold is not None and isinstance(given.get("nms"), GuidedNms):
            # A box that scores lower may stay in place of a better one, and take its score
            given["score_threshold"] = min(configured.score_threshold, self.threshold)
        if self.threshold is not None and isinstance(configured, DetectDense):
            given["min_score"] = self.threshold
            if configured.threshold_on == "class":  # what comes out may score higher, or lower
                given["score_threshold"] = min(configured.score_threshold, self.threshold)
        return configured.model_copy(update=given) if given else configured

    def _nms(self, configured: DetectBest) -> Suppression | None:
        """The NMS that holds in place of the configured one; None where that stays.

        A box scores no higher for those that score lower: a threshold that is asked for is the
        lowest score that Soft-NMS leaves.
        """
        if not isinstance(configured, Detect):
            return None
        nms = configured.nms
        if self.nms is not None and self.nms != nms.kind:
            nms = _BY_KIND[self.nms]
        if isinstance(nms, SoftNms) and self.threshold is not None:
            nms = nms.model_copy(update={"min_score": max(nms.min_score, self.threshold)})
        return nms

    def sized(self, config: Config) -> Config:
        """`config` with images of the size that is asked for.

        Raises ConfigError where a detector of squares cannot take it.
        """
        if self.image_size is None:
            return config
        pixels = resized(config.input, self.image_size)
        if pixels.letterbox is not None and pixels.max_size % SQUARE:
            what = f"this model sees squares, whose sides are multiples of {SQUARE}"
            near = max(1, round(self.image_size / SQUARE)) * SQUARE
            raise ConfigError(what, where="--image-size", hint=f"such as {near}")
        return config.model_copy(update={"input": pixels})

    def giving(self, score: float | None, top: int | None, configured: DetectBest) -> DetectOptions:
        """The same options with which all is found from `score`, and the `top` best, if wanted.

        `top` beyond what is configured raises that limit; below it, the rest is to be left out.
        """
        most = top if top and top > configured.max_detections else None
        return replace(self, threshold=score, most=most)

    def reading(self, *read_outs: ReadOut) -> DetectOptions:
        """The same options, read in these ways."""
        return replace(self, read_outs=read_outs)


AS_CONFIGURED = DetectOptions()


def lowest_score(model: Section, options: DetectOptions) -> float:
    """The lowest score that a detection can have, of a model with the section `model`.

    A threshold that is asked for holds for what comes out, a configured one for the classes' scores
    alone, which the confidence of boxes may lower.
    """
    if options.threshold is not None:
        return options.threshold
    lowered = isinstance(model, TwoStage) and (
        any(map(says_buckets, model.head.branches)) or _multiplies(model.detect.nms)
    )
    if lowered:
        return 0.0
    configured: DetectBest = getattr(model, "detect")  # noqa: B009 - every kind of model has it
    return options.over(configured).lowest()


def _multiplies(nms: Suppression) -> bool:
    return isinstance(nms, GuidedNms) and nms.multiply


def check_gate(model: Section, gate: float | None, read_outs: Sequence[ReadOut] = ()) -> None:
    """Raise ConfigError where a gate would do nothing: in the section `model`, one branch scores.

    Or in every one of `read_outs`, where they are known.
    """
    branches = model.head.branches if isinstance(model, TwoStage) else ()
    if gate is not None and len(readers(branches, "cls")) < 2:
        what = "a gate needs fused scores, but only one branch of this model classifies"
        hint = "remove --gate: this model already skips its box branch where it cannot matter"
        raise ConfigError(what, where="--gate", hint=hint)
    if gate and read_outs and not any(one.scores in FUSIONS for one in read_outs):
        what = f"a gate needs fused scores, but those of `{read_outs[0].scores}` are asked for"
        hint = f"remove --gate, or take `--scores {FUSIONS[-1]}`"
        raise ConfigError(what, where="--gate", hint=hint)


def check_nms(model: Section, options: DetectOptions) -> None:
    """Raise ConfigError where the section `model` has no NMS of the kind asked for."""
    if isinstance(getattr(model, "detect", None), Detect):
        branches = model.head.branches if isinstance(model, TwoStage) else ()
        if options.nms == "guided" and not any(one.focus == "iou" for one in branches):
            what = "guided NMS needs a branch with `focus: iou`, which this model does not have"
            raise ConfigError(what, where="--nms", hint="use `--nms hard` or `--nms soft`")
        return
    kinds = (
        (
            "--across-classes",
            options.across_classes,
            "a detector of this kind only has NMS per class",
        ),
        ("--nms", options.nms, "a detector of this kind has no choice of NMS"),
    )
    for option, value, what in kinds:
        if value is not None:
            raise ConfigError(what, where=option, hint=f"remove {option}")
