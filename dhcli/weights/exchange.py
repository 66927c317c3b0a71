"""Other programs' detectors as model files that give the same detections, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dhcli import __version__
from dhcli.atomic import atomic_write
from dhcli.config.load import config_from_dict, config_to_dict
from dhcli.config.schema import Config, TwoStage
from dhcli.errors import ModelError
from dhcli.models.build import anchors_of, describe_detector
from dhcli.models.state import check_state
from dhcli.weights.class_names import ClassNames, coco_names
from dhcli.weights.foreign import Foreign, Row, convert, export_state, read_foreign
from dhcli.weights.layout_names import ExportName, LayoutName
from dhcli.weights.layouts import EXPORTS, LAYOUTS
from dhcli.weights.model_file import ModelFile, read_model
from dhcli.weights.recognise import save_plain
from dhcli.words import counted

SHORT = {"resnet18": "r18", "resnet34": "r34", "resnet50": "r50", "resnet101": "r101"}
CONVENTIONS = ("input", "model")
"""Sections of the configuration that an origin decides."""
ARCHITECTURE = ("model.head.", "model.neck.", "model.backbone.name", "model.pool.size")


@dataclass(frozen=True)
class Imported:
    """A foreign detector as a model file.

    title  what it was recognised as
    rows   what became of its tensors
    notes  what the file did not say and was taken to be so
    """

    model: ModelFile
    title: str
    rows: list[Row]
    notes: list[str]


def import_weights(
    path: Path,
    layout: LayoutName | None = None,
    classes: ClassNames | None = None,
    overrides: Sequence[str] = (),
) -> Imported:
    """Read another program's detector; `layout` None: recognised by the names of its tensors.

    The configuration holds the origin's conventions, under `overrides` (`--set`). Raises ModelError
    where the file is of no known detector, or a tensor is missing, too many or of another shape.
    """
    foreign = read_foreign(path, layout)
    config = _configure(foreign, overrides)
    state, rows = convert(foreign, config)
    names, notes = _name_classes(foreign, classes)
    described = describe_detector(config, len(names.names))
    check_state(described, state, path, "--set changes settings that the file does not hold")
    _check_anchors(foreign, config)
    origin = {"layout": foreign.layout, "file": path.name, "notes": notes, **foreign.facts}
    model = ModelFile(config, names.names, names.ids, state, {"origin": origin})
    return Imported(model, config.about, rows, notes)


def export_weights(path: Path, out: Path, layout: ExportName) -> list[str]:
    """Write a model file for another program; say which of its settings that program has not.

    Raises ModelError where the program has no such detector.
    """
    model = read_model(path)
    state = export_state(model.state, model.config, layout)
    meta = {"CLASSES": model.classes, "dataset_meta": {"classes": model.classes}}
    content: object = state
    text = EXPORTS[layout].text(model.config)
    if layout == "megvii":
        content = {"model": state}
    elif layout != "torchvision":
        told = {"config": text} if text else {}
        content = {"meta": {**meta, **told, "dh": __version__}, "state_dict": state}
    with atomic_write(out) as file:
        save_plain(content, file)
    file_name = "" if getattr(model.config.model.backbone, "bn_epsilon", 0) else path.name
    own = _settings(EXPORTS[layout].settings(state, f"{text}\n{file_name}"))
    return list(_differences(model.config, own))


def conventions(config: Config) -> list[str]:
    """The settings that an origin brought, as `key=value`: those that are not the default."""
    usual = Config.model_validate({"model": {"kind": config.model.kind}})
    every = differing(config, usual)
    return [f"{key}={now}" for key, now, default in every if not key.startswith(ARCHITECTURE)]


def _differences(config: Config, own: Config) -> list[str]:
    return [
        f"{key} is {now}, there {theirs}"
        for key, now, theirs in differing(config, own)
        if not key.startswith(("model.rpn.proposals_train", "model.backbone.frozen_stages"))
    ]


def differing(one: Config, other: Config) -> list[tuple[str, Any, Any]]:
    """Dotted key and both values of each setting of input and model in which the two differ."""
    first, second = (_leaves({k: config_to_dict(c)[k] for k in CONVENTIONS}) for c in (one, other))
    return [(key, x, second.get(key)) for key, x in first.items() if x != second.get(key)]


def _leaves(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def _configure(foreign: Foreign, overrides: Sequence[str]) -> Config:
    layout = LAYOUTS[foreign.layout]
    try:
        values = layout.settings(foreign.state, foreign.told)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        lack = f"it has no {error.args[0]}" if isinstance(error, KeyError) else "its shapes differ"
        what = f"comes from {layout.TITLE}, but is not a detector that dh knows: {lack}"
        hint = "`dh weights import --help` names the detectors"
        raise ModelError(what, where=foreign.path, hint=hint) from error
    if "name" in values:
        return _settings(values, overrides)
    depth = values["model"]["backbone"]["name"]
    if depth is None:
        what = "its backbone is not a ResNet-18, 34, 50 or 101, and no PVT"
        raise ModelError(what, where=foreign.path)
    kind = values["about"]
    kinds = values["model"].get("kind"), values["model"].get("neck", {}).get("kind")
    neck = "" if kinds[0] == "detr" else "-C5" if kinds[1] == "dilated" else "-FPN"
    short = SHORT.get(depth, depth.replace("_", "-"))
    backbone = depth.replace("resnet", "ResNet-").replace("pvt_", "PVT-")
    values["name"] = f"{foreign.layout}-{kind.lower().replace(' ', '-')}-{short}"
    values["about"] = f"{layout.TITLE}'s {kind}, {backbone}{neck}"
    return _settings(values, overrides)


def _settings(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    return config_from_dict(values, "the layout", overrides)


def _name_classes(foreign: Foreign, given: ClassNames | None) -> tuple[ClassNames, list[str]]:
    """The names of the classes: as given, of the file, COCO's, or numbers."""
    layout = LAYOUTS[foreign.layout]
    count = layout.count_classes(foreign.state)
    if given is not None:
        if len(given.names) != count:
            what = f"has {counted(count, 'class')}, and --classes names {len(given.names)}"
            raise ModelError(what, where=foreign.path)
        return given, []
    ids = tuple(range(1, count + 1))
    if foreign.classes is not None and len(foreign.classes) == count:
        return ClassNames(foreign.classes, ids), []
    hint = "name them with --classes"
    if count == layout.COCO_CLASSES:
        note = f"the file does not name its {count} classes: COCO's are used; if wrong, {hint}"
        return ClassNames(coco_names(count), ids), [note]
    note = f"the file does not name its {counted(count, 'class')}: called `class 1` …; {hint}"
    return ClassNames(tuple(f"class {number}" for number in ids), ids), [note]


def _check_anchors(foreign: Foreign, config: Config) -> None:
    """Compare the anchors of a cell, where the file has them, with those of the configuration."""
    name = LAYOUTS[foreign.layout].ANCHORS
    if not name or not isinstance(config.model, TwoStage):
        return
    sizes = config.model.anchors.known_sizes()
    for level, (size, (_, ours)) in enumerate(zip(sizes, anchors_of(config), strict=True)):
        stored = foreign.state.get(name.format(level=level))
        if stored is None:
            continue
        if not _agree(stored, ours, inclusive=config.model.legacy_plus_one):
            raise ModelError(
                f"its anchors on level {level} are {stored.tolist()}, not those of size {size:g}",
                where=foreign.path,
                hint="give the sizes and ratios it was trained with: `--set model.anchors.sizes=[…]"
                " --set model.anchors.ratios=[…]`",
            )


def _agree(stored: Tensor, ours: Tensor, *, inclusive: bool) -> bool:
    theirs = stored.float() + torch.tensor([0.0, 0.0, 1.0, 1.0]) * inclusive
    return stored.shape == ours.shape and torch.allclose(theirs, ours, atol=1e-3)
