"""From the configuration to an optimiser over a detector's trainable weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from dhcli.config.schema import Train
from dhcli.errors import ConfigError, suggest

BACKBONE = "backbone"
"""Presets name it for whatever is trained; a detector from elsewhere need not have one."""


def kept_per_weight(train: Train) -> int:
    """How many numbers the optimiser keeps for each weight."""
    return 1 if train.optimizer == "sgd" else 2


def build_optimizer(module: nn.Module, train: Train) -> Optimizer:
    """SGD with momentum over all trainable weights, or AdamW.

    AdamW, and SGD with `spare_norms`, do not decay norms and biases.

    The learning rate is set at every iteration, see `set_rate`; weights whose rates differ are in
    groups of their own. Raises ConfigError where everything is frozen, or a part of
    `train.lr_multipliers` is none of the detector's.
    """
    factors = _factors(module, train.lr_multipliers)
    weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    if not weights:
        raise ConfigError("no weights to train: all are frozen", hint="`--freeze 0`")
    sgd = train.optimizer == "sgd"
    decay_all = sgd and not train.spare_norms
    groups: list[dict[str, Any]] = []
    for factor in dict.fromkeys(factors[name] for name in weights):
        same = [weight for name, weight in weights.items() if factors[name] == factor]
        spared = [weight for weight in same if weight.ndim <= 1 and not decay_all]
        others = [weight for weight in same if weight.ndim > 1 or decay_all]
        groups.append({"params": others, "weight_decay": train.weight_decay, "factor": factor})
        if not decay_all:
            groups.append({"params": spared, "weight_decay": 0.0, "factor": factor})
    # On a CPU one pass over the weights instead of many: SGD to the bit, AdamW to the last digit;
    # but there it does not pass over a step whose scaled gradient has overflowed
    on_cpu = all(weight.is_cpu for weight in weights.values())
    fused = (on_cpu and train.precision != "fp16") or None
    if sgd:
        nesterov = train.nesterov and train.momentum > 0
        return SGD(groups, train.lr, momentum=train.momentum, nesterov=nesterov, fused=fused)
    return AdamW(groups, train.lr, betas=(train.momentum, 0.999), fused=fused)


def _factors(module: nn.Module, multipliers: Mapping[str, float]) -> dict[str, float]:
    """Of each weight, by name, what its learning rate is multiplied by."""
    parts = {name: name.split(".") for name, _ in module.named_parameters()}
    for asked in multipliers:
        if asked != BACKBONE and not any(asked in words for words in parts.values()):
            every = sorted({word for words in parts.values() for word in words[:-1]})
            what = f"no weight of the detector has a part `{asked}` in its name"
            raise ConfigError(what, where="train.lr_multipliers", hint=suggest(asked, every))
    return {
        name: math.prod(factor for part, factor in multipliers.items() if part in words)
        for name, words in parts.items()
    }


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Let every group learn at `rate`, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1)
