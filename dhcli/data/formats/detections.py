"""Detections in files of YOLO, KITTI or VOC, one per image, away from the images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dhcli.data.formats import kitti, voc, yolo
from dhcli.data.formats.layouts import Format
from dhcli.data.formats.yolo_images import NOT_LABELS, is_label
from dhcli.data.formats.yolo_names import NAME_FILES, class_names
from dhcli.data.formats.yolo_settings import find_settings
from dhcli.data.io.files import (
    join_path,
    last_part,
    list_files,
    list_folders,
    list_images,
    read_head,
    stem_of,
)
from dhcli.data.strings import Strings
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError

_DEEPEST = 20


def are_label_files(path: Path) -> bool:
    """Whether a folder has text files, in it or below, or XML files in several, and no images."""
    if not path.is_dir() or list_images(path, deep=True):
        return False
    files = _files_below(path)
    folders = {Path(file).parent for file in files}
    return len(folders) > 1 or (bool(files) and Path(files[0]).suffix.lower() != ".xml")


def read_label_files(path: Path, truth: DetectionTable) -> DetectionTable:
    """The detections in the label files below `path`, on images of `truth`.

    A file is of the image that has the longest end of its path in common. Without names beside
    them, numbers of classes are those of a YOLO dataset. Raises DataError where not one file goes
    with an image, one with several, or one cannot be read.
    """
    labels = _match(path, truth.files)
    format, kind, *folders = _kind_of([path / label for label in labels.values()])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sub in folders:
            (folder / sub).mkdir()
        for image, label in labels.items():
            suffix = Path(last_part(truth.files[image])).suffix
            link = folder / folders[0] / f"{image}{Path(label).suffix.lower()}"
            link.symlink_to((path / label).resolve())
            (folder / folders[1] / f"{image}{suffix}").symlink_to(truth.path(image).resolve())
        _put_names(folder, path, truth)
        try:
            found = kind.layout.read(folder, kind.read, kind.title)
        except DataError as error:
            raise _at_home(error, path, folder, labels) from None
    files = [truth.files[int(stem_of(file))] for file in found.files]
    remarks = [
        remark._replace(where=_home(remark.where, labels) or remark.where)
        for remark in found.remarks
    ]
    return replace(found, files=Strings.pack(files), remarks=tuple(remarks), format=format)


def _kind_of(labels: Sequence[Path]) -> tuple[str, Format, str, str]:
    """The format of label files, by its name too, and its folders of labels and of images."""
    if all(label.suffix.lower() == ".xml" for label in labels):
        return "voc", voc.FORMAT, "Annotations", "JPEGImages"
    if any(map(kitti.is_label, labels)):
        return "kitti", kitti.FORMAT, "label_2", "image_2"
    return "yolo", yolo.FORMAT, "labels", "images"


def _put_names(folder: Path, path: Path, truth: DetectionTable) -> None:
    """Put what names classes beside the labels into `folder`, or else those of a YOLO dataset."""
    called_so = (name for name in list_files(path, "") if name.lower() in NAME_FILES)
    names = [n for n in called_so if read_head(path / n).strip() and not _is_label(path / n)]
    for name in names:
        (folder / name).symlink_to((path / name).resolve())
    settings = None if names else find_settings(path)
    if settings and (told := class_names(path, settings, ())):
        (folder / "data.yaml").write_text(json.dumps({"names": told}), "utf-8")
    elif not names and truth.format == "yolo":
        lines = "".join(f"{name}\n" for name in truth.classes)
        (folder / "classes.txt").write_text(lines, "utf-8", "surrogateescape")


def _at_home(error: DataError, path: Path, folder: Path, labels: Mapping[int, str]) -> DataError:
    """The error, at the file that was linked into `folder`."""
    known = _home(error.where or "", labels)
    return DataError(error.what, where=path / known if known else path, hint=error.hint)


def _home(where: str, labels: Mapping[int, str]) -> str | None:
    """The label file, with the line, that is linked as `where`; None where it is another file."""
    file, colon, line = where.rpartition(":")
    stem = stem_of(file if colon else where)
    known = labels.get(int(stem)) if stem.isdecimal() else None
    return f"{known}{colon}{line if colon else ''}" if known else None


def _files_below(path: Path) -> list[str]:
    """POSIX paths of what may be files of detections; beside VOC's, text files are lists."""
    folders = _folders_below(path)
    labels = [join_path(f, name) for f in folders for name in _label_names(path / f)]
    xml = [join_path(f, name) for f in folders for name in list_files(path / f, ".xml")]
    return xml if xml and not any(_is_label(path / label) for label in labels) else labels


def _folders_below(path: Path) -> list[str]:
    """POSIX paths of a folder itself and of those below, not endlessly deep."""
    found, folders = [], [""]
    for _ in range(_DEEPEST):
        found += folders
        folders = [join_path(f, name) for f in folders for name in list_folders(path / f)]
    return found


def _label_names(folder: Path) -> Iterator[str]:
    """Names of what may be label files: of an image `classes.jpg` that is `classes.txt`."""
    for name in list_files(folder, ".txt"):
        if name.lower() not in NOT_LABELS or _is_label(folder / name):
            yield name


def _is_label(path: Path) -> bool:
    return is_label(path) or kitti.is_label(path)


def _match(path: Path, images: Sequence[str]) -> dict[int, str]:
    """The label file of each image, by number, that has one. Raises DataError."""
    named: dict[str, list[int]] = {}
    for number, image in enumerate(images):
        for key in {last_part(image), stem_of(image)}:
            named.setdefault(key, []).append(number)
    labels: dict[int, str] = {}
    files = _files_below(path)
    for file in files:
        options = named.get(stem_of(file), [])
        ranks = [_rank(images[number], file) for number in options]
        best = [n for n, rank in zip(options, ranks, strict=True) if rank == max(ranks)]
        if len(best) > 1:
            what = f"could be of {images[best[0]]} or of {images[best[1]]}"
            raise DataError(what, where=path / file)
        for number in best:
            other = labels.setdefault(number, file)
            if other != file and other.rpartition("/")[0] == file.rpartition("/")[0]:
                what = f"is of {images[number]}, as {other} is"
                raise DataError(what, where=path / file, hint="remove the one that is wrong")
            labels[number] = file
    if not labels:
        what = f"holds no label file of an image of the dataset, but {', '.join(files[:3])}"
        raise DataError(what, where=path)
    return labels


def _rank(image: str, file: str) -> tuple[int, bool]:
    """How well a label file goes with an image: a.jpg.txt better with a.jpg than a.jpg.png."""
    return _common_folders(image, file), last_part(image) == stem_of(file)


def _common_folders(image: str, file: str) -> int:
    """How many folders at the end of two paths are the same."""
    pairs = zip(image.split("/")[-2::-1], file.split("/")[-2::-1], strict=False)
    lengths = [one == other for one, other in pairs]
    return [*lengths, False].index(False)
