"""A GPU to find device mistakes with on a CPU: its tensors hold plain ones, which it computes with.

To the code under test it is a device of its own, torch's "meta", with `is_cuda` true and `is_cpu`
false: so the code goes the ways that it goes on GPUs, `.to(device)` moves, and what was forgotten
stays on the CPU. A call that has tensors of both fails, as it would there.

Below autograd (a TorchDispatchMode), where every call arrives that computes: those of gradients,
optimisers and torchvision's operators too, which a TorchFunctionMode does not see. One of these
stands beside it for `torch.tensor` and its like alone, which make their result past the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU, CPU = torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default}
"""From one device to the other."""
INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
"""Whose indices, the second argument, torch takes from the CPU too."""
JOINS = {aten.cat.default, aten.stack.default}
"""Which take no number from the CPU; all others do, so that `x / torch.tensor(2)` is right."""


class DeviceMistake(AssertionError):
    """Tensors on the CPU and on the GPU in one call."""


class OnGpu(Tensor):
    """A tensor on the GPU; `held` is what it is made of."""

    held: Tensor
    is_cuda, is_meta = True, False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        about = {"dtype": held.dtype, "device": GPU, "strides": held.stride()}
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, storage_offset=held.storage_offset(), **about
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # saved, and read again on the CPU

    def __repr__(self) -> str:
        return f"OnGpu({self.held})"


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """While it lasts, the device `GPU` can be computed on."""
    patch = pytest.MonkeyPatch()
    # In inference mode calls arrive whole, and not as the simple ones that they are made of
    patch.setattr(torch, "inference_mode", torch.no_grad)
    # A weight that moves is another tensor: torch would give it the new shape, but not what it held
    set_overwrite = torch.__future__.set_overwrite_module_params_on_conversion
    set_overwrite(True)
    try:
        with _Calls(), _Constructors():
            yield
    finally:
        set_overwrite(False)
        patch.undo()


class _Calls(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


class _Constructors(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor:
            like, *args = args
            kwargs = {"dtype": like.dtype, "device": like.device, **kwargs}
            func = torch.tensor
        if func not in (torch.tensor, torch.as_tensor) or kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = kwargs.pop("device")
        return func(*args, **kwargs).to(device)


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of `func`, on the device that it was asked to be on, or that of its arguments."""
    given = [*_tensors(args), *_tensors(kwargs.values())]
    ours = {id(x.held): x for x in given if isinstance(x, OnGpu)}
    there = isinstance(given[0], OnGpu) if func in MOVES else bool(ours)
    if ours and func not in MOVES:
        _check(func, args, kwargs, given)
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == GPU.type
        kwargs = {**kwargs, "device": CPU}
    result = func(*_each(args, _held), **{key: _each(x, _held) for key, x in kwargs.items()})
    assert all(x.shape == x.held.shape for x in ours.values()), f"{func} changes a shape in place"
    # What is written in place is the tensor itself
    return _each(result, lambda x: ours[id(x)] if id(x) in ours else OnGpu(x)) if there else result


def _check(func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> None:
    """Raise DeviceMistake where a GPU would not take what is `given` to `func`."""
    if func in INDEXES and isinstance(args[0], OnGpu):
        given = _tensors((args[0], *args[2:], *kwargs.values()))
    named = zip(func._schema.arguments, args, strict=False)
    written = _tensors([x for about, x in named if about.alias_info and about.alias_info.is_write])
    strict = {id(x) for x in (given if func in JOINS else written)}
    if any(not isinstance(x, OnGpu) and (x.ndim or id(x) in strict) for x in given):
        places = ("gpu" if isinstance(x, OnGpu) else "cpu" for x in given)
        told = ", ".join(f"{at} {tuple(x.shape)}" for at, x in zip(places, given, strict=True))
        raise DeviceMistake(f"{func} is given tensors on two devices: {told}")


def _held(x: Tensor) -> Tensor:
    return x.held if isinstance(x, OnGpu) else x


def _each(x: Any, change: Callable[[Tensor], Any]) -> Any:
    """`x` with every tensor in it changed."""
    if isinstance(x, (list, tuple)):
        return type(x)(_each(one, change) for one in x)
    return change(x) if isinstance(x, Tensor) else x


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    _each(list(values), found.append)
    return found
