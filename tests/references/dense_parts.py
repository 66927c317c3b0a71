"""YOLOF's encoder, YOLOX's backbone and neck and PVT, from the tensors of MMDetection's files.

Written from the facts and the papers, slowly and plainly, without any of dhcli's code. Names are
those of the file without `backbone.` and `neck.`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.references.network import State, batch_norm, conv

DILATIONS = (2, 4, 6, 8)
HEADS, REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)


# YOLOF's encoder


def dilated_encoder(c5: Tensor, state: State) -> Tensor:
    x = conv(c5, state, "lateral_conv")
    x = batch_norm(x, state, "lateral_norm", 1e-5)
    x = conv(x, state, "fpn_conv")
    x = batch_norm(x, state, "fpn_norm", 1e-5)
    for block, dilation in enumerate(DILATIONS):
        name = f"dilated_encoder_blocks.{block}"
        y = conv(x, state, f"{name}.conv1.conv")
        y = batch_norm(y, state, f"{name}.conv1.bn", 1e-5).relu()
        weight = state[f"{name}.conv2.conv.weight"]
        y = F.conv2d(y, weight, None, 1, padding=dilation, dilation=dilation)
        y = batch_norm(y, state, f"{name}.conv2.bn", 1e-5).relu()
        y = conv(y, state, f"{name}.conv3.conv")
        y = batch_norm(y, state, f"{name}.conv3.bn", 1e-5).relu()
        x = x + y
    return x


# YOLOX


def unit(x: Tensor, state: State, name: str, stride: int = 1) -> Tensor:
    x = batch_norm(conv(x, state, f"{name}.conv", stride), state, f"{name}.bn", 1e-3)
    return x * torch.sigmoid(x)


def csp_layer(x: Tensor, state: State, name: str, *, shortcut: bool) -> Tensor:
    main, short = unit(x, state, f"{name}.main_conv"), unit(x, state, f"{name}.short_conv")
    block = 0
    while f"{name}.blocks.{block}.conv1.conv.weight" in state:
        y = unit(main, state, f"{name}.blocks.{block}.conv1")
        y = unit(y, state, f"{name}.blocks.{block}.conv2")
        main = main + y if shortcut else y
        block += 1
    return unit(torch.cat([main, short], 1), state, f"{name}.final_conv")


def csp_darknet(x: Tensor, state: State) -> list[Tensor]:
    """The four stages' features; YOLOX takes the last three."""
    four = [x[..., y::2, z::2] for y, z in ((0, 0), (1, 0), (0, 1), (1, 1))]
    x = unit(torch.cat(four, 1), state, "stem.conv")
    levels = []
    for stage in (1, 2, 3, 4):
        x = unit(x, state, f"stage{stage}.0", 2)
        if stage == 4:
            y = unit(x, state, "stage4.1.conv1")
            pooled = [F.max_pool2d(y, side, 1, side // 2) for side in (5, 9, 13)]
            x = unit(torch.cat([y, *pooled], 1), state, "stage4.1.conv2")
        last = "stage4.2" if stage == 4 else f"stage{stage}.1"
        x = csp_layer(x, state, last, shortcut=stage < 4)
        levels.append(x)
    return levels


def pafpn(features: list[Tensor], state: State) -> list[Tensor]:
    c3, c4, c5 = features
    p5 = unit(c5, state, "reduce_layers.0")
    up = p5.repeat_interleave(2, 2).repeat_interleave(2, 3)
    p4 = csp_layer(torch.cat([up, c4], 1), state, "top_down_blocks.0", shortcut=False)
    p4 = unit(p4, state, "reduce_layers.1")
    up = p4.repeat_interleave(2, 2).repeat_interleave(2, 3)
    n3 = csp_layer(torch.cat([up, c3], 1), state, "top_down_blocks.1", shortcut=False)
    down = unit(n3, state, "downsamples.0", 2)
    n4 = csp_layer(torch.cat([down, p4], 1), state, "bottom_up_blocks.0", shortcut=False)
    down = unit(n4, state, "downsamples.1", 2)
    n5 = csp_layer(torch.cat([down, p5], 1), state, "bottom_up_blocks.1", shortcut=False)
    return [unit(level, state, f"out_convs.{i}") for i, level in enumerate((n3, n4, n5))]


# Pyramid Vision Transformer


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def tokens_of(x: Tensor) -> Tensor:
    """(1, C, H, W) to (H·W, C)."""
    return x[0].flatten(1).T


def stretched(positions: Tensor, height: int, width: int) -> Tensor:
    """(1, s·s, C) to (H·W, C): bilinear, half a cell from the border to the first centre."""
    side = math.isqrt(positions.shape[1])
    square = positions[0].reshape(side, side, -1)
    rows = []
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * side / height - 0.5, 0), side - 1)
            u = min(max((x + 0.5) * side / width - 0.5, 0), side - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, side - 1), min(left + 1, side - 1)
            above = square[top, left] * (1 - (u - left)) + square[top, right] * (u - left)
            below = square[bottom, left] * (1 - (u - left)) + square[bottom, right] * (u - left)
            rows.append(above * (1 - (v - top)) + below * (v - top))
    return torch.stack(rows)


def attention(q: Tensor, kv: Tensor, state: State, name: str, heads: int) -> Tensor:
    """(n, C) tokens that look at (m, C) tokens, head by head."""
    weight, bias = state[f"{name}.in_proj_weight"], state[f"{name}.in_proj_bias"]
    width = q.shape[1]
    query, key, value = (
        x @ weight[k * width : (k + 1) * width].T + bias[k * width : (k + 1) * width]
        for k, x in enumerate((q, kv, kv))
    )
    parts = []
    for head in range(heads):
        own = slice(head * width // heads, (head + 1) * width // heads)
        scores = query[:, own] @ key[:, own].T / math.sqrt(width // heads)
        parts.append(scores.softmax(1) @ value[:, own])
    out = torch.cat(parts, 1)
    return out @ state[f"{name}.out_proj.weight"].T + state[f"{name}.out_proj.bias"]


def pvt(x: Tensor, state: State) -> list[Tensor]:
    """C2 … C5 of one image (1, 3, H, W)."""
    levels = []
    for stage, (heads, reduction) in enumerate(zip(HEADS, REDUCTIONS, strict=True)):
        name, side = f"layers.{stage}", 4 if stage == 0 else 2
        weight, bias = state[f"{name}.0.projection.weight"], state[f"{name}.0.projection.bias"]
        x = F.conv2d(x, weight, bias, side)
        height, width = x.shape[2:]
        tokens = layer_norm(tokens_of(x), state, f"{name}.0.norm")
        tokens = tokens + stretched(state[f"{name}.1.0.pos_embed"], height, width)
        layer = 1
        while f"{name}.1.{layer}.norm1.weight" in state:
            place = f"{name}.1.{layer}"
            q = layer_norm(tokens, state, f"{place}.norm1")
            kv = q
            if reduction > 1:
                grid = q.T.reshape(1, -1, height, width)
                weight, bias = state[f"{place}.attn.sr.weight"], state[f"{place}.attn.sr.bias"]
                kv = tokens_of(F.conv2d(grid, weight, bias, reduction))
                kv = layer_norm(kv, state, f"{place}.attn.norm")
            tokens = tokens + attention(q, kv, state, f"{place}.attn.attn", heads)
            y = layer_norm(tokens, state, f"{place}.norm2")
            for part in (0, 3):
                inner = f"{place}.ffn.layers.{part}"
                y = y @ state[f"{inner}.weight"][:, :, 0, 0].T + state[f"{inner}.bias"]
                if part == 0:
                    y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
            tokens = tokens + y
            layer += 1
        x = tokens.T.reshape(1, -1, height, width)
        levels.append(x)
    return levels
