"""What a training that starts from weights keeps of what they were trained with."""

from __future__ import annotations

from typing import Any

from dhcli.config.load import config_to_dict
from dhcli.config.schema import Config
from dhcli.models.build import describe_detector
from dhcli.models.state import shorten
from dhcli.training.data import TrainingData
from dhcli.training.fit_anchors import with_usual_anchors
from dhcli.weights.exchange import differing
from dhcli.weights.model_file import ModelFile
from dhcli.weights.transfer import transfer

SIZES = ("input.min_size", "input.max_size")


def inherited_settings(source: Config) -> dict[str, Any]:
    """The settings that weights mean nothing without: they stand above a preset's.

    The architecture, how an image becomes a tensor, and the sizes that were trained at.
    """
    values = config_to_dict(source)
    sizes = {"min_sizes": values["augment"]["min_sizes"]}
    return {"model": values["model"], "input": values["input"], "augment": sizes}


def inheritance_lines(config: Config, source: Config) -> list[str]:
    """At which size is trained, and what the user changed of what the weights were trained with."""
    now, then = _size(config), _size(source)
    was = f"weights were trained at {then}" if now != then else "as the weights were trained"
    lines = [f"input size: {now} ({was})"]
    changed = [
        f"{key} {value} (was {before})"
        for key, value, before in differing(config, source)
        if key not in SIZES
    ]
    if changed:
        lines.append(f"different from how the weights were trained: {shorten(changed)}")
    return lines


def require_same_network(config: Config, source: ModelFile) -> None:
    """Raise ModelError where `config` describes another network than the weights are of."""
    described = describe_detector(with_usual_anchors(config), len(source.classes))
    transfer(source, described, source.classes, {})


def with_learned_order(config: Config, data: TrainingData, source: ModelFile) -> Config:
    """`config` that names the classes where their order is the weights', so that it stays."""
    if data.train.classes != source.classes:
        return config
    named = config.data.model_copy(update={"classes": source.classes})
    return config.model_copy(update={"data": named})


def _size(config: Config) -> str:
    return f"{config.input.min_size}, max {config.input.max_size}"
