"""Several tables as one."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dhcli.data.strings import Strings
from dhcli.data.table import Column, DetectionTable
from dhcli.words import counted

Ids = NDArray[np.int64]


def merge_datasets(tables: Sequence[DetectionTable]) -> DetectionTable:
    """All images of datasets that lie in different folders; see `merge_tables`."""
    roots = [table.root.resolve() for table in tables]
    common = Path(os.path.commonpath(roots))
    moved = []
    for table, root in zip(tables, roots, strict=True):
        below = root.relative_to(common).as_posix()
        files = (posixpath.normpath(f"{below}/{file}") for file in table.files)
        moved.append(replace(table, root=common, files=Strings.pack(files)))
    return merge_tables(moved)


def merge_tables(tables: Sequence[DetectionTable]) -> DetectionTable:
    """All images of `tables`, which share a root; classes go by name.

    An image that several list (by its file) keeps the boxes of the first, and is in the splits of
    all. Classes come in the order of their ids. Ids that would name two classes or images are given
    anew, from 1, and a note says so; those of annotations stay, being a file's own. Scores stay
    where all boxes have them.
    """
    names, category_ids, kind = _merge_classes(tables)
    parts, splits = _merge_images([table.with_classes(names) for table in tables])
    image_ids, images = _unique(np.concatenate([part.image_ids for part in parts]))
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    twice = sum(map(len, tables)) - len(image_ids)
    shared = [f"{counted(twice, 'image')} listed twice: the first boxes are used"] if twice else []
    notes = chain.from_iterable([*(table.notes for table in tables), kind, images, shared])
    with_boxes = [part.scores for part in parts if len(part.boxes)]
    scores = [own for own in with_boxes if own is not None]
    return replace(
        tables[0],
        scores=np.concatenate(scores) if len(scores) == len(with_boxes) > 0 else None,
        files=Strings.join([part.files for part in parts]),
        image_ids=image_ids,
        sizes=np.concatenate([part.sizes for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        flags=np.concatenate([part.flags for part in parts]),
        classes=names,
        category_ids=category_ids,
        areas=np.concatenate([part.areas for part in parts]),
        box_ids=np.concatenate([part.box_ids for part in parts]),
        splits=splits,
        extras=_join([part.extras for part in parts], [len(part.boxes) for part in parts]),
        image_extras=_join([part.image_extras for part in parts], [len(part) for part in parts]),
        about={name: text for table in reversed(tables) for name, text in table.about.items()},
        notes=tuple(dict.fromkeys(notes)),
        remarks=tuple(chain.from_iterable(table.remarks for table in tables)),
    )


def _merge_classes(tables: Sequence[DetectionTable]) -> tuple[tuple[str, ...], Ids, list[str]]:
    """Names and ids of all classes; the ids are 1…K, with a note, where the tables disagree."""
    pairs = [zip(t.category_ids.tolist(), t.classes, strict=True) for t in tables]
    known = dict.fromkeys(chain.from_iterable(pairs))
    if len({number for number, _ in known}) == len(known) == len({name for _, name in known}):
        ordered = sorted(known)
        names, ids = tuple(name for _, name in ordered), [number for number, _ in ordered]
        return names, np.array(ids, np.int64), []
    names = tuple(dict.fromkeys(name for _, name in known))
    renumbered = np.arange(1, len(names) + 1, dtype=np.int64)
    return names, renumbered, ["the files give different ids to the classes: all get new ids"]


def _merge_images(
    tables: Sequence[DetectionTable],
) -> tuple[list[DetectionTable], dict[str, NDArray[np.int64]]]:
    """The tables without images that an earlier one has, and the splits of them all together."""
    number_of: dict[str, int] = {}
    parts = []
    splits: dict[str, NDArray[np.int64]] = {}
    for table in tables:
        files = list(table.files)
        fresh = [index for index, file in enumerate(files) if file not in number_of]
        number_of |= {files[i]: number for number, i in enumerate(fresh, len(number_of))}
        numbers = np.array([number_of[file] for file in files], np.int64)
        for name, images in table.splits.items():
            splits[name] = np.union1d(splits.get(name, numbers[:0]), numbers[images])
        parts.append(table.take_images(np.array(fresh, np.int64)))
    return parts, splits


def _unique(ids: Ids) -> tuple[Ids, list[str]]:
    if len(np.unique(ids)) == len(ids):
        return ids, []
    return np.arange(1, len(ids) + 1, dtype=np.int64), ["ids of images repeat: all get new ids"]


def _join(parts: Sequence[Mapping[str, Column]], sizes: Sequence[int]) -> dict[str, Column]:
    """Each column over all parts; rows of a part without it are empty text, or NaN."""
    joined: dict[str, Column] = {}
    for name in dict.fromkeys(chain.from_iterable(parts)):
        example = next(part[name] for part in parts if name in part)
        columns = [
            part[name] if name in part else _blank(example, size)
            for part, size in zip(parts, sizes, strict=True)
        ]
        if isinstance(example, Strings):
            joined[name] = Strings.join([c for c in columns if isinstance(c, Strings)])
        else:
            joined[name] = np.concatenate([c for c in columns if isinstance(c, np.ndarray)])
    return joined


def _blank(example: Column, size: int) -> Column:
    if isinstance(example, Strings):
        return Strings.repeat("", size)
    return np.full((size, *example.shape[1:]), np.nan)
