"""Between our state dicts and those of other detectors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dhcli.config.heads import part_of
from dhcli.config.schema import Config, Csp, Dense, Pvt, ResNet, TorchVision, TwoStage
from dhcli.errors import ModelError
from dhcli.models.state import is_counter, shorten
from dhcli.weights.layout_names import ExportName, LayoutName
from dhcli.weights.layouts import (
    EXPORTS,
    LAYOUTS,
    Pair,
    torchvision,
    transformers,
)
from dhcli.weights.layouts.mmdet import detr
from dhcli.weights.plain_file import read_plain
from dhcli.weights.recognise import is_described


@dataclass(frozen=True)
class Foreign:
    """A file of another program.

    state    its tensors, without the prefix that a wrapper leaves (`module.`, Lightning's `model.`)
    classes  class names, where the file has them
    facts    what else it says of itself: program's version, epoch, iteration
    told     the configuration of that program, if it holds it, and the name of the file
    """

    path: Path
    layout: LayoutName
    state: dict[str, Tensor]
    classes: tuple[str, ...] | None
    facts: dict[str, Any]
    told: str


@dataclass(frozen=True)
class Row:
    """What became of some tensors: those of a part of the detector, or those left behind."""

    part: str
    tensors: int
    how: str


def read_foreign(path: Path, layout: LayoutName | None = None) -> Foreign:
    """Read another program's file; `layout` None: recognised by its names.

    Raises ModelError where it cannot be read, or is of no layout or another one.
    """
    plain = read_plain(path)
    state = _without_prefix(plain.state)
    for of_layout in (torchvision, detr, transformers):
        state = of_layout.modern(state)
    found = next((name for name, one in LAYOUTS.items() if one.recognise(state)), None)
    if found is None and path.suffix == ".safetensors" and is_described(path):
        raise ModelError("is already a model file of dh", where=path, hint="use it as it is")
    if found is None or layout not in (None, found):
        held = f"names such as {shorten(list(state))}"
        looks = f", but of {LAYOUTS[found].TITLE}" if found else f" ({held})"
        wanted = LAYOUTS[layout].TITLE if layout else "any layout that dh knows"
        hint = "`dh weights import --help` names the layouts and the detectors"
        raise ModelError(f"is not a detector of {wanted}{looks}", where=path, hint=hint)
    told = f"{_configuration(plain.about)}\n{path.name}"
    return Foreign(path, found, state, *_about(plain.about), told)


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the detector itself names them, where a wrapper has it as one of its parts."""
    ends = tuple(f".{name}" for one in LAYOUTS.values() for name in one.CLASSIFIERS)
    inner = {end[1:] for end in ends} & state.keys()
    wrapped = next((name for name in state if name.endswith(ends)), None)
    if inner or wrapped is None:
        return dict(state)
    longest = max((end for end in ends if wrapped.endswith(end)), key=len)  # others are its ends
    prefix = wrapped.removesuffix(longest[1:])
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _about(about: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, dict[str, Any]]:
    """Class names and facts of what stands beside the tensors."""
    meta = about.get("meta")
    every = {**about, **(meta if isinstance(meta, Mapping) else {})}
    dataset = every.get("dataset_meta")
    inner = dataset if isinstance(dataset, Mapping) else {}
    named = [part.get(key) for part in (inner, every) for key in ("classes", "CLASSES")]
    names = next((one for one in named if isinstance(one, list | tuple) and one), None)
    facts = ("mmdet_version", "mmengine_version", "epoch", "iter", "iteration", "time")
    found = {key: every[key] for key in facts if isinstance(every.get(key), str | int | float)}
    return (None if names is None else tuple(map(str, names))), found


def _configuration(about: Mapping[str, Any]) -> str:
    """The text of the configuration of MMDetection 2 (`config`) or 3 (`cfg`); "" without."""
    meta = about.get("meta")
    inner = meta if isinstance(meta, Mapping) else {}
    texts = (inner.get(key) for key in ("config", "cfg"))
    return next((text for text in texts if isinstance(text, str)), "")


def convert(foreign: Foreign, config: Config) -> tuple[dict[str, Tensor], list[Row]]:
    """The state dict of the detector `config` from a foreign one, and what became of each tensor.

    Raises ModelError where a tensor is missing or left without a reason.
    """
    layout, state = LAYOUTS[foreign.layout], foreign.state
    pairs = list(layout.pairs(config))
    own = {one.ours: one.read(state[one.theirs]) for one in pairs if one.theirs in state}
    read = {one.theirs for one in pairs}
    left = {name: _reason(name, layout.LEFT) for name in state if name not in read}
    missing = [one.theirs for one in pairs if one.theirs not in state and not one.optional]
    unknown = [name for name, reason in left.items() if reason is None]
    kinds = (("missing", missing), ("unknown", unknown))
    if missing or unknown:
        what = "; ".join(f"{kind}: {shorten(names)}" for kind, names in kinds if names)
        raise ModelError(f"does not fully match {config.about}: {what}", where=foreign.path)
    rows = _rows([one for one in pairs if one.theirs in state], config)
    reasons = Counter(reason for reason in left.values() if reason is not None)
    return own, rows + [Row("left", count, reason) for reason, count in reasons.items()]


def _reason(name: str, patterns: Mapping[str, str]) -> str | None:
    return next((why for pattern, why in patterns.items() if re.fullmatch(pattern, name)), None)


def _rows(pairs: list[Pair], config: Config) -> list[Row]:
    parts: dict[str, list[Pair]] = {}
    for one in pairs:
        parts.setdefault(part_of(one.ours, fine=True), []).append(one)
    counts = {part: len({one.theirs for one in ones}) for part, ones in parts.items()}
    return [Row(part, counts[part], _how(part, ones, config)) for part, ones in parts.items()]


def _how(part: str, pairs: list[Pair], config: Config) -> str:
    kept = all(one.theirs == one.ours for one in pairs)
    words = ["names kept" if kept else "renamed"]
    if any(one.last_first for one in pairs):
        words.append("reordered: background from last to first")
    if any(one.third is not None for one in pairs):
        words.append("query, key and value apart")
    if part == "backbone":
        words.append(f"its first convolution reads {config.input.channels.upper()}")
    model = config.model
    if part.endswith(" reg") and isinstance(model, TwoStage) and model.head.background_box:
        words.append("with the background's box, first")
    return "; ".join(words)


def export_state(
    state: Mapping[str, Tensor], config: Config, layout: ExportName
) -> dict[str, Tensor]:
    """Our state dict under another program's names, in its order; the tensors are the same.

    Raises ModelError where that program has no such detector.
    """
    writable = EXPORTS[layout]
    if isinstance(config.model, TorchVision):
        what = f"a detector of kind `{config.model.kind}` already has that program's names"
        raise ModelError(what, hint="no other layout has such a detector")
    backbone = config.model.backbone
    fits = ResNet | Pvt | Csp if isinstance(config.model, Dense) else ResNet
    if not isinstance(backbone, fits):
        what = f"its backbone is of kind `{backbone.kind}`, but that program needs a ResNet"
        raise ModelError(f"{writable.TITLE} has no such detector: {what}")
    reason = writable.misfit(config)
    if reason is not None:
        raise ModelError(f"{writable.TITLE} has no such detector: {reason}")
    pairs = [one for one in writable.pairs(config) if one.ours in state or not one.optional]
    _check_whole(pairs, state, writable.TITLE)
    written: dict[str, Tensor] = {}
    for one in pairs:
        part = one.write(state[one.ours])
        whole = one.third is not None and one.theirs in written
        written[one.theirs] = torch.cat([written[one.theirs], part]) if whole else part.clone()
    return written


def _check_whole(pairs: list[Pair], state: Mapping[str, Tensor], title: str) -> None:
    """Raise ModelError where a tensor of `state` would be left out, or is not there."""
    ours = {one.ours for one in pairs}
    lacks = [name for name in ours if name not in state]
    beside = [name for name in state if name not in ours and not is_counter(name)]
    if lacks:
        raise ModelError(f"lacks {shorten(sorted(lacks))}")
    if beside:
        what = f"there is no place for {shorten(beside)} there"
        raise ModelError(f"{title} has no such detector: {what}")
