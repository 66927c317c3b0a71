"""From a model file to a detector that is ready to detect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dhcli.errors import ConfigError
from dhcli.models.build import build_detector
from dhcli.models.detector import Detector
from dhcli.models.fast.fold import fold_norms
from dhcli.models.fast.winograd import use_winograd
from dhcli.runtime.memory import keep_freed_memory
from dhcli.runtime.precision import DTYPES, choose_detecting_precision
from dhcli.weights.exchange import import_weights
from dhcli.weights.model_file import ModelFile, read_model
from dhcli.weights.recognise import is_foreign
from dhcli.weights.state import check_state, load_state


@dataclass(frozen=True)
class Runtime:
    """Where and how a detector detects.

    device     a name for `choose_device`
    precision  "fp32", "bf16", "fp16" or "auto", see `choose_detecting_precision`
    gate       see `model.detect.gate`; None: as the model is configured
    """

    device: str = "auto"
    precision: str = "fp32"
    gate: float | None = None

    def prepare(self, detector: Detector) -> Detector:
        """`detector` made fast at detecting, in place; it is no more to be trained or saved."""
        device = choose_device(self.device)
        precision = choose_detecting_precision(self.precision, device)
        fold_norms(detector)
        if device.type == "cpu":
            keep_freed_memory()
            if precision.name == "fp32":
                # Not the head: RoIs are so small that a quarter of the tiles lies beyond them
                for part in (detector.backbone, detector.neck, detector.rpn):
                    use_winograd(part)
        if self.gate is not None:
            _check_gate(detector)
            detector.config = detector.config.model_copy(update={"gate": self.gate})
        detector.compute_in(DTYPES.get(precision.name, torch.float32))
        return detector.to(device).to(memory_format=torch.channels_last).eval()


EXACT = Runtime()


def _check_gate(detector: Detector) -> None:
    """Raise ConfigError where one branch alone scores: a gate would do nothing."""
    branches = [detector.head.branch(name) for name in detector.head.branches]
    if sum(branch.cls is not None for branch in branches) < 2:
        what = "a gate is for fused scores, and only one branch of this model classifies"
        raise ConfigError(what, where="--gate", hint="leave it out: its second branch waits anyway")


def load_detector(path: Path, runtime: Runtime) -> tuple[Detector, ModelFile]:
    """The detector of a file of weights, ready to detect, and the file's content.

    Raises ModelError where the file is none or its weights do not fit it, ConfigError where
    `runtime` cannot be had here.
    """
    model = read_weights(path)
    return runtime.prepare(restore_detector(model, torch.device("cpu"), where=path)), model


def read_weights(path: Path) -> ModelFile:
    """A model file, or another program's weights with their own conventions.

    Raises ModelError as `read_model` and `import_weights` do.
    """
    return import_weights(path).model if is_foreign(path) else read_model(path)


def origin_lines(path: Path, model: ModelFile) -> list[str]:
    """What another program's detector was taken for; nothing of one trained here."""
    origin = model.metadata.get("origin")
    if origin is None:
        return []
    return [f"{path}: {model.config.about}", *(f"note: {note}" for note in origin["notes"])]


def restore_detector(model: ModelFile, device: torch.device, where: object = None) -> Detector:
    """The detector that `model` describes, with its weights, in eval mode on `device`."""
    with torch.device("meta"):  # shapes are compared before memory is taken for them
        described = build_detector(model.config, len(model.classes))
    check_state(described, model.state, where)
    detector = build_detector(model.config, len(model.classes))
    load_state(detector, model.state, where)
    return detector.to(device).eval()


def choose_device(name: str) -> torch.device:
    """The device called "auto", "cpu", "cuda", "cuda:1" or "mps"; auto is a GPU if there is one.

    Raises ConfigError where there is no such device here.
    """
    if name == "auto":
        name = _best_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        hint = "auto, cpu, cuda, cuda:0 or mps"
        raise ConfigError(f"unknown device `{name}`", where="--device", hint=hint) from error
    if device.type not in _available() or (device.index or 0) >= _available()[device.type]:
        there_are = ", ".join(_available())
        what = f"there is no `{name}` here"
        raise ConfigError(what, where="--device", hint=f"there are: {there_are}")
    return device


def _best_device() -> str:
    return next(name for name in ("cuda", "mps", "cpu") if name in _available())


def _available() -> dict[str, int]:
    """Kinds of device that can be used here, and how many of each."""
    kinds = {"cpu": 1}
    if torch.cuda.is_available():
        kinds["cuda"] = torch.cuda.device_count()
    if torch.backends.mps.is_available():
        kinds["mps"] = 1
    return kinds
