"""Any weights as a model file: dh's own, another program's file, or what torchvision publishes."""

from __future__ import annotations

from pathlib import Path

from dhcli.weights.exchange import import_weights
from dhcli.weights.model_file import ModelFile, read_model
from dhcli.weights.published import is_published, read_published
from dhcli.weights.recognise import is_foreign


def read_weights(path: Path) -> ModelFile:
    """A model file, or another program's weights with their own conventions.

    `torchvision:NAME` is a detector that torchvision publishes. Raises ModelError as `read_model`,
    `import_weights` and `read_published` do.
    """
    if is_published(path):
        return read_published(path)
    return import_weights(path).model if is_foreign(path) else read_model(path)


def origin_lines(path: Path, model: ModelFile) -> list[str]:
    """What another program's detector was taken for; nothing of one trained here."""
    origin = model.metadata.get("origin")
    if origin is None:
        return []
    return [f"{path}: {model.config.about}", *(f"note: {note}" for note in origin["notes"])]
