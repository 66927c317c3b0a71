"""A configuration whose pixels are scaled as those that its backbone's weights learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dhcli.config.load import Resolved, load_config
from dhcli.config.schema import TimmNet

_USERS = ("--", "file", "the weights")
"""How the origin of a setting begins that stands above what a backbone asks for."""


def configure(
    preset: str | None = None,
    *,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Resolved:
    """What `load_config` gives, with `input.mean` and `input.std` as timm says of its network.

    Where the preset that names the network, a file or the user sets them, they stay.
    """
    resolved = load_config(preset, file=file, overrides=overrides, options=options, weights=weights)
    backbone = getattr(resolved.config.model, "backbone", None)
    if not isinstance(backbone, TimmNet):
        return resolved
    named = resolved.origins["model.backbone.name"]
    asked = [key for key in ("mean", "std") if not _stands(resolved.origins[f"input.{key}"], named)]
    if not asked:
        return resolved
    from dhcli.weights.timm_weights import normalisation  # loads torch

    known = normalisation(backbone.name)
    theirs = {key: known[key] for key in asked if key in known}
    scaled = resolved.config.input.model_copy(update=theirs)
    origins = {f"input.{key}": f"timm {backbone.name}" for key in theirs}
    config = resolved.config.model_copy(update={"input": scaled})
    return replace(resolved, config=config, origins=resolved.origins | origins)


def _stands(origin: str, named: str) -> bool:
    return origin == named != "default" or origin.startswith(_USERS)
