"""The flaws that a dataset can have: the code of each, how bad it is, and what is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Code(NamedTuple):
    """What a code means, what training does about it, and what `dh check --fix` does.

    "" if nothing is done.
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
        "an image file is missing",
        "left out with data.on_bad_image=skip, else the run stops",
        "left out",
    ),
    "image-unreadable": Code(
        "error",
        "an image file is damaged, truncated, or not an image",
        "left out with data.on_bad_image=skip, else the run stops",
        "left out",
    ),
    "image-unended": Code("warning", "a JPEG has all its pixels, but no end mark", "read", ""),
    "image-depth": Code(
        "warning",
        "an image has more than 8 bits per channel",
        "converted to 8 bits as input.depth says",
        "",
    ),
    "image-bands": Code(
        "warning",
        "an image has bands other than red, green and blue",
        "the first three are read",
        "",
    ),
    "image-frames": Code("warning", "an image has several frames", "the first is read", ""),
    "image-size": Code(
        "warning",
        "an image has a different size than its annotation says",
        "the image's own size is used",
        "the image's own size is written",
    ),
    "image-resized": Code(
        "warning",
        "an image was resized after its boxes were drawn",
        "boxes are scaled too",
        "boxes are scaled too, masks left out",
    ),
    "image-disagrees": Code(
        "error",
        "an image has a different size than its annotation says, and its boxes do not fit",
        "left out with data.on_bad_image=skip, else the run stops",
        "",
    ),
    "image-turned": Code(
        "warning",
        "boxes were drawn on the image before its EXIF orientation turned it",
        "boxes are turned too",
        "boxes are turned too, masks left out",
    ),
    "image-duplicate": Code(
        "warning",
        "two images have the same content",
        "both kept",
        "the first kept",
    ),
    "image-unannotated": Code(
        "warning",
        "an image of the dataset has no annotation file, so nothing says that it has no objects",
        "left out",
        "left out",
    ),
    "image-empty": Code(
        "warning", "an image counts as annotated, but has no box", "kept as background", ""
    ),
    "image-unsplit": Code("warning", "images do not belong to any split", "left out", ""),
    "split-leak": Code(
        "error",
        "an image, or another with the same content, is in two splits that must not share any",
        "kept; the run stops if both splits list it",
        "kept in one split: test, else val, else train",
    ),
    "split-class": Code("warning", "a split has no box of a class", "", ""),
    "id-zero": Code(
        "error",
        "an annotation has no id, or id 0, which COCO's evaluation takes for 'no match'",
        "ids are not used",
        "new ids are given",
    ),
    "id-repeated": Code(
        "error",
        "two annotations of a file have the same id",
        "ids are not used",
        "the later one gets a new id",
    ),
    "box-not-finite": Code(
        "error", "a coordinate is missing, NaN or infinite", "left out", "left out"
    ),
    "box-inverted": Code(
        "error",
        "a box's maximum is less than its minimum",
        "the two are swapped",
        "the two are swapped",
    ),
    "box-empty": Code("error", "a box has no area", "left out", "left out"),
    "box-outside": Code("error", "a box lies outside its image", "left out", "left out"),
    "box-thin": Code(
        "warning",
        "a box is at most one pixel wide or high",
        "left out",
        "left out",
    ),
    "box-over-edge": Code("warning", "a box extends beyond the image", "clipped", "clipped"),
    "box-duplicate": Code(
        "warning",
        "an image has the same box of the same class twice",
        "both kept",
        "the first kept",
    ),
    "class-unknown": Code(
        "error",
        "a box has a class that the dataset does not define",
        "treated as a region to ignore",
        "marked as a region to ignore",
    ),
    "class-unused": Code("warning", "a class has no boxes", "", "the class is left out"),
    "class-spelling": Code(
        "warning",
        "two classes differ only in case or spacing",
        "kept as two classes",
        "merged, with the spelling that most boxes have",
    ),
    "anchor-recall": Code(
        "warning",
        "the preset's anchors miss many boxes of a class (with --preset)",
        "",
        "",
    ),
}
"""Every code; `docs/your-data.md` shows them, and a test compares."""


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
