"""Any file of weights as a model file: dh's own, or another program's."""

from __future__ import annotations

from pathlib import Path

from dhcli.weights.exchange import import_weights
from dhcli.weights.model_file import ModelFile, read_model
from dhcli.weights.recognise import is_foreign


def read_weights(path: Path) -> ModelFile:
    """A model file, or another program's weights with their own conventions.

    Raises ModelError as `read_model` and `import_weights` do.
    """
    return import_weights(path).model if is_foreign(path) else read_model(path)


def origin_lines(path: Path, model: ModelFile) -> list[str]:
    """What another program's detector was taken for; nothing of one trained here."""
    origin = model.metadata.get("origin")
    if origin is None:
        return []
    return [f"{path}: {model.config.about}", *(f"note: {note}" for note in origin["notes"])]
