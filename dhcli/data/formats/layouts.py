"""How the files of a dataset lie: one a split, one an image, or one a sequence of frames.

A layout knows whether a path is of its format and which files are; the format, what is in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dhcli.data.formats.columns import Columns
from dhcli.data.formats.placing import Holds, Placing
from dhcli.data.io.files import (
    IMAGE_SUFFIXES,
    FilesByStem,
    filled_files,
    find_folders,
    has_file,
    join_path,
    list_files,
    list_folders,
    list_images,
    split_folders,
    split_name,
    stem_of,
)
from dhcli.data.io.progress import track
from dhcli.data.merge import merge_tables
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError
from dhcli.words import counted, named

IsOurs = Callable[[Path], bool]
Read = Callable[..., DetectionTable]

_NAMED = (".json", ".xml")
"""Kinds of annotation files of which those left out are named; others hold lists that are read."""
_NO_SPLIT = "default"
"""What Datumaro and CVAT call images in no split."""
_SAMPLE = 20
_MOST = 50


@dataclass(frozen=True)
class FilePerSplit:
    """A file tells of all images, or of a split: one that is called, or lies in a folder called so.

    Several files that name no split are one dataset where each tells of other images. Files beside
    those that count are named in a note.

    looks_for  what is looked for, in words
    suffixes   how annotation files end, in lower case; the first of which there are any counts
    is_ours    whether a file is one
    in_folder  whether one found in a folder is, where that asks for more
    prefer     which of those found count
    prefix     what the names of files begin with, where splits may have any name: `instances_day`;
               None: they may not
    has_ids    whether the ids of images, boxes and classes are the files' own; else they go on
    folders    where files are looked for first, before the root and the folders in it
    """

    looks_for: str
    suffixes: Sequence[str]
    is_ours: IsOurs
    in_folder: IsOurs | None = None
    prefer: Callable[[list[Path]], list[Path]] = list
    prefix: str | None = None
    has_ids: bool = False
    folders: Sequence[str] = ("annotations",)

    def sniff(self, path: Path) -> bool:
        """Whether `path` is such a file, or a folder with some."""
        if path.is_file():
            return self.is_ours(path)
        return bool(self._find(path, self.in_folder or self.is_ours))

    def files(self, path: Path) -> list[Path]:
        """The annotation files of the folder `path`; a file stands for itself."""
        if path.is_file():
            return [path]
        strict = self._find(path, self.in_folder) if self.in_folder else []
        return strict or self._find(path, self.is_ours)

    def _find(self, root: Path, is_ours: IsOurs) -> list[Path]:
        found = (find_files(root, s, is_ours, self.folders) for s in self.suffixes)
        return self.prefer(next((files for files in found if files), []))

    def _beside(self, root: Path, files: Sequence[Path], title: str) -> Iterator[str]:
        """Notes on the files beside `files` that are left out.

        Of kinds that hold lists too, those alone that are called as a split that `files` lack.
        """
        suffix = files[0].suffix.lower()
        if suffix in _NAMED:
            ours, theirs = self._all_beside(root, files, suffix)
        else:
            ours, theirs = list[str](), _lost_splits(root, files, suffix)
        if ours:
            yield named(ours, f"file of {title} beside those of the splits: left out")
        if theirs:
            yield named(theirs, f"file not of {title}: left out")

    def _all_beside(
        self, root: Path, files: Sequence[Path], suffix: str
    ) -> tuple[list[str], list[str]]:
        """The files beside `files` that end in `suffix`: those of this layout, and the others."""
        ours: list[str] = []
        theirs: list[str] = []
        folders = dict.fromkeys((*(file.parent for file in files), root))
        if any(file.parent.name in dict(split_folders(root)).values() for file in files):
            folders |= dict.fromkeys(map(root.joinpath, list_folders(root)))
        for folder in folders:
            names = list_files(folder, suffix)
            for path in (folder / name for name in names):
                if path not in files:
                    is_ours = len(names) <= _MOST and self.is_ours(path)
                    (ours if is_ours else theirs).append(path.relative_to(root).as_posix())
        return ours, theirs

    def read(self, path: Path, read: Read, title: str) -> DetectionTable:
        """The dataset at `path`, by a function of the root and one annotation file.

        A file that tells the splits of its images keeps them. Raises DataError where there are no
        files, or several that tell of the same images and do not say which split they are.
        """
        files = self.files(path)
        if path.is_file():
            return read(root_of(path, self.folders), path)
        if not files:
            hint = f"looked for {self.looks_for} ({title})"
            raise DataError(f"holds no {title} file", where=path, hint=hint)
        tables, splits = [], _split_names(path, files, self.prefix)
        for file, split in zip(files, splits, strict=True):
            table = read(path, file)
            every = np.arange(len(table), dtype=np.int64)
            told = {split: every} if split and not table.splits else table.splits
            tables.append(replace(table, splits=told))
        notes = (*_apart(path, files, splits, tables), *self._beside(path, files, title))
        names = (file.relative_to(path).as_posix() for file in files)
        notes += _not_read(path, names, self.is_ours, title)
        whole = tables[0]
        if len(tables) > 1:
            whole = merge_tables(tables if self.has_ids else _numbered_on(tables))
        return replace(whole, notes=(*whole.notes, *notes))


class Part(NamedTuple):
    """A split or "", a folder of annotation files, one of images, and the files: () for all."""

    split: str
    labels: str
    images: str
    names: Sequence[str] = ()

    def files(self, root: Path, suffix: str) -> Sequence[str]:
        """Names of the annotation files, which end in `suffix`."""
        return self.names or list_files(root / self.labels, suffix)


@dataclass(frozen=True)
class FilePerImage:
    """A file tells of an image, in folders that go with folders of images.

    looks_for  what is looked for, in words
    is_ours    whether a file is one
    parts      where a folder has them: a `Part` a split, mostly; none where it is of another format
    around     the root of the dataset that one file stands for, and its parts
    is_folder  whether a folder is of the format, where having parts is not enough
    """

    looks_for: str
    is_ours: IsOurs
    parts: Callable[[Path], Iterable[Any]]
    around: Callable[[Path], tuple[Path, Iterable[Any]]]
    is_folder: IsOurs | None = None

    def sniff(self, path: Path) -> bool:
        """Whether `path` is such a file, or a folder with some."""
        if path.is_file():
            return self.is_ours(path)
        return self.is_folder(path) if self.is_folder else any(True for _ in self.parts(path))

    def files(self, path: Path) -> tuple[Path, Iterable[Any]]:
        """The root of the dataset at `path`, and its parts."""
        return self.around(path) if path.is_file() else (path, self.parts(path))

    def read(self, path: Path, read: Read, title: str) -> DetectionTable:
        """The dataset at `path`, by a function of the root and the parts. Raises DataError."""
        table = read(*self.files(path))
        if path.is_file():
            return table
        notes = _not_read(path, table.image_extras["annotation"], self.is_ours, title)
        return replace(table, notes=(*table.notes, *notes))


class FilePerSequence(FilePerImage):
    """A file tells of the frames of a sequence: a folder with images in it, which is a part."""


@dataclass(frozen=True)
class Format:
    """How a format is called, how its files lie, how they are read and written.

    read   as the layout asks for it
    write  put a table into the folder of a Placing
    holds  what it can hold
    """

    title: str
    layout: FilePerSplit | FilePerImage
    read: Read
    write: Callable[[DetectionTable, Placing], None]
    holds: Holds

    @property
    def has_ids(self) -> bool:
        """Whether ids are the files' own; else images and boxes are counted from 1."""
        return isinstance(self.layout, FilePerSplit) and self.layout.has_ids

    @property
    def looks_for(self) -> str:
        return f"{self.layout.looks_for} ({self.title})"


def add_part(
    columns: Columns, root: Path, part: Part, suffix: str, add: Callable[[Path], None]
) -> None:
    """Take the text files of a part: `add` each to `columns`, after the image of the same stem.

    Of an image that is not there, `suffix` is taken for granted. Images without text are not
    annotated: they are left out and named.
    """
    start, names = len(columns.files), part.files(root, ".txt")
    images = FilesByStem(root / part.images, *IMAGE_SUFFIXES)
    for name in track(names, "annotation files read"):
        image = images.find(stem_of(name)) or f"{stem_of(name)}{suffix}"
        annotation = join_path(part.labels, name)
        columns.add_image(join_path(part.images, image), 0, 0, annotation)
        add(root / annotation)
    left_out = set() if part.names else images.keys() - set(map(stem_of, names))
    unlabelled = sorted(join_path(part.images, images[stem]) for stem in left_out)
    columns.left_out["image without label file: left out"] += unlabelled
    columns.end_split(part.split, start)


def folders_beside(root: Path, parts: Sequence[Part], suffix: str) -> list[str]:
    """The folders beside those of splits that hold files ending in `suffix` too."""
    used = {part.labels.partition("/")[0] for part in parts if part.split}
    names = list_folders(root) if used else []
    return [name for name in names if name not in used and has_file(root / name, suffix)]


def _not_read(root: Path, files: Iterable[str], is_ours: IsOurs, title: str) -> tuple[str, ...]:
    """A note on folders of annotations that are not of `files`, but lie below theirs, or around.

    The root is not around: there lie the images, and what formats look at themselves.
    """
    read = {file.rpartition("/")[0]: file for file in files if file}
    around = {above for folder in read if (above := folder.rpartition("/")[0])}
    below = (each for folder in {*read, *around} for each in _below(root, folder))
    suffixes = {Path(file).suffix.lower() for file in read.values()}
    left = [f for f in {*around, *below} - read.keys() if _holds(root / f, suffixes, is_ours)]
    what = f"folder with files of {title} beside those read: left out"
    return (named(sorted(left), what),) if left else ()


def _below(root: Path, folder: str) -> Iterator[str]:
    """The folders in `folder`, and those in them, but not in those of images."""
    for name in list_folders(root / folder):
        below = join_path(folder, name)
        yield below
        if not has_file(root / below, *IMAGE_SUFFIXES):
            yield from (f"{below}/{each}" for each in list_folders(root / below))


def _holds(folder: Path, suffixes: Iterable[str], is_ours: IsOurs) -> bool:
    """Whether one of the first files in `folder` that say anything is of the format."""
    names = filled_files(folder, list_files(folder, *suffixes), _SAMPLE)
    return any(is_ours(folder / name) for name in names)


def find_files(
    root: Path, suffix: str, is_ours: IsOurs, first: Sequence[str] = ("annotations",)
) -> list[Path]:
    """Annotation files of a folder: those in one of `first`, else in itself, else in its folders.

    Folders that are called as splits count as the folder itself, and so does one of `first` in
    them. One that has images of its own, and does not speak of a split, is another dataset.
    """
    return next((files for files in _groups(root, suffix, is_ours, first) if files), [])


def _groups(root: Path, suffix: str, is_ours: IsOurs, first: Sequence[str]) -> Iterator[list[Path]]:
    named = [name for _, name in split_folders(root)]
    below = (f"{name}/{folder}" for name in named for folder in first)
    splits = (".", *named, *find_folders(root, below))
    within = (n for n in list_folders(root) if split_name(n) or not _has_images(root / n))
    firsts = ([folder] for folder in find_folders(root, first))
    for folders in (*firsts, splits, within):
        names = [(sub, name) for sub in folders for name in list_files(root / sub, suffix)]
        # A file an image is another format: one look at a few tells.
        if len(names) <= _MOST or any(is_ours(root / sub / name) for sub, name in names[:_SAMPLE]):
            files = (root / sub / name for sub, name in names)
            yield [file for file in files if is_ours(file)]


def _has_images(folder: Path) -> bool:
    """Whether images lie in `folder` or in a folder in it."""
    return any(
        list_images(place) for place in (folder, *map(folder.joinpath, list_folders(folder)))
    )


def _numbered_on(tables: Sequence[DetectionTable]) -> list[DetectionTable]:
    """The tables with the same classes, sorted if they are in each, and ids that go on."""
    names = list(dict.fromkeys(name for table in tables for name in table.classes))
    if all(list(table.classes) == sorted(table.classes) for table in tables):
        names.sort()
    numbered, images, boxes = [], 0, 0
    for table in tables:
        numbered.append(
            replace(
                table.with_classes(names),
                image_ids=table.image_ids + images,
                box_ids=table.box_ids + boxes,
                category_ids=np.arange(1, len(names) + 1, dtype=np.int64),
            )
        )
        images, boxes = images + len(table), boxes + len(table.boxes)
    return numbered


def _lost_splits(root: Path, files: Sequence[Path], suffix: str) -> list[str]:
    """The files beside `files` that are called as splits, by name or folder, that these lack."""
    known = {_split_of(root, file) for file in files}
    folders = dict.fromkeys((root, *(root / name for _, name in split_folders(root))))
    folders |= dict.fromkeys(file.parent for file in files)
    named = ((folder, filled_files(folder, list_files(folder, suffix))) for folder in folders)
    beside = (folder / name for folder, names in named for name in names)
    return [
        path.relative_to(root).as_posix()
        for path in beside
        if path not in files and _split_of(root, path) not in {None, *known}
    ]


def _split_of(root: Path, file: Path) -> str | None:
    """The split that an annotation file tells of, by its name or its folder's."""
    return split_name(file.stem) or _split_of_folders(file.relative_to(root).parent)


def root_of(path: Path, folders: Sequence[str] = ("annotations",)) -> Path:
    """The folder of the dataset that an annotation file alone, maybe in `folders`, stands for."""
    parts = tuple(part.lower() for part in path.parent.parts)
    for folder in sorted(folders, key=len, reverse=True):
        below = tuple(folder.split("/"))
        if parts[-len(below) :] == below:
            return path.parents[len(below)]
    return path.parent


def _split_of_folders(path: Path) -> str | None:
    """The split that the folders on a path from the root speak of, the last first."""
    return next((split for part in reversed(path.parts) if (split := split_name(part))), None)


def _split_names(root: Path, files: Sequence[Path], prefix: str | None) -> list[str | None]:
    """The split that each file tells of, by its name or its folder's.

    Of several files, what follows a `prefix` is the name of a split, whatever it says.
    """
    names = [_split_of(root, file) for file in files]
    if prefix is not None and len(files) > 1:
        own = (f.stem.removeprefix(prefix) if f.stem.startswith(prefix) else "" for f in files)
        others = (name if name != _NO_SPLIT else "" for name in own)
        names = [name or other or None for name, other in zip(names, others, strict=True)]
    known = [name for name in names if name]
    if len(set(known)) < len(known):  # train2014 beside train2017
        return [name and file.stem for name, file in zip(names, files, strict=True)]
    return names


def _apart(
    root: Path,
    files: Sequence[Path],
    splits: Sequence[str | None],
    tables: Sequence[DetectionTable],
) -> list[str]:
    """A note that several files without a split are read as one dataset.

    Raises DataError where they tell of the same images, or others do name a split.
    """
    if splits.count(None) < 2:
        return []
    told = Counter(chain.from_iterable(set(table.files) for table in tables))
    if splits.count(None) == len(splits) and max(told.values(), default=0) < 2:
        return [f"{counted(len(files), 'file')} with different images, read as one dataset"]
    nameless = [f for f, name in zip(files, splits, strict=True) if name is None]
    listed = ", ".join(file.relative_to(root).as_posix() for file in nameless[:5])
    raise DataError(
        f"several annotation files, and their names do not say which split each is: {listed}",
        where=root,
        hint="name the file to read instead of the folder, or merge them into one dataset: "
        f"`dh convert {nameless[0]} {nameless[1]} NEW --to coco`",
    )
