"""A model file, or another program's weights, run by torch as the modules that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions, check_gate, check_nms
from dhcli.config.heads import ReadOut
from dhcli.config.schema import Config
from dhcli.data.loading.loader import as_batch
from dhcli.data.loading.pictures import Pictures
from dhcli.errors import DhError
from dhcli.metrics.operating import OperatingPoints, read_points
from dhcli.models.build import build_detector, describe_detector
from dhcli.models.contract import Detector
from dhcli.models.fast import prepare_for_detecting
from dhcli.models.init import Undrawn
from dhcli.models.state import check_state, load_state
from dhcli.ops.batch import Detections
from dhcli.runtime.device import choose_device
from dhcli.runtime.memory import is_shortage, keep_freed_memory
from dhcli.runtime.precision import DTYPES, Precision, choose_detecting_precision
from dhcli.runtime.runner import Found
from dhcli.weights.model_file import ModelFile
from dhcli.weights.open import origin_lines, read_weights
from dhcli.words import counted


@dataclass
class EagerRunner:
    """A detector on its device: see `Runner`. One that trains is left in the mode it was in."""

    detector: Detector
    config: Config
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    device: torch.device
    precision: str = "fp32"
    lines: list[str] = field(default_factory=list)
    points: OperatingPoints | None = None

    @classmethod
    def open(cls, path: Path, options: DetectOptions = AS_CONFIGURED) -> EagerRunner:
        """The detector of the file of weights `path`, made fast at detecting.

        Raises ModelError where the file is none or its weights do not fit it, ConfigError where
        the device or precision of `options` cannot be had here.
        """
        choose_device(options.device)  # before a large file is read
        model = read_weights(path)
        return cls.of(model, options, origin_lines(path, model), path)

    @classmethod
    def of(
        cls,
        model: ModelFile,
        options: DetectOptions = AS_CONFIGURED,
        lines: Sequence[str] = (),
        where: Path | None = None,
    ) -> EagerRunner:
        """The detector of a file's content, as of `open`; `where` it is, for the messages."""
        precision = _choose_precision(model.config, options)
        detector = restore_detector(model, torch.device("cpu"), where=where)
        about = (options.sized(model.config), model.classes, model.category_ids)
        return cls(
            prepare(detector, precision),
            *about,
            precision.device,
            precision.name,
            list(lines),
            read_points(model.metadata, where),
        )

    @classmethod
    def untrained(
        cls, config: Config, classes: int, options: DetectOptions = AS_CONFIGURED
    ) -> EagerRunner:
        """The detector that `config` describes, with random weights and nameless classes."""
        precision = _choose_precision(config, options)
        ids = tuple(range(1, classes + 1))
        about = (config, tuple(f"class {number}" for number in ids), ids)
        detector = prepare(build_detector(config, classes), precision)
        return cls(detector, *about, precision.device, precision.name)

    @property
    def place(self) -> str:
        """The device's name."""
        return str(self.device)

    @property
    def divisor(self) -> int:
        """As configured."""
        return self.config.input.pad_to()

    @property
    def usual_batch(self) -> int:
        """One image on a CPU, whose cores it fills; eight on what has more of them."""
        return 1 if self.device.type == "cpu" else 8

    def read_outs(self) -> list[ReadOut]:
        """See `Runner`."""
        return self.detector.read_outs()

    def detect(
        self, pictures: Pictures, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Found]]:
        """See `Runner`. Raises DhError if there is too little memory."""
        was_training = self.detector.training
        if was_training:
            self.detector.eval()
        try:
            with torch.inference_mode():
                every = self.detector.detect(as_batch(pictures).to(self.device), options)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            height, width = pictures.pixels.shape[1:3]
            many = counted(len(pictures), "image")
            what = f"{self.device} has too little memory for {many} of {width} × {height}"
            elsewhere = "" if self.device.type == "cpu" else ", or `--device cpu`"
            hint = f"try `--batch-size 1`{elsewhere}, or a smaller `--image-size`"
            raise DhError(what, hint=hint) from error
        finally:
            if was_training:
                self.detector.train()
        return [[_as_found(one) for one in of_read_out] for of_read_out in every]


def _choose_precision(config: Config, options: DetectOptions) -> Precision:
    """What to compute in, and where. Raises ConfigError where `options` cannot be had."""
    check_gate(config.model, options.gate)
    check_nms(config.model, options)
    return choose_detecting_precision(options.precision, choose_device(options.device))


def prepare(detector: Detector, precision: Precision) -> Detector:
    """`detector` made fast at detecting, in place, on the precision's device.

    It is no more to be trained or saved. Anchors, boxes, scores and NMS stay float32.
    """
    on_cpu = precision.device.type == "cpu"
    if on_cpu:
        keep_freed_memory()
    prepare_for_detecting(detector, winograd=on_cpu and precision.name == "fp32")
    for part in detector.parts().values():
        part.to(DTYPES.get(precision.name, torch.float32))
    return detector.to(precision.device).to(memory_format=torch.channels_last).eval()


def restore_detector(model: ModelFile, device: torch.device, where: object = None) -> Detector:
    """The detector that `model` describes, with its weights, in eval mode on `device`."""
    # Shapes are compared before memory is taken for them
    described = describe_detector(model.config, len(model.classes))
    check_state(described, model.state, where)
    with Undrawn():
        detector = build_detector(model.config, len(model.classes))
    load_state(detector, model.state, where)
    return detector.to(device).eval()


def _as_found(found: Detections) -> Found:
    return Found(*(part.cpu().numpy() for part in (found.boxes, found.scores, found.labels)))
