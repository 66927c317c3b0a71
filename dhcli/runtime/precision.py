"""What the network computes in; boxes, scores and NMS are float32 whatever it is."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from dhcli.errors import ConfigError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """What the network computes in: "fp32", "bf16" or "fp16" on `device`."""

    name: str
    device: torch.device

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the network trains."""
        kind = self.device.type
        return torch.autocast(kind, DTYPES.get(self.name), enabled=self.name in DTYPES)


def choose_precision(name: str, device: torch.device) -> Precision:
    """The precision called `name`; auto is the fastest that trains well on `device`.

    bf16 on GPUs that compute in it, fp16 with scaled gradients on older ones, else fp32. A CPU that
    only imitates bf16 would take longer: there it is fp32.
    """
    if name == "bf16" and device.type == "cpu" and not _cpu_computes_in_bf16():
        return Precision("fp32", device)
    if name != "auto":
        return Precision(name, device)
    if device.type != "cuda":
        return Precision("fp32", device)
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return Precision("bf16" if native else "fp16", device)


def choose_detecting_precision(name: str, device: torch.device) -> Precision:
    """The precision called `name`; auto is the fastest that detects well on `device`.

    As in training, and bf16 on CPUs that compute in it too. Raises ConfigError for fp16 on a CPU.
    """
    if device.type != "cpu":
        return choose_precision(name, device)
    if name == "fp16":
        hint = "use fp32 or bf16; auto chooses bf16 if the processor supports it"
        raise ConfigError("fp16 is for GPUs", where="--precision", hint=hint)
    if name == "auto":
        name = "bf16" if _cpu_computes_in_bf16() else "fp32"
    return Precision(name, device)


def _cpu_computes_in_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported())
