"""From the configuration to the images and boxes that are learned from and validated on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dhcli.config.schema import Data
from dhcli.data.formats import describe, read_dataset
from dhcli.data.loading.cache import ImageCache
from dhcli.data.table import FIRST_PIXEL, DetectionTable
from dhcli.data.tools.check import find_leaks
from dhcli.data.tools.findings import Finding
from dhcli.data.tools.mend import mend_for_training
from dhcli.data.tools.scan import Scan, scan_images
from dhcli.data.tools.split import divide
from dhcli.errors import ConfigError, DataError, suggest
from dhcli.training.journal import Journal
from dhcli.words import counted, first_twice

FIRST = 3
"""Findings of a code that are shown; the log has all."""
_SET_ASIDE = (
    "; a part of it is set aside for validation unless data.val_split names one of the others"
)


@dataclass(frozen=True)
class TrainingData:
    """What to learn from, and what to validate on: None if nothing was set aside for it.

    Both tables have the same classes, and boxes and images that can be used. A cache holds the
    decoded images of its table.
    """

    train: DetectionTable
    val: DetectionTable | None
    train_cache: ImageCache | None = None
    val_cache: ImageCache | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Where this data lies, and what tells it from other data, in plain values.

        For training and validation: how many images and boxes, and digests of the images' names, of
        their sizes, and of the boxes with labels and flags. No image file is read.
        """
        return dict(self._fingerprint)

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        found: dict[str, Any] = {"root": str(self.train.root), "classes": list(self.train.classes)}
        for use, table in (("train", self.train), ("val", self.val)):
            found[f"{use}_images"] = 0 if table is None else len(table)
            found[f"{use}_boxes"] = 0 if table is None else len(table.boxes)
            for part, digest in ({} if table is None else _digests(table)).items():
                found[f"{use}_{part}"] = digest
        return found


def load_data(
    config: Data, seed: int, journal: Journal, known: tuple[str, ...] | None = None
) -> TrainingData:
    """Read, split, relabel, mend and check the data that `config` names.

    Classes that are all those `known` by weights keep their order. Raises ConfigError where no
    data is named, and DataError where it cannot be used.
    """
    if config.train is None:
        raise ConfigError("no dataset is named", hint="`--data FOLDER`, or data.train in a file")
    whole = _read(config.train, journal)
    train, val = _split_one(whole, config, seed, journal) if config.val is None else (None, None)
    if train is None:
        assert config.val is not None
        train = _named_split(whole, config, "train")
        other = _read(config.val, journal)
        _compare_first_pixels(whole, other, journal)
        val = _named_split(other, config, "val")
    names = _class_names(config, train, known)
    learned = scan_images(train, decode=False)
    prepared = _prepared(train, learned, "training", names, config, journal)
    if val is None:
        return TrainingData(prepared, None)
    if config.val is None:
        val = replace(val, remarks=())  # told with the training data
    measured = scan_images(val, decode=False)
    _tell(find_leaks((train, learned), (val, measured)), "validation", journal)
    return TrainingData(prepared, _prepared(val, measured, "validation", names, config, journal))


def _digests(table: DetectionTable) -> dict[str, str]:
    """What a table holds of images and boxes, each part in one short text."""
    names = "\n".join(table.files).encode("utf-8", "surrogateescape")
    objects = (table.offsets, table.boxes, table.labels, table.flags)
    return {
        "names": _digest(names),
        "sizes": _digest(table.sizes.astype(np.int64).tobytes()),
        "objects": _digest(*(np.ascontiguousarray(column).tobytes() for column in objects)),
    }


def _digest(*parts: bytes) -> str:
    found = blake2b(digest_size=12)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _read(source: str, journal: Journal) -> DetectionTable:
    table = read_dataset(Path(source))
    journal.say(f"{source}: {describe(table)}")
    return table


def _compare_first_pixels(train: DetectionTable, val: DetectionTable, journal: Journal) -> None:
    """Warn where two datasets of one format were read as if made by different rules."""
    told = FIRST_PIXEL in train.about and FIRST_PIXEL in val.about
    if told and train.first_pixel != val.first_pixel:
        journal.warn(
            f"the first pixel is {train.first_pixel} in {train.root}, and {val.first_pixel} in "
            f"{val.root}, so far as their boxes tell: if both are the work of one program, boxes "
            "of one are a pixel off (`dh convert --voc-offset` decides)"
        )


def _named_split(
    table: DetectionTable, config: Data, use: Literal["train", "val"], more: str = ""
) -> DetectionTable:
    """The split that `config` names for this use, or the whole of a dataset that names no splits.

    Raises DataError that says how to choose another, and `more` of what that does.
    """
    if not table.splits:
        return table
    learns = use == "train"
    name, does = (config.train_split, "train") if learns else (config.val_split, "validate")
    try:
        return table.split(name)
    except DataError as error:
        other = next(iter(table.splits))
        hint = f"{does} on another: `--set data.{use}_split={other}`{more}"
        raise DataError(error.what, where=error.where, hint=hint) from None


def _split_one(
    table: DetectionTable, config: Data, seed: int, journal: Journal
) -> tuple[DetectionTable, DetectionTable | None]:
    """Training and validation images of a dataset that holds both."""
    if table.splits:
        train = _named_split(table, config, "train", _SET_ASIDE)
        apart = config.val_split != config.train_split
        if apart and len(table.splits.get(config.val_split, ())):
            _check_apart(table, config)
            return train, table.split(config.val_split)
        is_there = config.val_split in table.splits
        there = f"{'nothing is in its' if is_there else 'it has no'} split `{config.val_split}`"
        there = there if apart else f"its split `{config.train_split}` is used for training"
    else:
        train, there = table, "it names no splits"
    if not config.val_fraction:
        journal.warn(f"{there}, and val_fraction is 0: no validation, and no best model")
        return train, None
    divided = divide(train, config.val_fraction, seed)
    parts = divided.split("train"), divided.split("val")
    if not all(map(len, parts)):
        what = f"{there}, and {counted(len(train), 'image')} cannot be divided into training and "
        hint = "`--set data.val_fraction=0` trains on every image, without validation"
        raise DataError(f"{what}validation", where=train.root, hint=hint)
    journal.say(
        f"{there}: {len(parts[1])} of {len(train)} images set aside for validation "
        f"(data.val_fraction {config.val_fraction:g}, seed {seed})"
    )
    return parts


def _check_apart(table: DetectionTable, config: Data) -> None:
    shared = np.intersect1d(table.splits[config.train_split], table.splits[config.val_split])
    if len(shared):
        raise DataError(
            f"splits `{config.train_split}` and `{config.val_split}` share "
            f"{counted(len(shared), 'image')}, such as {table.files[int(shared[0])]}: AP would be "
            "measured on training images",
            where=table.root,
            hint="name splits without common images: `--set data.train_split=…`",
        )


def _class_names(
    config: Data, train: DetectionTable, known: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The classes to learn; every one that is asked for must be there."""
    if config.classes is None:
        if not train.classes:
            raise DataError("has no classes", where=train.root, hint="is it annotated at all?")
        if (twice := first_twice(train.classes)) is not None:
            hint = "give one of them another name"
            raise DataError(f"two classes are named `{twice}`", where=train.root, hint=hint)
        same = known is not None and set(known) == set(train.classes)
        return known if known is not None and same else train.classes
    unknown = [name for name in config.classes if name not in train.classes]
    if unknown:
        raise DataError(
            f"data.classes names `{unknown[0]}`, which the dataset does not have",
            where=train.root,
            hint=suggest(unknown[0], train.classes, "its classes are"),
        )
    return config.classes


def _prepared(
    table: DetectionTable,
    images: Scan,
    use: str,
    names: tuple[str, ...],
    config: Data,
    journal: Journal,
) -> DetectionTable:
    table = table.with_classes(names, others=config.others)
    table, findings = mend_for_training(table, images, on_bad_image=config.on_bad_image)
    _tell(findings, use, journal)
    if config.empty == "drop" and use == "training":
        kept = np.flatnonzero(
            np.bincount(table.image_of_box[table.taught(config.difficult)], minlength=len(table))
        )
        left_out = counted(len(table) - len(kept), "image without objects")
        journal.say(f"{left_out}: left out (data.empty)")
        table = table.take_images(kept)
    if not len(table):
        raise DataError(f"no {use} images are left", where=table.root)
    if not table.taught(config.difficult).any():
        what = f"no {use} image, of {len(table):,}, holds an object of the classes"
        raise DataError(f"{what} {', '.join(names)}", where=table.root)
    return table


def _tell(findings: list[Finding], use: str, journal: Journal) -> None:
    if not findings:
        return
    counts = Counter(finding.code for finding in findings)
    journal.warn(f"{counted(len(findings), 'finding')} in the {use} data (train.log has all):")
    shown: Counter[str] = Counter()
    for finding in findings:
        shown[finding.code] += 1
        mend = f" ({finding.training})" if finding.training else ""
        line = f"  {finding.code}: {finding.where}: {finding.what}{mend}"
        (journal.say if shown[finding.code] <= FIRST else journal.note)(line)
    for code, count in counts.items():
        if count > FIRST:
            journal.say(f"  … and {count - FIRST} more {code}")
