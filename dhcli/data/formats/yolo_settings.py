"""What data.yaml, or darknet's obj.data, says of a YOLO dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from dhcli.data.io.files import list_files, read_lines, read_text
from dhcli.errors import DataError

SPLIT_KEYS = ("train", "val", "valid", "validation", "test")
_DARKNET = ".data"
SETTINGS = (".yaml", ".yml", _DARKNET)
_BRACKETS = re.compile(r"[\[\]{}]")
_LONGEST_YAML, _DEEPEST_YAML = 1 << 20, 100


def settings_of(root: Path) -> Path | None:
    """The file in `root` that names classes: data.yaml, or another that tells of splits."""
    found = list_files(root, *SETTINGS)
    usual = [name for name in found if name.lower().startswith(("data.", "dataset."))]
    if usual:
        return root / usual[0]
    for name in found:
        try:
            settings = read_settings(root / name)
        except DataError:  # not ours
            continue
        if "names" in settings and any(key in settings for key in SPLIT_KEYS):
            return root / name
    return None


def read_settings(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file, every scalar as it is written: a class may be called `no`.

    Or that of darknet's `key = value` lines.
    """
    if path.suffix.lower() == _DARKNET:
        pairs = (line.partition("=") for line in read_lines(path) if not line.startswith("#"))
        told = {key.strip(): value.strip() for key, _, value in pairs}
        return {key: value for key, value in told.items() if key in (*SPLIT_KEYS, "names")}
    text = read_text(path)
    if len(text) > _LONGEST_YAML:
        raise DataError("is too long to tell of classes and splits", where=path)
    # PyYAML takes time in the square of the depth, and its C loader all of the stack.
    depths = accumulate(1 if letter in "[{" else -1 for letter in _BRACKETS.findall(text))
    if max(depths, default=0) > _DEEPEST_YAML:
        raise DataError("is not YAML: nested too deep", where=path)
    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = getattr(error, "problem", None) or "cannot be read"
        raise DataError(f"is not YAML: {problem}", where=path) from None
    return found if isinstance(found, dict) else {}


def keypoint_columns(settings: Mapping[str, Any], where: Path) -> int:
    """How many columns of a label line are keypoints, by `kpt_shape`; 0 where there is none.

    Raises DataError.
    """
    shape = settings.get("kpt_shape")
    if shape is None:
        return 0
    try:
        keypoints, numbers = map(int, shape)
    except (TypeError, ValueError):
        keypoints = numbers = 0
    if keypoints < 1 or numbers not in (2, 3):
        hint = "it is [K, D]: K keypoints of D numbers each, where D is 2 or 3"
        raise DataError("`kpt_shape` cannot be used", where=where, hint=hint)
    return keypoints * numbers
