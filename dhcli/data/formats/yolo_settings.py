"""What data.yaml, or darknet's obj.data, says of a YOLO dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dhcli.config.text import read_as_written
from dhcli.data.io.files import list_files, read_lines, read_text, usual_split
from dhcli.errors import DataError

_SPLITS = ("train", "val", "test")
_DARKNET = ".data"
_USUAL = ("data.", "dataset.")
SETTINGS = (".yaml", ".yml", _DARKNET)
_NAMES = ("names", "nc")
_MOST_KEYPOINTS = 10_000


class Settings(NamedTuple):
    """What a file of settings, `name` from the root or "", says: every scalar as it is written.

    beside  names of others in the root, which do not count
    """

    name: str = ""
    told: Mapping[str, Any] = {}
    beside: Sequence[str] = ()


def find_settings(root: Path) -> Settings | None:
    """Those of the folder `root`: of data.yaml, or another file that tells of classes and splits.

    None if it has none. Raises DataError where data.yaml cannot be read.
    """
    names = list_files(root, *SETTINGS)
    names.sort(key=lambda name: not name.lower().startswith(_USUAL))
    if names and names[0].lower().startswith(_USUAL):
        first, others = read_settings(root / names[0]), names[1:]
        return first._replace(beside=[each.name for each in _telling(root, others)])
    found = [*_telling(root, names)]
    return found[0]._replace(beside=[each.name for each in found[1:]]) if found else None


def _telling(root: Path, names: Iterable[str]) -> Iterator[Settings]:
    """Those of the files `names` that tell of classes and splits."""
    for name in names:
        try:
            settings = read_settings(root / name)
        except DataError:  # not ours
            continue
        if "names" in settings.told and any(map(is_split_key, settings.told)):
            yield settings


def is_split_key(key: str) -> bool:
    """Whether what is told by `key` is of a split."""
    return usual_split(key) in _SPLITS


def read_settings(path: Path) -> Settings:
    """Those of a file in the root. Raises DataError where it cannot be read."""
    return Settings(path.name, _read(path))


def _read(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file, every scalar as it is written: a class may be called `no`.

    Or that of darknet's `key = value` lines.
    """
    if path.suffix.lower() == _DARKNET:
        pairs = (line.partition("=") for line in read_lines(path) if not line.startswith("#"))
        told = {key.strip(): value.strip() for key, _, value in pairs}
        told["nc"] = told.get("classes", "")
        return {key: value for key, value in told.items() if is_split_key(key) or key in _NAMES}
    try:
        found = read_as_written(read_text(path))
    except ValueError as error:
        raise DataError(str(error), where=path) from None
    return found if isinstance(found, dict) else {}


def keypoint_columns(root: Path, settings: Settings) -> int:
    """How many columns of a label line are keypoints, by `kpt_shape`; 0 where it tells of none.

    Raises DataError.
    """
    shape = settings.told.get("kpt_shape")
    if shape is None:
        return 0
    try:
        keypoints, numbers = map(int, shape)
    except (TypeError, ValueError):
        keypoints = numbers = -1
    if not 0 <= keypoints < _MOST_KEYPOINTS or numbers not in (2, 3):
        hint = "it is [K, D]: K keypoints of D numbers each, where D is 2 or 3"
        raise DataError("`kpt_shape` cannot be used", where=root / settings.name, hint=hint)
    return keypoints * numbers
