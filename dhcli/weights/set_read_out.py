"""A model file with another read-out: the same weights, read in another way from now on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from dhcli.config.heads import choose_read_out, with_read_out
from dhcli.weights.model_file import ModelFile


def set_read_out(
    model: ModelFile, scores: str | None, boxes: str | None, measured: Collection[str] = ()
) -> tuple[ModelFile, list[str]]:
    """`model` configured to be read by `scores` and `boxes`, and what of its metadata goes.

    None leaves one as it is configured. `measured` are the entries of the metadata that were
    measured with the read-out of the model: where it becomes another they no longer hold, and go.
    Raises ConfigError where the model cannot be read so.
    """
    settings = with_read_out(model.config.model, scores, boxes)
    before, after = (choose_read_out(one, None, None) for one in (model.config.model, settings))
    gone = [] if before == after else [key for key in measured if key in model.metadata]
    metadata = {key: value for key, value in model.metadata.items() if key not in gone}
    config = model.config.model_copy(update={"model": settings})
    return replace(model, config=config, metadata=metadata), gone
