"""From the configuration to an optimiser over a detector's trainable weights."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from dhcli.config.schema import Train
from dhcli.errors import ConfigError


def build_optimizer(module: nn.Module, train: Train) -> Optimizer:
    """SGD with momentum over all trainable weights, or AdamW.

    AdamW, and SGD with `spare_norms`, do not decay norms and biases.

    The learning rate is set at every iteration, see `set_rate`. Raises ConfigError where
    everything is frozen.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if not weights:
        raise ConfigError("no weights to train: all are frozen", hint="`--freeze 0`")
    moves: dict[str, Any] = {
        "momentum": train.momentum,
        "nesterov": train.nesterov and train.momentum > 0,
    }
    if train.optimizer == "sgd" and not train.spare_norms:
        return SGD(weights, train.lr, weight_decay=train.weight_decay, **moves)
    matrices = [weight for weight in weights if weight.ndim > 1]
    spared = [weight for weight in weights if weight.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    if train.optimizer == "sgd":
        return SGD(groups, train.lr, **moves)
    return AdamW(groups, train.lr, betas=(train.momentum, 0.999))


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Let every group learn at `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate
