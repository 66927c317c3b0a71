"""Put tensors into a network by name, and say shortly what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dhcli.errors import ModelError


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], where: object, hint: str | None = None
) -> None:
    """Copy `state` into `module`: the same names, the same shapes, or nothing is copied.

    Raises ModelError as `check_state` does.
    """
    check_state(module, state, where, hint)
    own = module.state_dict()
    given = {name: tensor for name, tensor in state.items() if name in own}
    module.load_state_dict(given, strict=False)


def check_state(
    module: nn.Module, state: Mapping[str, Tensor], where: object, hint: str | None = None
) -> None:
    """Compare the names and shapes of `state` with those of `module`.

    BatchNorm's `num_batches_tracked`, which some programs do not keep, may be absent or too many.
    Raises ModelError that names the first three differences of each kind and counts the rest.
    """
    own = module.state_dict()
    given = {name: tensor for name, tensor in state.items() if name in own or not is_counter(name)}
    needed = {name: tensor for name, tensor in own.items() if name in given or not is_counter(name)}
    differences = compare(needed, given)
    if differences:
        raise ModelError(f"does not fit the network: {differences}", where=where, hint=hint)


def compare(needed: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What differs between two state dicts, in names and shapes, shortly; "" where nothing does."""
    missing = [name for name in needed if name not in given]
    unknown = [name for name in given if name not in needed]
    shapes = [
        f"{name} {_shape(given[name])} instead of {_shape(needed[name])}"
        for name in needed
        if name in given and given[name].shape != needed[name].shape
    ]
    kinds = (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
    return "; ".join(f"{kind}: {shorten(names)}" for kind, names in kinds if names)


def shorten(names: Sequence[str], show: int = 3) -> str:
    """The first names and how many more there are: "a, b, c and 12 more"."""
    rest = len(names) - show
    return ", ".join(names[:show]) + (f" and {rest} more" if rest > 0 else "")


def is_counter(name: str) -> bool:
    """Whether the tensor `name` counts the batches that a batch norm has seen."""
    return name.endswith(".num_batches_tracked")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"
