"""`model.neck`: from the backbone's features to those that proposals and branches see."""

from __future__ import annotations

from typing import Literal, TypeAlias

from dhcli.config.schema.base import Channels, Section


class Pyramid(Section):
    """The feature pyramid that proposals and branches see."""

    kind: Literal["fpn"] = "fpn"
    """fpn: the feature pyramid, P2 to P6."""
    channels: Channels = 256
    """Channels of every level of the pyramid."""


class NoNeck(Section):
    """Proposals and branches see the backbone's features as they are."""

    kind: Literal["none"] = "none"
    """none: C4 alone; the last stage of the backbone goes to a `res5` branch."""


Neck: TypeAlias = Pyramid | NoNeck
"""Every kind of neck."""
