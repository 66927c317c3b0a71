"""What predicts, whatever runs it: a model file by torch, an exported file by its own runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.heads import ReadOut
from dhcli.config.schema import Config
from dhcli.data.loading.pictures import Pictures
from dhcli.metrics.operating import OperatingPoints


class Found(NamedTuple):
    """What was found in one image, best first, in pixels of the original image.

    boxes   (D, 4) float32 xyxy
    scores  (D,) float32 in [0, 1]
    labels  (D,) int64 in 0…K-1
    """

    boxes: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[np.int64]


class Runner(Protocol):
    """A detector that is ready to detect.

    config        what it was trained with, pre-processing and read-outs included
    classes       K class names; label k is classes[k]
    category_ids  K ids of the dataset that it learned from, for results files
    place         what it runs on, in words
    precision     what it computes in: fp32, bf16 or fp16
    divisor       height and width of `Pictures` are multiples of it
    usual_batch   pictures at a time where nobody says how many
    lines         what a user should know of where it comes from
    points        the operating points of its last validation; None where it had none
    """

    config: Config
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    precision: str
    lines: list[str]
    points: OperatingPoints | None

    @property
    def place(self) -> str: ...

    @property
    def divisor(self) -> int: ...

    @property
    def usual_batch(self) -> int: ...

    def read_outs(self) -> list[ReadOut]:
        """The ways it can be read."""
        ...

    def detect(
        self, pictures: Pictures, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Found]]:
        """What is in each picture: one list of B per read-out of `options`."""
        ...


def open_runner(path: Path, options: DetectOptions = AS_CONFIGURED) -> Runner:
    """The detector in the file `path`, on the device and in the precision of `options`.

    Raises ModelError where the file holds none, and ConfigError where `options` cannot be had.
    """
    if is_onnx(path):
        from dhcli.runtime.onnx import OnnxRunner

        return OnnxRunner.open(path, options)
    from dhcli.runtime.eager import EagerRunner  # torch loads here, and not for an exported file

    return EagerRunner.open(path, options)


def is_onnx(path: Path) -> bool:
    """Whether `path` is named as an ONNX file is."""
    return path.suffix.lower() == ".onnx"
