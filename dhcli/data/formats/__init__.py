"""Datasets in the formats of others: recognised by looking, read into a table, written back.

A format is a file with a layout, `read_x`, `write_x` and a `FORMAT` of them, and a line below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dhcli.atomic import atomic_folder
from dhcli.data.formats import (
    automl,
    coco,
    createml,
    crowdhuman,
    csv_table,
    cvat,
    datumaro,
    dota,
    ground_truth,
    hf_imagefolder,
    imagenet,
    keras_yolo,
    kitti,
    label_studio,
    labelme,
    labelme_web,
    makesense,
    mot,
    openimages,
    retinanet,
    scalabel,
    supervisely,
    via,
    visdrone,
    voc,
    widerface,
    yolo,
)
from dhcli.data.formats.archives import archives_in, refuse_archive
from dhcli.data.formats.coco_results import (
    CATEGORIES,
    RESULTS,
    named_ids,
    place_on,
    read_results,
    results_of,
)
from dhcli.data.formats.detections import are_label_files, read_label_files
from dhcli.data.formats.naming import spell_names, spelled
from dhcli.data.formats.placing import Images, Placing, losses, objects_held, writable
from dhcli.data.io.files import list_files, list_folders, list_images, listing_once, sound_text
from dhcli.data.io.stand_ins import why_unread
from dhcli.data.table import ANY_CLASS, UNREADABLE, DetectionTable, Flag
from dhcli.errors import ConfigError, DataError, suggest
from dhcli.words import counted

__all__ = [
    "CATEGORIES",
    "FORMATS",
    "RESULTS",
    "Images",
    "describe",
    "held",
    "named_ids",
    "place_on",
    "read_dataset",
    "read_detections",
    "read_results",
    "require_format",
    "results_of",
    "unread_rows",
    "write_dataset",
]


FORMATS = {
    "voc": voc.FORMAT,
    "imagenet": imagenet.FORMAT,
    "labelme-web": labelme_web.FORMAT,
    "kitti": kitti.FORMAT,
    "coco": coco.FORMAT,
    "datumaro": datumaro.FORMAT,
    "via": via.FORMAT,
    "label-studio": label_studio.FORMAT,
    "createml": createml.FORMAT,
    "supervisely": supervisely.FORMAT,
    "labelme": labelme.FORMAT,
    "cvat": cvat.FORMAT,
    "openimages": openimages.FORMAT,
    "csv": csv_table.FORMAT,
    "retinanet": retinanet.FORMAT,
    "automl": automl.FORMAT,
    "makesense": makesense.FORMAT,
    "keras-yolo": keras_yolo.FORMAT,
    "imagefolder": hf_imagefolder.FORMAT,
    "crowdhuman": crowdhuman.FORMAT,
    "scalabel": scalabel.FORMAT,
    "ground-truth": ground_truth.FORMAT,
    "dota": dota.FORMAT,
    "mot": mot.FORMAT,
    "visdrone": visdrone.FORMAT,
    "widerface": widerface.FORMAT,
    "yolo": yolo.FORMAT,
}
"""All formats, by name; where a folder is of several, the first counts."""

_DEPTH = 4
_MOST_PLACES = 50
_OFFSETS = ("auto", "0", "1")
_WITH_OFFSET = ("voc", "imagenet")


@listing_once()
def read_dataset(
    path: Path,
    *,
    format: str | None = None,
    voc_offset: str = "auto",
    predictions: bool = False,
) -> DetectionTable:
    """Read a dataset, a folder or an annotation file, in the `format` it is found to have.

    `voc_offset` is what the first pixel is called in Pascal VOC: "0", "1", or "auto" by what the
    boxes tell. Boxes are the ground truth, and scores beside them left out, unless they are told to
    be `predictions`. Raises DataError where the format is not recognised or a file cannot be read.
    """
    if voc_offset not in _OFFSETS:
        raise ConfigError(f"voc_offset is one of {', '.join(_OFFSETS)}, not `{voc_offset}`")
    if not path.exists():
        raise DataError("no such dataset", where=path)
    refuse_archive(path)
    place, found = (path, [require_format(format)]) if format else recognise(path)
    kind = FORMATS[found[0]]
    read = kind.read
    if found[0] in _WITH_OFFSET:
        read = partial(read, offset=voc_offset)
    elif voc_offset != "auto":
        raise ConfigError(f"voc_offset is for Pascal VOC; {place} is {kind.title}")
    table = kind.layout.read(place, read, kind.title)
    if not len(table):
        left_out = "; ".join(table.notes)
        raise DataError(f"holds no images as {kind.title}", where=place, hint=left_out or None)
    table = _as_predictions(table, place) if predictions else _as_truth(table)
    notes = list(table.notes)
    if place != path:
        notes.append(f"found in {place.relative_to(path)}")
    if len(found) > 1:
        others = ", ".join(FORMATS[name].title for name in found[1:])
        notes.append(f"could also be read as {others} (--from)")
    classes = tuple(map(sound_text, table.classes))
    return replace(table, classes=classes, notes=tuple(notes), format=found[0])


def _as_predictions(table: DetectionTable, place: Path) -> DetectionTable:
    """The table with its scores; of COCO results, which lie beside it, what they hold."""
    if table.scores is None and (place / RESULTS).is_file():
        return read_results(place / RESULTS, table)
    if table.scores is None and len(table.boxes):
        note = "boxes without scores, or with some only: read as ground truth"
        return replace(table, notes=(*table.notes, note))
    return table


def _as_truth(table: DetectionTable) -> DetectionTable:
    """The table without scores: a column of them does not make boxes detections."""
    if table.scores is None:
        return table
    boxes = counted(len(table.scores), "box")
    note = f"score of {boxes}: left out of the ground truth (`dh convert --predictions` keeps it)"
    return replace(table, scores=None, notes=(*table.notes, note))


def read_detections(path: Path, truth: DetectionTable) -> DetectionTable:
    """Read detections on the images of `truth`: COCO results, or a dataset of any format.

    In a folder, `predictions.bbox.json` counts, as `dh predict` and `dh convert` write it.
    Raises DataError as `read_results` and `read_dataset` do, and where boxes have no scores.
    """
    if (path / RESULTS).is_file():
        path = path / RESULTS
    if path.is_file() and path.suffix.lower() == ".json":
        kind = FORMATS.get(truth.format)
        return read_results(path, truth, own_ids=kind is None or kind.has_ids)
    kept = are_label_files(path)
    found = read_label_files(path, truth) if kept else read_dataset(path, predictions=True)
    return place_on(_with_classes_of(truth, found), truth, path)


def _with_classes_of(truth: DetectionTable, found: DetectionTable) -> DetectionTable:
    """Detections under the names of `truth`, as the format of theirs spells names.

    A format that lists no classes does not say that there are no others: those of `truth` are too.
    """
    holds = FORMATS[found.format].holds
    names = {spelled(name, holds.blank): name for name in truth.classes}
    known = tuple(names.get(name, name) for name in found.classes)
    if len(set(known)) == len(known):
        found = replace(found, classes=known)
    if holds.classes or not set(known) & set(truth.classes):
        return found
    return found.with_classes(list(dict.fromkeys((*found.classes, *truth.classes))))


@listing_once()
def recognise(path: Path) -> tuple[Path, list[str]]:
    """The formats that `path` fits, best first, and the folder of the dataset.

    A folder that is none stands for the one dataset in it. Raises DataError that names the datasets
    in it where it has several, or lists what was looked for and what was found.
    """
    places = [path]
    for _ in range(_DEPTH):
        found = {place: names for place in places if (names := _formats_of(place))}
        if len(found) == 1:
            return found.popitem()
        if found:
            several = ", ".join(str(place.relative_to(path)) for place in found)
            hint = "name the one to read, or merge them with `dh convert`"
            raise DataError(f"holds several datasets: {several}", where=path, hint=hint)
        places = [place / name for place in places for name in list_folders(place)][:_MOST_PLACES]
    looked = "".join(f"\n  {each.looks_for}" for each in FORMATS.values())
    raise DataError(
        f"is not a dataset of a known format; it {_contents(path)}",
        where=path,
        hint=archives_in(path) or why_unread(path) or f"looked for{looked}",
    )


def _formats_of(path: Path) -> list[str]:
    return [name for name, each in FORMATS.items() if each.layout.sniff(path)]


def require_format(format: str) -> str:
    """`format`, or a ConfigError that names the formats there are."""
    if format not in FORMATS:
        raise ConfigError(f"unknown format `{format}`", hint=suggest(format, [*FORMATS]))
    return format


def _contents(path: Path) -> str:
    """What a folder holds, or a file is, in a few words."""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(2).lstrip()
        kind = f"a {path.suffix} file" if path.suffix else "a file without a suffix"
        kind = "a JSON list (detections?)" if start[:1] == b"[" else kind
        return f"is {kind}" if start else "is empty"
    names = [f"{name}/" for name in list_folders(path)] + list_files(path, "")
    if names and len(names) == len(list_images(path)):
        return f"holds {counted(len(names), 'image')} and no annotations"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"holds {', '.join(names[:8]) or 'nothing'}{more}"


def describe(table: DetectionTable) -> str:
    """What a table holds, in lines for people."""
    title = FORMATS[table.format].title if table.format in FORMATS else table.format or "dataset"
    parts = [
        title,
        counted(len(table), "image"),
        counted(len(table.boxes), "box"),
        f"{counted(len(table.classes), 'class')}{_counted_classes(table)}",
    ]
    if table.splits:
        splits = (f"{name} {len(images):,}" for name, images in table.splits.items())
        parts.append(f"splits {', '.join(splits)}")
    has_class = table.labels != ANY_CLASS
    marks = {"of no class": int(np.sum(~has_class))}
    for flag in Flag:
        marks[str(flag.name).lower()] = int(np.sum(table.has(flag) & has_class))
    marked = ", ".join(f"{count:,} {name}" for name, count in marks.items() if count)
    whole = ", ".join(parts) + (f"; boxes: {marked}" if marked else "")
    rows = [f"{line} (`dh check` lists all)" for line in unread_rows(table)]
    return "\n".join([whole, *(f"  {note}" for note in (*table.notes, *rows))])


def unread_rows(table: DetectionTable) -> list[str]:
    """A line on the rows that could not be read, with the first; none where all could."""
    rows = [remark for remark in table.remarks if remark.code == UNREADABLE]
    what = "row that cannot be read, left out"
    return [f"{counted(len(rows), what)}: {rows[0].where}: {rows[0].what}"] if rows else []


def _counted_classes(table: DetectionTable) -> str:
    counts = np.bincount(table.labels[table.labels != ANY_CLASS], minlength=len(table.classes))
    if not len(counts) or len(counts) > 20:
        return ""
    pairs = zip(table.classes, counts.tolist(), strict=True)
    return f" ({', '.join(f'{name} {count:,}' for name, count in pairs)})"


def write_dataset(
    table: DetectionTable,
    destination: Path,
    format: str,
    *,
    images: Images = "copy",
    beside: Mapping[str, str] | None = None,
    overwrite: bool = False,
    follow: bool = False,
) -> tuple[str, ...]:
    """Write `table` as a new folder in a format; return lines on what that could not hold.

    `images` are copied, links that lead out of the dataset with `follow` alone; or linked, moved or
    not taken along. With scores, boxes are written as the format's predictions. `beside` has
    further text files, by name. The folder appears when it is complete, with `overwrite` in place
    of what is there. Raises DhError if it is there already or cannot be written.
    """
    kind = FORMATS[require_format(format)]
    table, spelled = spell_names(table, kind.holds, kind.title)
    table, lost = writable(table, kind.holds)
    lost = spelled + lost
    with atomic_folder(destination, overwrite=overwrite) as folder:
        placing = Placing(table, folder, images, follow)
        kind.write(table, placing)
        for name, text in (beside or {}).items():
            placing.write(name, text)
    if images == "none" and not kind.holds.sizes:
        sized = counted(len(table), "image")
        lost += (f"sizes of {sized}: not kept, and the files are left out",)
    return (*lost, *losses(table, kind.holds), *placing.lost)


def held(table: DetectionTable, format: str) -> DetectionTable:
    """What of `table` is there to be read again from a dataset written in `format`."""
    holds = FORMATS[format].holds
    return objects_held(writable(table, holds)[0], holds)
