"""The programs whose weights can be read, one file per layout, and those that can be written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dhcli.config.schema import Config
from dhcli.weights.layout_names import ExportName, LayoutName
from dhcli.weights.layouts import (
    detectron2,
    maskrcnn_benchmark,
    megvii,
    mmdet,
    torchvision,
    transformers,
    tsd,
)
from dhcli.weights.layouts.pairs import Pair, Pairs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EXPORTS", "LAYOUTS", "Layout", "Pair"]


class Layout(Protocol):
    """What a module here holds.

    TITLE         name of the program
    CLASSIFIERS   names of tensors that score the classes; a file has one of them
    ANCHORS       name of the anchors of a cell on `{level}`, "" where they are not in the file
    LEFT          pattern of names that are not read → why
    COCO_CLASSES  K of a model of COCO
    """

    TITLE: str
    CLASSIFIERS: tuple[str, ...]
    ANCHORS: str
    LEFT: dict[str, str]
    COCO_CLASSES: int

    def recognise(self, state: Mapping[str, Tensor], /) -> bool:
        """Whether a file's names are of this layout."""

    def count_classes(self, state: Mapping[str, Tensor], /) -> int:
        """K of the detector in the file."""

    def settings(self, state: Mapping[str, Tensor], file: str, /) -> dict[str, Any]:
        """The configuration, as far as it is not the default: architecture and conventions.

        `file` is the program's own configuration, where the file holds it, and the file's name.
        """

    def pairs(self, config: Config, /) -> Pairs:
        """Every tensor of such a detector under both names, in the order of the origin."""


class Writable(Layout, Protocol):
    """A layout that can be written."""

    def text(self, config: Config, /) -> str:
        """What the program's own configuration says, for what the tensors do not; may be empty."""

    def misfit(self, config: Config, /) -> str | None:
        """Why the program has no such detector; None if it has."""


LAYOUTS: dict[LayoutName, Layout] = {
    "mmdet": mmdet,
    "maskrcnn-benchmark": maskrcnn_benchmark,
    "torchvision": torchvision,
    "detectron2": detectron2,
    "transformers": transformers,
    "tsd": tsd,
    "megvii": megvii,
}

EXPORTS: dict[ExportName, Writable] = {
    "mmdet": mmdet,
    "torchvision": torchvision,
    "tsd": tsd,
    "megvii": megvii,
}
