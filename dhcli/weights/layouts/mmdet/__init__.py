"""MMDetection 2 and 3, a file per family of detectors.

Background is the last class where there is one, and boxes have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dhcli.config.schema import Config
from dhcli.weights.layouts.mmdet import dense, detr, proposals, sparse, yolox
from dhcli.weights.layouts.pairs import Pairs

if TYPE_CHECKING:
    from torch import Tensor


class Family(Protocol):
    """What a module here holds: what a layout does (see `Layout`), for its own detectors."""

    CLASSIFIERS: tuple[str, ...]

    def recognise(self, state: Mapping[str, Tensor], /) -> bool:
        """Whether the file is one of theirs."""

    def count_classes(self, state: Mapping[str, Tensor], /) -> int:
        """K of the detector in the file."""

    def settings(self, state: Mapping[str, Tensor], file: str, /) -> dict[str, Any]:
        """The configuration, as far as it is not the default: architecture and conventions."""

    def is_kin(self, config: Config, /) -> bool:
        """Whether such a detector would be one of theirs; `misfit` says why it is not."""

    def pairs(self, config: Config, /) -> Pairs:
        """Every tensor under both names, in the order of MMDetection's state dict."""

    def text(self, config: Config, /) -> str:
        """What MMDetection's configuration would say, for what the tensors do not; may be empty."""

    def misfit(self, config: Config, /) -> str | None:
        """Why MMDetection has no such detector; None if it has."""


FAMILIES: tuple[Family, ...] = (yolox, detr, sparse, dense, proposals)
"""The first that recognises a file, or is kin to a configuration, is the one."""

TITLE = "MMDetection"
CLASSIFIERS = tuple(dict.fromkeys(name for one in FAMILIES for name in one.CLASSIFIERS))
ANCHORS = ""
LEFT: dict[str, str] = {
    r"ema_.*": "the other side of its moving average; the plain names hold what it tests with",
    r"data_preprocessor\..*": "mean and deviation, which the configuration holds",
}
COCO_CLASSES = 80


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are MMDetection's."""
    return any(one.recognise(state) for one in FAMILIES)


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K of the detector in the file."""
    return _of_file(state).count_classes(state)


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What the shapes say of the architecture, and the conventions."""
    return _of_file(state).settings(state, file)


def pairs(config: Config) -> Pairs:
    """Every tensor, in the order of MMDetection's state dict."""
    return _kin(config).pairs(config)


def text(config: Config) -> str:
    """What its configuration says of the detector, for what the tensors do not."""
    return _kin(config).text(config)


def misfit(config: Config) -> str | None:
    """Why MMDetection has no such detector; None if it has."""
    return _kin(config).misfit(config)


def _of_file(state: Mapping[str, Tensor]) -> Family:
    return next(one for one in FAMILIES if one.recognise(state))


def _kin(config: Config) -> Family:
    return next(one for one in FAMILIES if one.is_kin(config))
