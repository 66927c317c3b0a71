"""`finetune`: what `dh finetune` does in addition to training."""

from __future__ import annotations

from pydantic import Field

from dhcli.config.schema.base import Section


class Finetune(Section):
    """What `dh finetune` does in addition to training."""

    aliases: dict[str, str] = Field(default_factory=dict)
    """Class of the new data → class of the weights that it starts from."""
