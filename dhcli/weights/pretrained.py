"""Weights that the backbone starts from: torchvision's, timm's, a file's, or none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from dhcli.config.presets import CPU_PRESET
from dhcli.config.schema import Backbone, Pvt, ResNet, TimmNet, TorchVisionBackbone
from dhcli.errors import ConfigError, ModelError
from dhcli.models.contract import Features
from dhcli.weights.plain_file import read_plain
from dhcli.weights.timm_weights import hub_state, packaged_state

OTHERWISE = (
    "`--preset {light}` has its own in a package, and suits a CPU; or copy {{file}} there, name a "
    "file with `--set model.backbone.weights=PATH`, or train from scratch: "
    "`--set model.backbone.weights=none --set model.backbone.norm={norm} --freeze 0`"
)
PVT_RELEASE = "https://github.com/whai362/PVT/releases/download/v2"
PVT_OTHERWISE = (
    "copy {file} there, name a file with `--set model.backbone.weights=PATH`, or train from "
    "scratch: `--set model.backbone.weights=none`"
)


def load_backbone(features: Features, config: Backbone | TorchVisionBackbone) -> str:
    """Put the weights that `config.weights` names into the backbone; say which, in a line.

    Raises ModelError where they cannot be had or do not fit, and ConfigError where a part without
    weights would stay fixed.
    """
    if config.weights == "none":
        _check_trainable(features, config)
        return "none, the backbone starts from random weights"
    return LOADERS.get(type(config), _load_file)(features, config)


def _load_torchvision(features: Features, config: ResNet | TorchVisionBackbone) -> str:
    if config.weights != "imagenet":
        return _load_file(features, config)
    path = fetch_imagenet(features.name, _trainable_norm(config))
    return f"ImageNet, {_load_file(features, config, path)}"


def _load_file(
    features: Features, config: Backbone | TorchVisionBackbone, path: Path | None = None
) -> str:
    """Put the weights at `path`, else at the one that `config.weights` names, into the backbone."""
    path = path or Path(config.weights)
    state = backbone_state(read_plain(path).state)
    if config.norm == "gn" and any(name.endswith(".running_mean") for name in state):
        what = "holds batch norm, but the backbone has GroupNorm"
        hint = "keep its norm: `--set model.backbone.norm=frozen_bn`"
        raise ModelError(what, where=path, hint=hint)
    hint = f"the backbone is {features.name}"
    if "name" in type(config).model_fields:
        hint += ": `--set model.backbone.name=…` chooses another"
    features.load_pretrained(state, path, hint)
    return str(path)


def _load_pvt(features: Features, config: Pvt) -> str:
    if config.weights != "imagenet":
        return _load_file(features, config)
    url = f"{PVT_RELEASE}/{config.name}.pth"
    path = fetch_published(url, f"the ImageNet weights of {config.name}", PVT_OTHERWISE)
    return f"ImageNet, {_load_file(features, config, path)}"


def _load_timm(features: Features, config: TimmNet) -> str:
    hint = f"the backbone is timm's {config.name}"
    if config.weights == "package":
        state, path = packaged_state(config.name)
        features.load_pretrained(state, path, hint)
        return f"ImageNet, {path}"
    if config.weights == "hub":
        features.load_pretrained(hub_state(config.name), config.name, hint)
        return f"timm's, {config.name}"
    return _load_file(features, config)


def fetch_imagenet(name: str, norm: str = "gn") -> Path:
    """The file of torchvision's ImageNet weights for `name`, from torch.hub's cache or the net.

    Raises ModelError that names the place in the cache where they can be put by hand, and the
    `norm` that does without.
    """
    every = get_model_weights(name)
    best = getattr(every, "IMAGENET1K_FEATURES", every["IMAGENET1K_V1"])  # the former is for SSD
    otherwise = OTHERWISE.format(norm=norm, light=CPU_PRESET)
    return fetch_published(best.url, f"the ImageNet weights of {name}", otherwise)


def fetch_published(url: str, what: str, otherwise: str) -> Path:
    """The file at `url`, from torch.hub's cache or the net; `what` it is.

    Raises ModelError that names the place in the cache where it can be put by hand; its hint says
    what to do `otherwise`, with the file's name in the place of `{file}`.
    """
    file = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir(), "checkpoints", file)
    if path.exists():
        return path
    checksum = path.stem.rpartition("-")[2] if "-" in path.stem else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), checksum, progress=sys.stderr.isatty())
    except (OSError, URLError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise ModelError(
            f"{what} are not at {path} and could not be fetched ({reason})",
            hint=otherwise.format(file=file),
        ) from error
    return path


def backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of `state` belongs to a backbone, under torchvision's names, without the classifier.

    Takes the names of a plain ResNet and of whole detectors (`backbone.…`); `module.` is dropped.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    inner = {
        name.removeprefix("backbone."): tensor
        for name, tensor in plain.items()
        if name.startswith("backbone.")
    }
    return {name: x for name, x in (inner or plain).items() if not name.startswith("fc.")}


def _check_trainable(features: Features, config: Backbone | TorchVisionBackbone) -> None:
    where = "model.backbone.weights"
    if config.norm in ("frozen_bn", "eval_bn") and _has_statistics(features):
        what = f"{config.norm} fixes statistics, but a backbone without weights has none"
        hint = f"`--set model.backbone.norm={_trainable_norm(config)}`, or give weights"
        raise ConfigError(what, where=where, hint=hint)
    if config.frozen_stages:
        what = f"{config.frozen_stages} parts of the backbone would stay fixed at random weights"
        raise ConfigError(what, where=where, hint="`--freeze 0`")


def _has_statistics(features: Features) -> bool:
    return any(name.endswith("running_var") for name, _ in features.named_buffers())


def _trainable_norm(config: Backbone | TorchVisionBackbone) -> str:
    """The norm that learns from nothing best, of those that the backbone can have."""
    return "gn" if "gn" in get_args(type(config).model_fields["norm"].annotation) else "bn"


LOADERS: dict[type[Any], Callable[[Features, Any], str]] = {
    ResNet: _load_torchvision,
    TorchVisionBackbone: _load_torchvision,
    TimmNet: _load_timm,
    Pvt: _load_pvt,
}
"""What loads weights from elsewhere than a file, by the class of the section `backbone`."""
