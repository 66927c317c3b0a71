"""How a dense head says a box: by what it changes of its prior, by distances from its
centre, or by centre and size.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dhcli.config.schema.dense import CentreBoxes, DeltaBoxes, DistanceBoxes
from dhcli.ops.boxes import MAX_LOG_SCALE, decode_boxes, encode_boxes
from dhcli.ops.priors import Priors

TINY = 1e-8
"""Added to a side, in strides, before its logarithm."""


class Coder(Protocol):
    """Between what is predicted of N priors and their boxes, (…, N, 4) both."""

    def decode(self, said: Tensor, priors: Priors) -> Tensor:
        """The boxes, float32 xyxy, not clipped."""

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """What would be said of `boxes` (N, 4)."""


class Deltas:
    """See `decode_boxes`."""

    def __init__(self, config: DeltaBoxes) -> None:
        self.config = config

    def decode(self, said: Tensor, priors: Priors) -> Tensor:
        config = self.config
        return decode_boxes(
            said,
            priors.boxes,
            config.std,
            clamp_shrinking=config.clamp == "both",
            max_log_scale=math.inf if config.clamp == "none" else MAX_LOG_SCALE,
            max_shift=config.max_shift,
        )

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        return encode_boxes(boxes, priors.boxes, self.config.std)


class Distances:
    """Left, top, right, bottom from the centre of a prior, in units of its level."""

    def __init__(self, config: DistanceBoxes) -> None:
        self.config = config

    def decode(self, said: Tensor, priors: Priors) -> Tensor:
        centres = priors.centres()
        distances = self.positive(said.float()) * self.units(priors)
        low, high = centres - distances[..., :2], centres + distances[..., 2:]
        return torch.cat([low, high], dim=-1)

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        centres = priors.centres()
        distances = torch.cat([centres - boxes[:, :2], boxes[:, 2:] - centres], dim=1)
        distances = distances / self.units(priors)
        return distances.log() if self.config.positive_by == "exp" else distances

    def units(self, priors: Priors) -> Tensor:
        """Pixels of a unit, (N, 1) float32."""
        unit = self.config.unit
        return priors.strides * unit if unit else torch.ones_like(priors.strides)

    def positive(self, said: Tensor) -> Tensor:
        """Distances in units."""
        return said.exp() if self.config.positive_by == "exp" else F.relu(said)


class Centres:
    """Of a prior at (x, y), stride s: centre x + s dx, y + s dy; sides s eᵈʷ, s eᵈʰ ("YOLOX")."""

    def __init__(self, config: CentreBoxes) -> None:
        self.config = config

    def decode(self, said: Tensor, priors: Priors) -> Tensor:
        said = said.float()
        centre = priors.centres() + said[..., :2] * priors.strides
        half = said[..., 2:].exp() * (priors.strides / 2)
        return torch.cat([centre - half, centre + half], dim=-1)

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        size = boxes[:, 2:] - boxes[:, :2]
        shift = (boxes[:, :2] + size / 2 - priors.centres()) / priors.strides
        return torch.cat([shift, (size / priors.strides + TINY).log()], dim=1)


CODERS: dict[type[Any], Any] = {
    DeltaBoxes: Deltas,
    DistanceBoxes: Distances,
    CentreBoxes: Centres,
}
"""What says boxes, by the class of the section `boxes`."""
