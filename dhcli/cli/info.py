"""`dh info`: what a model file is, from its header alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dhcli.cli.options import PUBLISHED, RUN, JsonFlag, model_argument
from dhcli.words import counted

if TYPE_CHECKING:
    from dhcli.config.schema import Config
    from dhcli.weights.model_file import ModelHeader

MOST_CLASSES = 20
"""Classes that are named; more are counted."""
_NO_MEASURES = ("lr", "train_", "val_")
"""How numbers of a training begin that do not say how good the model is: for `--json` alone."""
_USES = (("train", "to train on"), ("val", "to validate on"))


def info(
    model: Annotated[Path, model_argument(f"Model file, exported .onnx, {PUBLISHED}, {RUN}.")],
    as_json: JsonFlag = False,
) -> None:
    """Show what a model file holds: classes, network, sizes, metrics, where it comes from.

    Reads only the header of a model file. An exported .onnx does not say how many weights it has.

    For example:
      dh info model.safetensors
      dh info model.safetensors --json
      dh info torchvision:fcos_resnet50_fpn
    """
    from dhcli.report.console import print_json
    from dhcli.report.sheet import list_facts
    from dhcli.report.terminal import show

    file, header = _read(model)
    if as_json:
        print_json(_as_dict(file, header))
    else:
        show(list_facts(str(model), _rows(file, header)))


def _read(model: Path) -> tuple[Path, ModelHeader]:
    """The file of `model`, and what it holds; torch loads only for one that torchvision wrote."""
    from dhcli.runtime.runner import is_onnx
    from dhcli.weights.model_file import read_metadata
    from dhcli.weights.recognise import PUBLISHED

    if is_onnx(model):
        from dhcli.runtime.onnx import read_exported

        return model, read_exported(model)
    if not str(model).startswith(PUBLISHED):
        return model, read_metadata(model)
    from dhcli.weights.published import fetch_detector, read_published

    return fetch_detector(model), read_published(model).header()


def count_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Weights of each part of the network: backbone, neck, rpn, and each branch of the head.

    What batch norm counts (its running statistics) is not a weight.
    """
    from dhcli.config.heads import part_of

    counts: dict[str, int] = {}
    for name, shape in shapes.items():
        if name.endswith((".running_mean", ".running_var", ".num_batches_tracked")):
            continue
        part = part_of(name)
        counts[part] = counts.get(part, 0) + math.prod(shape)
    return counts


def _as_dict(path: Path, header: ModelHeader) -> dict[str, Any]:
    from dhcli.config.load import config_to_dict

    weights = count_weights(header.shapes)
    pairs = zip(header.category_ids, header.classes, strict=True)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "preset": header.config.name,
        "classes": [{"id": number, "name": name} for number, name in pairs],
        "weights": weights | {"all": sum(weights.values())} if weights else None,
        "metadata": header.metadata,
        "config": config_to_dict(header.config),
    }


def _rows(path: Path, header: ModelHeader) -> list[tuple[str, str]]:
    """What is shown, as label and text."""
    from dhcli.metrics.operating import KEY

    config, metadata = header.config, dict(header.metadata)
    weights = count_weights(header.shapes)
    pixels = config.input
    rows = [
        ("file", f"{path}, {path.stat().st_size / 1e6:.1f} MB"),
        ("preset", f"{config.name}: {config.about}" if config.about else config.name),
        ("classes", _class_line(header.classes)),
        ("input", f"shortest side {pixels.min_size}, longest {pixels.max_size} pixels"),
        *config.model.describe(),
        ("read-out", _read_out_line(config)),
        ("weights", f"{sum(weights.values()):,}" if weights else ""),
        *((f"  {part}", f"{count:,}") for part, count in weights.items()),
    ]
    for key, shown in (("data", _trained_on), ("metrics", _measures)):
        if isinstance(metadata.get(key), Mapping):
            metadata[key] = shown(metadata[key])
    made = [f"{key} {metadata.pop(key)}" for key in ("dh", "torch", "date") if key in metadata]
    rows.append(("made with", ", ".join(made)))
    said = {"classes": list(header.classes), **metadata}
    rows += _threshold_rows(path, header)
    rows += [(key, _plain(value, said)) for key, value in metadata.items() if key != KEY]
    return [(label, text) for label, text in rows if text]


def _threshold_rows(path: Path, header: ModelHeader) -> list[tuple[str, str]]:
    """The score thresholds that `dh predict` draws by, and what they were worth on validation."""
    from dhcli.metrics.operating import read_points
    from dhcli.report.tables import describe_point

    points = read_points(header.metadata, path)
    if points is None or points.all is None:
        return []
    rows = [("best F1", f"score from {points.all.threshold:g}: {describe_point(points.all)}")]
    least = points.thresholds(header.classes)
    if len(set(least.values())) > 1:
        rows.append(("  by class", _first([f"{name} {x:g}" for name, x in least.items()])))
    return rows


def _trained_on(data: Mapping[str, Any]) -> Mapping[str, Any] | str:
    """The data of a training in words; as they are where `dh train` does not tell them so."""
    match data:
        case {"train_images": int(), "train_boxes": int(), "val_images": int(), "val_boxes": int()}:
            pass
        case _:
            return data
    counts = (
        f"{counted(images, 'image')} with {counted(data[f'{use}_boxes'], 'box')} {what}"
        for use, what in _USES
        if (images := data[f"{use}_images"])
    )
    root = f"{data['root']}: " if "root" in data else ""
    return f"{root}{', '.join(counts)}"


def _measures(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: one for key, one in metrics.items() if not key.startswith(_NO_MEASURES)}


def _read_out_line(config: Config) -> str:
    """Whose scores and boxes a model gives; "" where it has one read-out anyway."""
    from dhcli.config.heads import ONLY, choose_read_out

    read_out = choose_read_out(config.model, None, None)
    return "" if read_out == ONLY else f"scores {read_out.scores}, boxes {read_out.boxes}"


def _class_line(classes: tuple[str, ...]) -> str:
    return f"{len(classes)}: {_first(classes)}"


def _first(words: Sequence[str]) -> str:
    """The first `MOST_CLASSES` of `words`, and how many more there are."""
    more = len(words) - MOST_CLASSES
    tail = f" and {more} more" if more > 0 else ""
    return f"{', '.join(words[:MOST_CLASSES])}{tail}"


def _plain(value: object, said: Mapping[str, object]) -> str:
    """A value of the metadata in words: numbers to four digits, mappings as `name value`.

    What of a mapping is `said` beside it is left out.
    """
    match value:
        case Mapping():
            more = {key: one for key, one in value.items() if said.get(key) != one}
            return ", ".join(f"{key} {_plain(one, {})}" for key, one in more.items())
        case list():
            return " ".join(_plain(one, {}) for one in value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
    return str(value)
