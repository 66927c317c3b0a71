"""What runs on a CPU has its tensors where a GPU would need them: see `pretend_gpu`."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torchvision.ops import nms

from dhcli.config.detecting import DetectOptions
from dhcli.config.load import load_config
from dhcli.config.schema import Config
from dhcli.data.loading.loader import Batch
from dhcli.data.loading.pictures import collate_pictures
from dhcli.data.table import make_table
from dhcli.models.build import build_detector
from dhcli.models.contract import Detector
from dhcli.models.fast import prepare_for_training
from dhcli.ops.batch import ImageBatch, Target
from dhcli.runtime.eager import EagerRunner, prepare
from dhcli.runtime.precision import Precision
from dhcli.training.checkpoint import load_checkpoint
from dhcli.training.data import TrainingData
from dhcli.training.journal import Journal
from dhcli.training.loop import Trainer
from dhcli.training.optimizer import build_optimizer
from dhcli.training.run_folder import CHECKPOINT, RunFolder
from dhcli.training.step import Updater, seed_all
from tests.pretend_gpu import CPU, GPU, DeviceMistake, OnGpu, pretend_gpu

RESNET = {"kind": "resnet", "name": "resnet18", "norm": "gn", "frozen_stages": 0}
SMALL = {"kind": "timm", "name": "mobilenetv3_small_050", "frozen_stages": 0}
TIMM = {"kind": "timm", "name": "tf_efficientnet_lite0", "norm": "eval_bn", "frozen_stages": 1}
FC, CONV = {"kind": "fc", "width": 16}, {"kind": "conv", "width": 16, "residual": 2, "norm": "gn"}
BATCH_NORM = {**CONV, "norm": "bn", "non_local": 1}
TOWERS = {"width": 16, "cls_layers": 1, "reg_layers": 1}
P3_P7 = {"finest": 3, "coarsest": 7, "extra": "on_output", "channels": 16}
DENSE = {"kind": "dense", "neck": P3_P7, "detect": {"score_threshold": 0.0}}
HOUSE: dict[str, dict[str, Any]] = {
    "Double-Head": {"head": [{**FC, "lambda": 1.0}, {**CONV, "lambda": 1.0, "roi_scale": 1.3}]},
    "Double-Head-Ext": {
        "head": [{**FC, "lambda": 0.7}, {**BATCH_NORM, "lambda": 0.8}],
        "backbone": RESNET,
    },
    "Reverse": {
        "head": [{**FC, "lambda": 1.0, "focus": "reg"}, {**CONV, "lambda": 1.0, "focus": "cls"}]
    },
    "single fc": {"head": [{**FC, "lambda": 0.5}], "legacy_plus_one": True, "nms": "mmdet"},
    "single conv": {"head": [{**CONV, "lambda": 0.5}], "nms": "torchvision"},
    "C4": {
        "head": [{"kind": "res5", "lambda": 0.5}],
        "neck": {"kind": "none"},
        "anchors": {"sizes": [16, 32]},
        "backbone": {**RESNET, "norm": "frozen_bn"},
        "pool": {"size": 14},
    },
    "Soft-NMS": {
        "head": [{**FC, "lambda": 0.5}],
        "detect": {"score_threshold": 0.0, "nms": {"kind": "soft"}},
    },
    "Sparse R-CNN": {
        "kind": "queries",
        "head": {"proposals": 12, "stages": 2, "dynamic_width": 8, "ffn_width": 32},
    },
    "ATSS": {**DENSE, "head": {**TOWERS, "level_scales": True, "quality": "centerness"}},
    "PAA": {
        **DENSE,
        "head": {**TOWERS, "quality": "iou"},
        "assign": {"kind": "mixture"},
        "detect": {"score_threshold": 0.0, "quality": "root", "voting": True},
    },
    "VarifocalNet": {
        **DENSE,
        "head": {**TOWERS, "level_scales": True, "refine": "star"},
        "boxes": {"kind": "distances", "unit": 8},
        "loss": {"cls": {"kind": "varifocal"}, "weigh_by": "iou"},
    },
    "YOLOF": {
        **DENSE,
        "head": {**TOWERS, "norm": "bn", "quality": "implicit"},
        "neck": {"kind": "dilated", "channels": 16, "width": 8},
        "priors": {"sizes": [1, 2, 4]},
        "assign": {"kind": "uniform"},
    },
    "timm": {"head": [{**FC, "lambda": 0.7}, {**CONV, "lambda": 0.8}], "backbone": TIMM},
    "CSPDarknet, PAFPN": {
        "head": [{**FC, "lambda": 0.5}],
        "backbone": {"kind": "csp", "width": 0.125},
        "neck": {"kind": "pafpn", "channels": 16},
        "anchors": {"sizes": [32, 64, 128]},
    },
    "PVT, dilated": {
        "head": [{**FC, "lambda": 0.5}],
        "backbone": {"kind": "pvt", "weights": "none"},
        "neck": {"kind": "dilated", "channels": 16, "width": 8},
        "anchors": {"sizes": [64]},
    },
}
TENANTS = ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"]
DETECTORS = [*HOUSE, *TENANTS]
IN_BF16 = [
    (name, "bf16")
    for name in ("Double-Head-Ext", "timm", "Sparse R-CNN", "VarifocalNet", TENANTS[0])
]
COPIED = {"anchor_generator: _wh_pairs"}
"""What torchvision copies to the images' device whenever it is read."""
CLASSES = 3


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks torch whether there is a GPU, or for what only one has."""
    autocast = Precision.autocast

    def mixed(own: Precision) -> Any:
        on_gpu = Mixed() if own.name == "bf16" else nullcontext()
        return autocast(own) if own.device == CPU else on_gpu

    monkeypatch.setattr(Precision, "autocast", mixed)
    monkeypatch.setattr(torch.cuda, "Event", _Event)


LOW = {torch.conv2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm}
HIGH = {
    F.group_norm, F.cross_entropy, F.smooth_l1_loss, F.binary_cross_entropy_with_logits,
    F.softmax, torch.log, Tensor.softmax, Tensor.exp, Tensor.sum, Tensor.cumsum, Tensor.rsqrt,
}  # fmt: skip
WIDEST = {torch.cat, torch.stack, torch.addcmul, Tensor.index_put}


class Mixed(TorchFunctionMode):
    """torch.autocast, which knows no devices but its own: what it does of what detectors call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def cast(x: Any) -> Any:
            if isinstance(x, (list, tuple)):
                return type(x)(map(cast, x))
            fits = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
            return x.to(torch.bfloat16 if func in LOW else torch.float32) if fits else x

        floats = {x.dtype for x in tensors_in(args) if x.is_floating_point()}
        if func in LOW | HIGH or (func in WIDEST and len(floats) > 1):
            args, kwargs = cast(tuple(args)), {k: cast(x) for k, x in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


class _Event:
    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def configured(name: str, **train: Any) -> Config:
    if name in TENANTS:
        named = ["model.kind=torchvision", f"model.name={name}", "model.detect.score_threshold=0"]
        return load_config(overrides=named).config
    own, common = dict(HOUSE[name]), {"backbone": SMALL, "neck": {"channels": 16}}
    sizes = {"min_size": 64, "max_size": 96}
    if "kind" in own:
        return Config.model_validate({"input": sizes, "model": common | own, "train": train})
    model = {
        **common,
        "anchors": {"sizes": [16, 32, 64, 128, 256]},
        "rpn": {"proposals_train": 40, "proposals_test": 20, "samples": 32},
        "detect": {"score_threshold": 0.0},
        **{key: value for key, value in own.items() if key != "head"},
        "head": {"branches": own["head"], "samples": 16},
    }
    return Config.model_validate({"input": sizes, "model": model, "train": train})


@cache
def _built(name: str) -> Detector:
    torch.manual_seed(0)
    return build_detector(configured(name), CLASSES).train()


def built(name: str) -> Detector:
    return copy.deepcopy(_built(name))


def batch() -> Batch:
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [50, 80]])
    boxes, none = torch.tensor([[4.0, 4, 36, 36], [40, 10, 90, 60]]), torch.zeros(0, 4)
    targets = [
        Target(boxes, torch.tensor([0, 2]), torch.tensor([[50.0, 0, 60, 20]])),
        Target(none, torch.zeros(0, dtype=torch.long), none),
    ]
    return Batch(ImageBatch(pixels, sizes, sizes * 2), targets, [0, 1])


def use_foreach(optimizer: Optimizer) -> None:
    """Torch does so on GPUs, but for tensors of a class of their own."""
    for group in optimizer.param_groups:
        group["foreach"] = True


def on(device: torch.device) -> AbstractContextManager[None]:
    return pretend_gpu() if device == GPU else nullcontext()


@pytest.mark.parametrize(("name", "kind"), [(name, "fp32") for name in DETECTORS] + IN_BF16)
def test_a_step_on_the_gpu_is_that_on_the_cpu(name: str, kind: str) -> None:
    config, losses = configured(name), []
    for device in (CPU, GPU):
        with on(device):
            detector = built(name).to(device)
            prepare_for_training(detector)
            optimizer = build_optimizer(detector, config.train)
            use_foreach(optimizer)
            seed_all(0)
            precision = Precision(kind, device)
            result = Updater(detector, optimizer, precision, 0.5).update([batch()], 1e-3)
            losses.append({key: loss.cpu() for key, loss in result.losses.items()})

    assert all(isinstance(x.grad, OnGpu) for x in optimizer.param_groups[0]["params"])
    tolerance = 1e-3 if kind == "fp32" else 0.1
    torch.testing.assert_close(losses[1], losses[0], rtol=tolerance, atol=1e-4)
    assert left_behind(detector) <= COPIED


@pytest.mark.parametrize(("name", "kind"), [(name, "fp32") for name in DETECTORS] + IN_BF16)
def test_it_detects_on_the_gpu_what_it_detects_on_the_cpu(name: str, kind: str) -> None:
    about, found = (configured(name), ("a", "b", "c"), (1, 2, 3)), []
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    pictures = collate_pictures([pixels], [(128, 192)], 32)
    for device in (CPU, GPU):
        with on(device):
            detector = prepare(built(name), Precision(kind, device))
            runner = EagerRunner(detector, *about, device, kind)
            options = DetectOptions(read_outs=tuple(runner.read_outs()))
            found.append([one for [one] in runner.detect(pictures, options)])

    assert all(isinstance(x, OnGpu) for x in detector.state_dict().values())
    for own, other in zip(*found, strict=True):
        assert min(len(own.scores), len(other.scores)) > 0
        if kind == "fp32":
            np.testing.assert_allclose(own.scores, other.scores, atol=1e-4)


def test_a_run_trains_validates_saves_and_resumes_on_the_gpu(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    for number in range(4):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    files, box = [f"{number}.png" for number in range(4)], [8, 8, 40, 40]
    table = make_table(tmp_path, files, [[64, 64]] * 4, [1] * 4, [box] * 4, [0, 1, 2, 0], "abc")
    fast = {"batch_size": 2, "workers": 0, "ema": 0.9}
    learning = {"optimizer": "adamw", "clip_norm": 0.5, "schedule": {"length": 1}}
    config = configured("Double-Head-Ext", **fast, **learning)
    (tmp_path / "run").mkdir()
    run = RunFolder(tmp_path / "run")

    display = Mock()
    ticks = iter([lambda: signal.raise_signal(signal.SIGINT)])
    display.tick.side_effect = lambda *_: next(ticks, lambda: None)()

    def made() -> Trainer:
        journal = Journal(display)
        journal.open(run)
        trainer = Trainer(
            config, built("Double-Head-Ext"), TrainingData(table, table), run, journal, GPU
        )
        use_foreach(trainer.updater.optimizer)
        return trainer

    with pretend_gpu():
        stopped = made().train()
        again = made()
        again.restore(load_checkpoint(run.path / CHECKPOINT))
        finished = again.train()

    state = again.updater.optimizer.state_dict()["state"]
    kept = [x for of in state.values() for key, x in of.items() if key != "step"]
    weights = [*again.model.state_dict().values(), *again.detector.state_dict().values()]
    assert all(isinstance(x, OnGpu) for x in [*kept, *weights])
    assert (stopped.status, finished.status) == ("interrupted", "finished")


def left_behind(detector: Detector) -> set[str]:
    """The attributes with a tensor on the CPU: `.to(device)` moves parameters and buffers alone."""
    return {
        f"{place}: {key}"
        for place, part in detector.named_modules()
        for key, value in vars(part).items()
        for x in tensors_in(value)
        if not isinstance(x, OnGpu)
    }


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of an attribute: itself, or in lists, dicts and plain objects, not in modules."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, (list, tuple, set)):
        for one in value:
            yield from tensors_in(one)
    elif not isinstance(value, (nn.Module, type)) and hasattr(value, "__dict__"):
        yield from tensors_in(vars(value))


class Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(3)
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, what: str) -> Tensor:
        return FORGOTTEN[what](self)


FORGOTTEN: dict[str, Callable[[Any], Any]] = {
    "aten.mul.Tensor": lambda own: own.weight * torch.tensor([1.0, 2.0, 3.0]),
    "aten.add.Tensor": lambda own: own.weight + own.scale,
    "aten.cat.default": lambda own: torch.cat([own.weight, torch.zeros(1)]),
    "aten.stack.default": lambda own: torch.stack([own.weight.sum(), torch.tensor(1.0)]),
    "aten.index.Tensor": lambda own: own.scale[torch.zeros_like(own.weight).long()],
    "aten.index_put_.default": lambda own: own.scale.index_put_(
        (torch.arange(3),), own.weight.detach()
    ),
    "aten.add_.Tensor": lambda own: torch.tensor(0.0).add_(own.weight.detach().sum()),
    "torchvision.nms.default": lambda own: nms(torch.ones(3, 4), own.weight.detach(), 0.5),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_tensor_that_was_forgotten_is_told_with_the_function_that_meets_it(what: str) -> None:
    with pretend_gpu(), pytest.raises(DeviceMistake, match=f"^{what} is given .*gpu .*") as caught:
        Forgetful().to(GPU)(what)

    assert "cpu (" in str(caught.value)
    assert "gpu (" in str(caught.value)


def test_a_gradient_that_meets_a_forgotten_tensor_is_told_too() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *given: Tensor) -> Tensor:
            return given[0] * torch.full((3,), 2.0)

    with pretend_gpu():
        y = Double.apply(Forgetful().to(GPU).weight).sum()
        with pytest.raises(DeviceMistake, match=r"^aten.mul.Tensor is given"):
            y.backward()


def test_what_a_gpu_takes_is_taken() -> None:
    """Numbers and indices from the CPU, and whatever was made on, or brought to, its device."""
    with pretend_gpu():
        x = torch.ones(2, 3).to(GPU)
        x = x * torch.tensor(2.0) + x.new_tensor([1, 2, 3]) + torch.tensor([1.0], device=x.device)
        x = torch.where(x > 3, torch.tensor(0.5), x)[torch.tensor([1, 0, 1])]
        x[torch.tensor([True, False, False])] = torch.tensor(7.0)
        filled = torch.zeros(3, 3, device=x.device).copy_(torch.eye(3))

    assert all(isinstance(each, OnGpu) for each in (x, filled, x.new_zeros(2), x[:, 0].sum()))
    assert type(x.cpu()) is type(x.to("cpu")) is Tensor
    assert x.tolist() == [[7.0, 7.0, 7.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    assert (x.is_cuda, x.is_cpu, x.device) == (True, False, GPU)
    with pytest.raises((TypeError, RuntimeError)):
        x.numpy()
