"""The flaws that a dataset can have: a code each, how bad it is, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Code(NamedTuple):
    """What a code stands for, what training does about it, and what `dh check --fix` does.

    "" where nothing is done.
    """

    severity: Severity
    meaning: str
    training: str
    fix: str


CODES: Mapping[str, Code] = {
    "dataset-empty": Code("error", "no image has a box", "the run stops", ""),
    "row-unreadable": Code(
        "error",
        "a row or entry of an annotation file, or the file of an image, cannot be read",
        "left out with data.on_bad_image=skip, else the run stops",
        "left out",
    ),
    "image-missing": Code(
        "error",
        "an image is not there",
        "left out with data.on_bad_image=skip, else the run stops",
        "left out",
    ),
    "image-unreadable": Code(
        "error",
        "an image is damaged, cut short or none",
        "left out with data.on_bad_image=skip, else the run stops",
        "left out",
    ),
    "image-unended": Code(
        "warning", "a JPEG has no end mark, though every pixel is there", "read", ""
    ),
    "image-depth": Code(
        "warning",
        "an image has more than 8 bits per channel",
        "made 8 by the rule of input.depth",
        "",
    ),
    "image-bands": Code(
        "warning", "an image has bands beside red, green and blue", "the first three are read", ""
    ),
    "image-frames": Code("warning", "an image has several frames", "the first is read", ""),
    "image-size": Code(
        "warning",
        "an image has another size than its annotation says",
        "the image's own size counts",
        "the image's own size is written",
    ),
    "image-resized": Code(
        "warning",
        "an image was made smaller or larger after its boxes were drawn",
        "boxes scaled along",
        "boxes scaled along, masks left out",
    ),
    "image-disagrees": Code(
        "error",
        "an image has another size than its annotation says, and its boxes do not fit that",
        "left out with data.on_bad_image=skip, else the run stops",
        "",
    ),
    "image-turned": Code(
        "warning",
        "boxes were drawn on an image as it was before its EXIF orientation turned it",
        "boxes turned along",
        "boxes turned along, masks left out",
    ),
    "image-duplicate": Code(
        "warning",
        "two images have the same content",
        "both kept",
        "the first kept",
    ),
    "image-unannotated": Code(
        "warning",
        "a listed image has no annotation file: not annotated, which is not the same as empty",
        "left out",
        "left out",
    ),
    "image-empty": Code("warning", "an image has no box", "kept, as background", ""),
    "image-unsplit": Code("warning", "images are in no split", "left out", ""),
    "split-leak": Code(
        "error",
        "an image, or one of the same content, is in two splits that should be apart",
        "kept; the run stops where both splits list it",
        "kept in one: test before val before train",
    ),
    "split-class": Code("warning", "a split has no box of a class", "", ""),
    "id-zero": Code(
        "error",
        "an annotation has no id or id 0, which evaluators take for no match",
        "ids do not count",
        "numbered anew",
    ),
    "id-repeated": Code(
        "error",
        "two annotations of a file have the same id",
        "ids do not count",
        "the later one numbered anew",
    ),
    "box-not-finite": Code(
        "error", "a coordinate is missing, NaN or infinite", "left out", "left out"
    ),
    "box-inverted": Code(
        "error", "a maximum lies before its minimum", "the two exchanged", "the two exchanged"
    ),
    "box-empty": Code("error", "a box has no area", "left out", "left out"),
    "box-outside": Code("error", "a box lies outside its image", "left out", "left out"),
    "box-thin": Code(
        "warning",
        "a box is at most one pixel wide or high",
        "left out",
        "left out",
    ),
    "box-over-edge": Code("warning", "a box reaches over the image's edge", "clipped", "clipped"),
    "box-duplicate": Code(
        "warning",
        "an image has the same box of the same class twice",
        "both kept",
        "the first kept",
    ),
    "class-unknown": Code(
        "error",
        "a box has a class that the dataset does not define",
        "taken for a region to ignore",
        "marked as a region to ignore",
    ),
    "class-unused": Code("warning", "no box is of a class", "", "the class is left out"),
    "class-spelling": Code(
        "warning",
        "two classes differ in case or spacing only",
        "two classes",
        "one class, spelled as most boxes are",
    ),
    "anchor-recall": Code(
        "warning",
        "the preset's anchors miss many boxes of a class (with --preset)",
        "",
        "",
    ),
}
"""Every code there is; `docs/your-data.md` shows them, and a test compares."""


@dataclass(frozen=True)
class Finding:
    """One flaw of a dataset: `where` is file and line, annotation, image or class."""

    code: str
    where: str
    what: str

    @property
    def severity(self) -> Severity:
        return CODES[self.code].severity

    @property
    def training(self) -> str:
        """What training does about it."""
        return CODES[self.code].training


def summary(findings: Sequence[Finding]) -> list[str]:
    """A line per code: how many of it there are, what it means, what is done, and the first."""
    lines = []
    for code, count in Counter(finding.code for finding in findings).items():
        first = next(finding for finding in findings if finding.code == code)
        about = CODES[code]
        done = f"; {about.training}" if about.training else ""
        lines.append(
            f"{code} ({count:,}): {about.meaning}{done}, such as {first.where}: {first.what}"
        )
    return lines
