"""What DETR and Deformable DETR share around transformers' layers.

transformers has the layers; what runs them is here. So its traps have no place: no auxiliary loss
changes the network, the encoder's input is not dropped out, no backbone is built or frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import TransformerHead
from dhcli.errors import DhError
from dhcli.models.queries.set_loss import Said
from dhcli.ops.batch import ImageBatch


def layer_settings(config: TransformerHead, channels: int) -> dict[str, Any]:
    """What transformers' configurations of both detectors ask for.

    Raises DhError where it is not installed.
    """
    if find_spec("transformers") is None:
        what = "a detector of kind `detr` needs transformers"
        raise DhError(what, hint="pip install 'dhcli[detr]'")
    return {
        "use_timm_backbone": False,
        "attn_implementation": "sdpa",
        "d_model": channels,
        "encoder_attention_heads": config.attention_heads,
        "decoder_attention_heads": config.attention_heads,
        "encoder_ffn_dim": config.ffn_width,
        "decoder_ffn_dim": config.ffn_width,
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
        "activation_dropout": config.dropout,
    }


def box_layers(channels: int) -> nn.Sequential:
    """Three fully connected layers to a box."""
    parts = [nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(channels, 4))


def inside_masks(levels: Sequence[Tensor], images: ImageBatch) -> list[Tensor]:
    """Which cells of each level lie within their image: (B, h, w) bool each.

    As the nearest pixel of the padded batch.
    """
    pixels = images.inside().float()
    return [F.interpolate(pixels, size=level.shape[-2:])[:, 0] > 0 for level in levels]


def cell_centres(inside: Sequence[Tensor]) -> list[Tensor]:
    """The centre x, y of every cell of each level: (B, h · w, 2) float32, in parts of the image.

    in   inside  as of `inside_masks`; the padding's lie beyond 1
    """
    every = []
    for mask in inside:
        rows, columns = (torch.arange(side, device=mask.device) for side in mask.shape[1:])
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        sides = torch.stack([mask[:, 0].sum(dim=1), mask[:, :, 0].sum(dim=1)], dim=1)[:, None]
        every.append((torch.stack([x, y], dim=-1).flatten(0, 1).float() + 0.5) / sides)
    return every


def places(position: nn.Module, level: Tensor, inside: Tensor) -> Tensor:
    """The sines of where each cell lies, (B, h · w, C): in float32 at least, then as the level."""
    exact = torch.promote_types(level.dtype, torch.float32)
    sines: Tensor = position(level.shape, level.device, exact, inside)
    return sines.flatten(2).mT.to(level.dtype)


def say(logits: Tensor, parts: Tensor, sizes: Tensor) -> Said:
    """Scores (B, N, …), and boxes of cxcywh (B, N, 4) in 0…1 as xyxy pixels of each image."""
    centre, half = parts[..., :2], parts[..., 2:] / 2
    sides = sizes.flip(1).repeat(1, 2)[:, None].to(parts)
    return Said(logits.float(), torch.cat([centre - half, centre + half], dim=-1) * sides)


def layers_by_name(encoder: nn.ModuleList, decoder: nn.ModuleList) -> dict[str, nn.Module]:
    """The layers of both in their order."""
    return {
        f"{name} {number}": layer
        for name, layers in (("encoder", encoder), ("decoder", decoder))
        for number, layer in enumerate(layers, 1)
    }
