"""DETR's head: "End-to-End Object Detection with Transformers" (Carion et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dhcli.config.schema import DetrHead as DetrConfig
from dhcli.models.contract import Predictor
from dhcli.models.init import spread_xavier
from dhcli.models.queries import transformer
from dhcli.models.queries.set_loss import Said
from dhcli.ops.batch import ImageBatch


class DetrHead(nn.Module):
    """The cells see each other, then learned queries see them; each layer's answer is read.

    in   levels  one, (B, C, h, w) float
    out  what each layer of the decoder says
    """

    def __init__(self, config: DetrConfig, channels: int, scores: int) -> None:
        super().__init__()
        settings = transformer.layer_settings(config, channels)
        from transformers import DetrConfig as Settings
        from transformers.models.detr import modeling_detr as library

        told = Settings(**settings)
        self.position = library.DetrSinePositionEmbedding(channels // 2, normalize=True)
        self.encoder = nn.ModuleList(
            library.DetrEncoderLayer(told) for _ in range(config.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            library.DetrDecoderLayer(told) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.queries = nn.Parameter(torch.randn(config.queries, channels))
        self.cls = nn.Linear(channels, scores)
        self.reg = transformer.box_layers(channels)
        spread_xavier(self.encoder)
        spread_xavier(self.decoder)

    def forward(self, levels: Sequence[Tensor], images: ImageBatch) -> list[Said]:
        [level] = levels
        [inside] = transformer.inside_masks(levels, images)
        place = transformer.places(self.position, level, inside)
        mask = inside.flatten(1)[:, None, None]  # of the keys: the same for all heads and queries
        x = level.flatten(2).mT
        for layer in self.encoder:
            x = layer(x, mask, spatial_position_embeddings=place)
        queries = self.queries.to(x.dtype).repeat(len(x), 1, 1)
        y, every = torch.zeros_like(queries), []
        for layer in self.decoder:
            y = layer(y, None, place, queries, x, encoder_attention_mask=mask)
            # Of a copy: the next layer sees the state as it is
            read = self.norm(y.to(self.norm.weight.dtype))
            boxes = self.reg(read).float().sigmoid()
            every.append(transformer.say(self.cls(read), boxes, images.sizes))
        return every

    def parts(self) -> dict[str, nn.Module]:
        """The layers in their order."""
        return transformer.layers_by_name(self.encoder, self.decoder)

    def predictors(self, rows: Predictor) -> dict[str, Predictor]:
        """The tensors that have `rows` by class."""
        return {f"cls.{part}": rows for part in ("weight", "bias")}
