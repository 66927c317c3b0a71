"""How fast a detector is here, where its time goes, and what the machine could do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.data.loading.pictures import Pictures, collate_pictures
from dhcli.data.shapes import draw_image
from dhcli.models.fast.winograd import WinogradConv
from dhcli.runtime.eager import EagerRunner
from dhcli.runtime.memory import memory_used
from dhcli.runtime.precision import DTYPES
from dhcli.runtime.runner import Runner

WARM_UP = 2
SIDE = 2048
"""Rows and columns of the matrices whose product shows what the machine can do."""
REST = "boxes and the rest"


@dataclass(frozen=True)
class Speed:
    """What was measured.

    images_per_second  of all repeats together
    latency            seconds per batch at the 50th, 90th and 99th percentile
    parts              seconds per batch in each part of the detector, in the order they run
    detections         per image, on the mean
    gflop              arithmetic of the convolutions and products per image as they are written, in
                       10⁹ operations; a fast algorithm may do with fewer
    gflop_per_second   of those, done per second; both None where they cannot be counted
    matmul             the same of one large product of matrices, in the detector's precision
    copy               10⁹ bytes a second read and written by a large copy
    memory             bytes: the most a GPU's torch held, else the most this process held
    """

    images_per_second: float
    latency: dict[str, float]
    parts: dict[str, float]
    detections: float
    gflop: float | None
    gflop_per_second: float | None
    matmul: float
    copy: float
    memory: int

    def as_dict(self) -> dict[str, Any]:
        """The numbers in plain values, for JSON."""
        return asdict(self)


def drawn_pictures(size: tuple[int, int], count: int, divisor: int) -> Pictures:
    """`count` drawn pictures of `size` (height, width), ready for a detector."""
    rng = np.random.default_rng(0)
    drawn = [draw_image(rng, (size[1], size[0])) for _ in range(count)]
    return collate_pictures([np.asarray(one.image) for one in drawn], [size] * count, divisor)


def measure_speed(
    runner: Runner, pictures: Pictures, repeats: int, options: DetectOptions = AS_CONFIGURED
) -> Speed:
    """Detect on `pictures` again and again. What runs an exported file has no parts to time."""
    eager = runner if isinstance(runner, EagerRunner) else None
    device = torch.device("cpu") if eager is None else eager.device

    def detect() -> int:
        return sum(len(found.scores) for found in runner.detect(pictures, options)[0])

    for _ in range(WARM_UP):
        found = detect()
    times = [_seconds(detect, device) for _ in range(repeats)]
    parts = {} if eager is None else _time_parts(eager, detect, repeats)
    gflop = None if eager is None else _count_gflop(eager.detector, detect)
    matmul, copy = _limits(device, DTYPES.get(runner.precision, torch.float32))
    ranks = np.percentile(times, (50, 90, 99)).tolist()
    return Speed(
        images_per_second=len(pictures) * repeats / sum(times),
        latency=dict(zip(("p50", "p90", "p99"), ranks, strict=True)),
        parts=parts,
        detections=found / len(pictures),
        gflop=None if gflop is None else gflop / len(pictures),
        gflop_per_second=None if gflop is None else gflop / float(np.mean(times)),
        matmul=matmul,
        copy=copy,
        memory=memory_used(device),
    )


def _count_gflop(detector: nn.Module, detect: Callable[[], object]) -> float:
    """10⁹ operations, a product and a sum being two; Winograd's are those of the convolution."""
    counter, instead = FlopCounterMode(display=False), 0

    def before(_conv: nn.Module, _given: object) -> None:
        nonlocal instead
        instead += counter.get_total_flops()

    def after(conv: nn.Module, _given: object, result: Tensor) -> None:
        nonlocal instead
        assert isinstance(conv, WinogradConv)
        instead += 2 * 9 * conv.kernel.shape[1] * result.numel() - counter.get_total_flops()

    convs = [part for part in detector.modules() if isinstance(part, WinogradConv)]
    hooks = [conv.register_forward_pre_hook(before) for conv in convs]
    hooks += [conv.register_forward_hook(after) for conv in convs]
    try:
        with counter:
            detect()
    finally:
        for hook in hooks:
            hook.remove()
    return (counter.get_total_flops() + instead) / 1e9


def _time_parts(
    runner: EagerRunner, detect: Callable[[], object], repeats: int
) -> dict[str, float]:
    """Mean seconds of a batch in each part; what is in none of them is the rest."""
    parts = runner.detector.parts()
    spent = dict.fromkeys(parts, 0.0)
    with _timing(parts, spent, runner.device):
        whole = sum(_seconds(detect, runner.device) for _ in range(repeats))
    means = {name: seconds / repeats for name, seconds in spent.items()}
    return means | {REST: whole / repeats - sum(means.values())}


@contextmanager
def _timing(
    parts: dict[str, nn.Module], spent: dict[str, float], device: torch.device
) -> Iterator[None]:
    """While it lasts, each run of one of `parts` adds its seconds to `spent`."""
    begun: dict[str, float] = {}

    def start(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            begun[name] = _now(device)

        return hook

    def stop(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            spent[name] += _now(device) - begun[name]

        return hook

    hooks = [part.register_forward_pre_hook(start(name)) for name, part in parts.items()]
    hooks += [part.register_forward_hook(stop(name)) for name, part in parts.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _limits(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """10⁹ operations a second of a product of matrices, 10⁹ bytes a second of a copy."""
    matrix = torch.randn(SIDE, SIDE, device=device).to(dtype)
    source = torch.ones(1 << 26, device=device)  # 256 MiB, more than a cache holds
    target = torch.empty_like(source)
    product = _best(lambda: matrix @ matrix, device)
    copied = _best(lambda: target.copy_(source), device)
    return 2 * SIDE**3 / product / 1e9, 2 * source.numel() * source.element_size() / copied / 1e9


def _best(run: Callable[[], Tensor], device: torch.device) -> float:
    run()
    return min(_seconds(run, device) for _ in range(5))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    begun = _now(device)
    run()
    return _now(device) - begun


def _now(device: torch.device) -> float:
    """Seconds, when all that was queued is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
