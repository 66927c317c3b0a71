"""ImageNet: Pascal VOC's XML, in folders by class or by split, `Annotations/…/n01440764/*.xml`.

The images lie in the folders of the same names below `Data` (ILSVRC: `Data/CLS-LOC/train/…`) or
`Images`. A folder called as a split, on the way down, is one, if those beside it are. Classes are
what the files say, codes such as n01440764; everything else is as in Pascal VOC, the first pixel
too.

Written: `Annotations/DET/SPLIT` and `Data/DET/SPLIT`, without folders of classes, since a table
knows none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dhcli.data.formats import voc
from dhcli.data.formats.layouts import FilePerImage, Format, Part
from dhcli.data.formats.placing import Placing, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    find_folders,
    first_folder,
    has_file,
    list_folders,
    split_name,
    stem_of,
)
from dhcli.data.table import DetectionTable

HOLDS = replace(voc.HOLDS, splits=False, split_names="usual")

_XML_FOLDERS = ("Annotations", "Annotation")
_IMAGE_FOLDERS = ("Data", *IMAGE_FOLDERS)
_DEEPEST = 4
_REST = "all"


def _parts(root: Path) -> Iterator[Part]:
    """Folders of XML files below one of annotations, with those of their images."""
    seen = {root.resolve()}
    for top in find_folders(root, _XML_FOLDERS):
        found = list(_below(root / top, "", seen))
        for below, split in zip(found, _splits_of(found), strict=True):
            options = [f"{base}/{below}" for base in _IMAGE_FOLDERS]
            images = first_folder(root, options, *IMAGE_SUFFIXES) or options[0]
            yield Part(split, f"{top}/{below}", images)


def _splits_of(folders: Sequence[str]) -> list[str]:
    """The split of each folder, or "": what a folder on the way is called.

    Unless folders beside that one are called otherwise: those are classes, and `train` is one.
    """
    beside: defaultdict[str, set[str]] = defaultdict(set)
    for folder in folders:
        parts = folder.split("/")
        for depth, part in enumerate(parts):
            beside["/".join(parts[:depth])].add(part)
    are_splits = {
        above: all(split_name(name) or name == _REST for name in names)
        for above, names in beside.items()
    }
    found = []
    for folder in folders:
        parts = folder.split("/")
        told = (split_name(p) for i, p in enumerate(parts) if are_splits["/".join(parts[:i])])
        found.append(next((name for name in told if name), ""))
    return found


def _below(folder: Path, below: str, seen: set[Path]) -> Iterator[str]:
    """The folders in `folder` that hold XML files, links to those already `seen` left out."""
    for name in list_folders(folder) if below.count("/") < _DEEPEST else ():
        inner = f"{below}/{name}" if below else name
        if (folder / name).resolve() in seen:
            continue
        seen.add((folder / name).resolve())
        if has_file(folder / name, ".xml"):
            yield inner
        yield from _below(folder / name, inner, seen)


def write_imagenet(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as Data/DET and Annotations/DET, one folder per split."""
    folders = [f"DET/{split or _REST}" for split in placing.split_of_images()]
    placing.place([f"Data/{folder}" for folder in folders])
    for image, (folder, name) in enumerate(zip(folders, writing(placing.names), strict=True)):
        text = voc.xml_of(table, image, name, folder)
        placing.write(f"Annotations/{folder}/{stem_of(name)}.xml", text)


def _is_imagenet(path: Path) -> bool:
    """Whether a folder holds folders of VOC's XML files in one of annotations."""
    first = next(_parts(path), None)
    return first is not None and voc.holds_voc(path / first.labels)


LAYOUT = FilePerImage(
    "Annotations/…/n01440764/*.xml", lambda _: False, _parts, voc.around, _is_imagenet
)
FORMAT = Format("ImageNet", LAYOUT, voc.read_voc, write_imagenet, HOLDS)
