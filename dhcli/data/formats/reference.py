"""The page of all formats, made from what they say of themselves.

`python -m dhcli.data.formats.reference > docs/formats.md` writes the page anew.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

from dhcli.data.formats import FORMATS
from dhcli.data.formats.layouts import Format
from dhcli.data.table import Flag

_INTRODUCTION = """\
# Dataset formats

<!-- Made by `python -m dhcli.data.formats.reference` from the modules in `dhcli/data/formats`. -->

Wherever `dh` takes data, you can give a folder or an annotation file in any of these formats. The
format is recognised and printed; `--from NAME` sets it. If a folder is not a dataset itself, `dh`
looks for one up to three folders down; if it finds several, it names them. If a folder fits several
formats, the first in this list is used, and the others are named. Folders with more annotations of
the format, below those that are read or beside them, are left out and named.

Archives are not unpacked; the error says which command unpacks them.

Folders are found in any case (`Annotations`, `ANNOTATIONS`). Images are found even if their names
differ in suffix, case or the form of accents, unless there is a file with the exact name. Hidden
files and `__MACOSX` are skipped.

`dh convert SRC DST --to NAME` writes any of them. What the target cannot hold is counted and
printed, never dropped silently.

Inside `dh` a box is `xyxy` in pixels of the upright image: 0-based, with decimals, the maximum
excluded, so that a box over a whole image of W × H pixels is [0, 0, W, H]. The tables say what each
format does instead. Where all boxes lie within 0…1, and not at whole numbers, they are read as
fractions of their images, which is printed; where only some do, 5 % or more, that is an error.

A file name in an annotation never leads out of its dataset: of an absolute path, or one with `..`,
only the end that is found inside is used. Pipes, entities, DOCTYPEs and deep nesting are errors.
UTF-8 with and without a byte order mark, UTF-16, Latin-1 and the encoding that an XML file declares
are read. Numbers that are not finite are read too, and found by `dh check`.
"""
_DAMAGED = """
## Damaged files

`tests/data/test_fuzz.py` draws datasets, writes each in every format, damages the files (bytes,
words, values, encodings, links and pipes in their place) and reads, checks, mends and writes what
is left. Its campaign, `DH_FUZZ=1200 pytest -m slow tests/data/test_fuzz.py`, ran over 20,400
damaged datasets on 2026-11-21 at a2a7fa4, 1,200 in each of 17 formats, in one run: each
ended as a table or as one error for people, none in a traceback, a warning or a hang. Memory is
held to 20 times the files. AutoML CSV and VisDrone, which came later, stood 1,200 each at f525296,
the eight formats that came after these at ae623cf.

For undamaged files of 4 to 20 MB, the peak of memory grew by 0.8 to 8.4 times their size, and by
14.5 times for a CSV with one box per image and three columns of its own.
"""
_HOLDS = """
## What each holds

"Regions" are boxes that are not objects: crowds, boxes to ignore, regions without a class (KITTI's
DontCare). A format without "empty images" does not list images without boxes. A format without
"unused classes" does not list classes without boxes. If an image can be in one split only, it goes
to the smallest split that has it: an image in VOC's `train` and `trainval` goes to `train`.
"""
_COLUMNS = {
    "source": "masks, every other field",
    "pose": "pose",
    "truncation": "truncation in degrees",
    "occlusion": "occlusion in degrees",
    "alpha": "3-D columns",
    "track": "tracks",
    "visibility": "visibility",
}
_YES, _NO = "yes", "–"


def formats_page() -> str:
    """`docs/formats.md`: what is recognised and held, then each format in its own words."""
    parts = (_INTRODUCTION, *_recognised(), _HOLDS, *_held(), *_own_words())
    return "\n".join((*parts, _DAMAGED.lstrip()))


def _recognised() -> Iterator[str]:
    rows = [(f"`{name}`", each.title, _looks_for(each)) for name, each in FORMATS.items()]
    return _table(("name", "format", "recognised by"), rows)


def _looks_for(each: Format) -> str:
    return re.sub(r"([*_<])", r"\\\1", each.layout.looks_for)


def _held() -> Iterator[str]:
    head = ("format", "pixels", "marks", "regions", "empty images", "unused classes")
    more = ("several splits", "image sizes", "scores", "besides")
    return _table((*head, *more), [_row(each) for each in FORMATS.values()])


def _row(each: Format) -> tuple[str, ...]:
    holds = each.holds
    marks = [str(flag.name).lower() for flag in Flag if flag in holds.marks]
    besides = [text for name, text in _COLUMNS.items() if name in holds.columns]
    besides += ["columns that images have of their own"] if holds.own_columns else []
    answers = (holds.empty, holds.classes, holds.splits, holds.sizes, holds.scores)
    return (
        each.title,
        holds.pixels,
        ", ".join(marks) or _NO,
        holds.regions or "kept",
        *(_YES if answer else _NO for answer in answers),
        ", ".join(besides) or _NO,
    )


def _own_words() -> Iterator[str]:
    for name, each in FORMATS.items():
        words = importlib.import_module(each.write.__module__).__doc__ or ""
        yield f"\n## {each.title} (`{name}`)\n\n{words.strip()}"
    yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    sys.stdout.write(formats_page())
