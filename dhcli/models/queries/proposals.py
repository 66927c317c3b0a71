"""Where the queries of a two-stage Deformable DETR begin: at boxes that the encoder's cells say.

"Deformable DETR: Deformable Transformers for End-to-End Object Detection" (Zhu et al., 2021), A.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dhcli.models.init import start_rarely
from dhcli.models.queries import transformer
from dhcli.ops.largest import largest, places_of_largest

FIRST_SIDE = 0.05
"""Side of a cell's own box on the finest level, in parts of the image; twice that on each next."""
EDGE = 0.01
"""Own boxes with a number nearer than this to 0 or 1 are not asked."""


class Proposed(NamedTuple):
    """What the S cells say, and the N queries that begin at the best of them.

    logits     (B, S, K) float;  boxes  (B, S, 4) float32 of cxcywh in 0…1
    queries    (B, N, 2 · C) float32: position, then content
    reference  (B, N, 4) float32 of cxcywh in 0…1, without gradient
    """

    logits: Tensor
    boxes: Tensor
    queries: Tensor
    reference: Tensor


class Proposals(nn.Module):
    """Every cell moves a box of its own and scores it; the best `count` are the queries.

    The first class stands for objects of any: the others are only taught the background.

    in   x       (B, S, C) float, the cells of all levels
         inside  of each level (B, h, w) bool, whether a cell lies within its image
    """

    def __init__(self, channels: int, scores: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.memory = nn.Linear(channels, channels)
        self.memory_norm = nn.LayerNorm(channels)
        self.cls = nn.Linear(channels, scores)
        self.reg = transformer.box_layers(channels)
        self.place = nn.Linear(2 * channels, 2 * channels)
        self.place_norm = nn.LayerNorm(2 * channels)
        for layer in (self.memory, self.place):
            nn.init.xavier_uniform_(layer.weight)
        start_rarely(self.cls)
        for weight in self.reg[-1].parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor, inside: Sequence[Tensor]) -> Proposed:
        own = own_boxes(inside)
        seen = torch.cat([one.flatten(1) for one in inside], dim=1)[..., None]
        asked = ((own > EDGE) & (own < 1 - EDGE)).all(dim=-1, keepdim=True) & seen
        read = torch.where(asked, x, 0).to(self.memory.weight.dtype)
        cells = self.memory_norm(self.memory(read))
        logits = self.cls(cells)
        # The box of a cell that is not asked is 1 in all its numbers, whatever is added
        moved = self.reg(cells).float() + torch.where(asked, own.logit(), torch.inf)
        if torch.compiler.is_exporting():  # one image; what is lacking is no query: all hear of all
            best = places_of_largest(logits[0, :, 0], self.count)[None]
            torch._check(best.shape[1] > 1)  # there are several levels; attention has to know
        else:
            _, best = largest(logits[..., 0], self.count)
        reference = moved.detach().gather(1, best[..., None].expand(-1, -1, 4)).sigmoid()
        waves = waves_of(reference, x.shape[-1] // 2).to(self.place.weight.dtype)
        queries = self.place_norm(self.place(waves))
        return Proposed(logits, moved.sigmoid(), queries, reference)


def own_boxes(inside: Sequence[Tensor]) -> Tensor:
    """The box of each cell before it is moved, (B, S, 4) float32 of cxcywh in parts of the image.

    in   inside  as of `Proposals`; the padding's lie beyond 1
    """
    every = []
    for level, centres in enumerate(transformer.cell_centres(inside)):
        side = torch.full_like(centres, FIRST_SIDE * 2**level)
        every.append(torch.cat([centres, side], dim=-1))
    return torch.cat(every, dim=1)


def waves_of(boxes: Tensor, channels: int) -> Tensor:
    """Sines and cosines in turn of each number of boxes (B, N, 4) in 0…1: (B, N, 4 · channels)."""
    index = torch.arange(channels, device=boxes.device) // 2 * 2
    angles = boxes[..., None] * 2 * math.pi / 10_000 ** (index.to(boxes) / channels)
    pairs = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1)
    return pairs.flatten(2)
