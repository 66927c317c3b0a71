"""Any network of timm that gives a pyramid of features."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain, pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dhcli.errors import ConfigError, ModelError, suggest
from dhcli.models.contract import Features
from dhcli.models.state import load_state

STRIDES = (4, 8, 16, 32)
_WHERE = "model.backbone.name"


class TimmFeatures(Features):
    """A network of timm without its classifier: C2 … C5, whatever of these it has.

    in   (B, 3, H, W) float, normalised;  sides that are multiples of 32 suit every network
    out  a map for each of `strides`, (B, c, H / s, W / s)

    norm           what becomes of batch norms, where there are any: frozen_bn (fixed), eval_bn
                   (statistics fixed, scale and shift learn), bn (as they are)
    frozen_stages  parts, counted from the stem, whose weights are fixed
    Raises ConfigError where timm has no such network, or it has no such features.
    """

    runs_as_listed = False

    def __init__(self, name: str, norm: str = "frozen_bn", frozen_stages: int = 0) -> None:
        super().__init__()
        net = _create(name)
        info = net.feature_info
        chosen = [k for k, stride in enumerate(info.reduction()) if stride in STRIDES]
        if not chosen or len({info.reduction()[k] for k in chosen}) < len(chosen):
            got = ", ".join(map(str, info.reduction()))
            what = f"{name} has features of strides {got}, but a pyramid needs one each of 4 to 32"
            raise ConfigError(what, where=_WHERE)
        _require_any_size(name, net)
        self.channels = [info.channels()[k] for k in chosen]
        self.strides = [info.reduction()[k] for k in chosen]
        self.name, self._chosen = name, chosen
        self._last = str(getattr(net, "output_fmt", "")).upper().endswith("NHWC")
        self._modules_of = [info.module_name()[k] for k in chosen]
        self._windows = any("Window" in type(module).__name__ for module in net.modules())
        self.net: nn.Module = _with_norms(net, norm)
        for module in self.net.modules():
            if type(module).__name__ == "Conv2dSame":
                module.__class__ = SameConv2d
        self._in_eval = [m for m in self.net.modules() if norm == "eval_bn" and _is_norm(m)]
        if frozen_stages:
            self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        if torch.compiler.is_exporting() and self._windows:
            what = f"{self.name} divides maps into windows, which cannot be exported for any size"
            raise ModelError(what, hint="export a model with another backbone")
        levels = self.net(x)
        chosen = [levels[k] for k in self._chosen]
        return [level.permute(0, 3, 1, 2) for level in chosen] if self._last else chosen

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._in_eval:
            module.eval()
        return self

    def stages(self) -> list[list[nn.Module]]:
        """Raises ConfigError where the network's modules do not follow one another by stride."""
        units = list(_units(self.net, self._modules_of))
        names = [name for name, _ in units]
        ends = [names.index(name) for name in self._modules_of if name in names]
        if len(ends) < len(self._modules_of) or ends != sorted(ends):
            what = f"the parts of {self.name} do not run one after another: none can be frozen"
            hint = "`--set model.backbone.frozen_stages=0`"
            raise ConfigError(what, where="model.backbone.frozen_stages", hint=hint)
        starts = [0, *ends[:1], *(end + 1 for end in ends[:-1]), len(units)]
        modules = [module for _, module in units]
        return [modules[a:b] for a, b in pairwise(starts)]

    def load_pretrained(self, state: Mapping[str, Tensor], where: object, hint: str) -> None:
        """Take a state dict of the whole network under timm's names, or of its features alone."""
        own = {_plain(name.removeprefix("net.")): name for name in self.state_dict()}
        named = ((own.get(_plain(name)), tensor) for name, tensor in state.items())
        load_state(self, {name: tensor for name, tensor in named if name}, where, hint)


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: half of what is missing before, the rest after.

    timm's Conv2dSame, with the same tensors. An exported graph takes multiples of 32 only, so that
    its padding is a constant, which torch's exporter does not find by itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for n, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True):
            last = stride if torch.compiler.is_exporting() else n % stride or stride
            over = max(kernel - last, 0)
            sides = [over // 2, over - over // 2, *sides]
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride, groups=self.groups)


def _create(name: str) -> Any:
    import timm  # over a second: only where it is asked for

    if not timm.is_model(name):
        hint = suggest(name, timm.list_models(), "`timm.list_models()` lists them")
        raise ConfigError(f"timm has no network `{name}`", where=_WHERE, hint=hint)
    plain: dict[str, Any] = {"features_only": True, "pretrained": False}
    for settings in ({**plain, "strict_img_size": False}, plain):  # any size, where it knows sizes
        try:
            return timm.create_model(name, **settings)
        except TypeError:
            continue
        except (RuntimeError, AttributeError, AssertionError) as error:
            what = f"timm cannot give features of {name}: {str(error).splitlines()[0]}"
            raise ConfigError(what, where=_WHERE) from error
    raise ConfigError(f"timm cannot give features of {name}", where=_WHERE)


_FOUND_FREE: set[str] = set()
"""Networks that take any size: to see it costs a fifth of a second, and a network is built twice
when its weights are read."""


def _require_any_size(name: str, net: nn.Module) -> None:
    """Raise ConfigError where `net` takes images of the one size only that it was made for."""
    if name in _FOUND_FREE:
        return
    tensors = chain(net.named_parameters(), net.named_buffers())
    shapes = {key: torch.empty_like(tensor, device="meta") for key, tensor in tensors}
    try:
        with torch.no_grad():
            functional_call(net.eval(), shapes, torch.empty(1, 3, 96, 160, device="meta"))
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        what = f"{name} takes images of one size only, but a detector needs all sizes ({reason})"
        raise ConfigError(what, where=_WHERE) from error
    net.train()
    _FOUND_FREE.add(name)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d)


def _with_norms(net: nn.Module, norm: str) -> nn.Module:
    """`net` with its batch norms fixed, for frozen_bn and eval_bn."""
    if norm != "frozen_bn" or not any(map(_is_norm, net.modules())):
        return net
    from timm.layers.norm_act import freeze_batch_norm_2d

    fixed: nn.Module = freeze_batch_norm_2d(net)  # type: ignore[no-untyped-call]
    return fixed


def _units(net: nn.Module, stages: list[str]) -> Iterator[tuple[str, nn.Module]]:
    """The children of `net` in the order they run; a container of stages as these."""
    for name, child in net.named_children():
        if any(stage.startswith(f"{name}.") for stage in stages):
            yield from ((f"{name}.{inner}", module) for inner, module in child.named_children())
        else:
            yield re.sub(r"_(\d+)$", r".\1", name), child


def _plain(name: str) -> str:
    """Alike for `stages.0.x` of the whole network and `stages_0.x` of its features."""
    return name.removeprefix("module.").removeprefix("model.").replace("_", ".")
