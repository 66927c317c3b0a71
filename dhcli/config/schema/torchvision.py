"""`model` of kind `torchvision`: a detector of torchvision's, and what torchvision says of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias

from pydantic import Field, model_validator

from dhcli.config.schema.base import NonNegative, Section
from dhcli.config.schema.detect import DetectBase

TorchVisionName: TypeAlias = Literal[
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
]
Norm: TypeAlias = Literal["frozen_bn", "eval_bn", "bn"]
Colour: TypeAlias = tuple[float, float, float]

IMAGENET: tuple[Colour, Colour] = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CENTRED: tuple[Colour, Colour] = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
CAFFE: tuple[Colour, Colour] = ((122.99925, 116.9991, 103.9992), (1.0, 1.0, 1.0))
"""Mean and standard deviation of pixels; those that Caffe's VGG learned from are not scaled."""


class Facts(NamedTuple):
    """What torchvision builds a detector with.

    norm     of the backbone
    frozen   stages of the backbone that stay fixed
    sides    shortest and longest side of an image; one number: a square, whatever its shape
    detect   lowest score, IoU of NMS, most detections
    weights  that its backbone can start from
    pixels   mean and standard deviation
    """

    norm: Norm
    frozen: int
    sides: tuple[int, ...]
    detect: tuple[float, float, int]
    weights: Literal["imagenet", "none"] = "imagenet"
    pixels: tuple[Colour, Colour] = IMAGENET


FACTS: dict[str, Facts] = {
    "fasterrcnn_resnet50_fpn": Facts("frozen_bn", 2, (800, 1333), (0.05, 0.5, 100)),
    "fasterrcnn_resnet50_fpn_v2": Facts("bn", 2, (800, 1333), (0.05, 0.5, 100)),
    "fasterrcnn_mobilenet_v3_large_fpn": Facts("frozen_bn", 3, (800, 1333), (0.05, 0.5, 100)),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Facts("frozen_bn", 3, (320, 640), (0.05, 0.5, 100)),
    "retinanet_resnet50_fpn": Facts("frozen_bn", 2, (800, 1333), (0.05, 0.5, 300)),
    "retinanet_resnet50_fpn_v2": Facts("bn", 2, (800, 1333), (0.05, 0.5, 300)),
    "fcos_resnet50_fpn": Facts("frozen_bn", 2, (800, 1333), (0.2, 0.6, 100)),
    "ssd300_vgg16": Facts("bn", 1, (300,), (0.01, 0.45, 200), pixels=CAFFE),
    "ssdlite320_mobilenet_v3_large": Facts(
        "bn", 0, (320,), (0.001, 0.55, 300), "none", pixels=CENTRED
    ),
}


class TorchVisionBackbone(Section):
    """The network that turns pixels into features: the detector's own."""

    weights: str = "imagenet"
    """`imagenet` (torchvision's), `none`, or the path of a classifier's state dict."""
    norm: Norm = "frozen_bn"
    """Its batch norms. frozen_bn: all fixed; eval_bn: statistics fixed, scale and shift are
    trained; bn: trained as usual (the only one that can be trained from scratch)."""
    frozen_stages: Annotated[int, Field(ge=0, le=6)] = 2
    """How many parts stay fixed, counted from the input. ResNet and VGG have 5, MobileNet 6."""
    bn_epsilon: NonNegative = 1e-5
    """Added to the variance in a fixed batch norm (torchvision's first published weights: 0)."""


class TorchVision(Section):
    """A detector of torchvision. Its name also sets its sizes, normalisation and thresholds."""

    kind: Literal["torchvision"]
    """torchvision: Faster R-CNN, RetinaNet, FCOS and SSD as torchvision builds them."""
    name: TorchVisionName
    """torchvision's name for the detector."""
    backbone: TorchVisionBackbone = TorchVisionBackbone()
    detect: DetectBase = DetectBase()

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        stages = 6 if "mobilenet" in self.name else 5
        if self.backbone.frozen_stages > stages:
            raise ValueError(f"`backbone.frozen_stages` is at most {stages} with `{self.name}`")
        if self.name.startswith("ssdlite") and self.backbone.weights != "none":
            what = "MobileNet's weights do not fit SSDLite's backbone, which has half the channels"
            raise ValueError(f"{what} at its end: `backbone.weights` can only be `none`")
        return self

    @classmethod
    def implied(cls, stated: Mapping[str, Any]) -> dict[str, Any]:
        """What belongs to the detector that is named: see `Facts`."""
        name = stated.get("name")
        facts = FACTS.get(name) if isinstance(name, str) else None
        if facts is None:
            return {}
        square = len(facts.sides) == 1
        score, iou, most = facts.detect
        return {
            "model": {
                "kind": "torchvision",
                "name": name,
                "backbone": {
                    "weights": facts.weights,
                    "norm": facts.norm,
                    "frozen_stages": facts.frozen,
                },
                "detect": {"score_threshold": score, "nms_threshold": iou, "max_detections": most},
            },
            "input": {
                "min_size": facts.sides[0],
                "max_size": facts.sides[-1],
                "divisor": 1 if square else 32,
                "resize": "square" if square else "torchvision",
                "interpolation": "float",
                "channels": "rgb",
                "mean": list(facts.pixels[0]),
                "std": list(facts.pixels[1]),
            },
            "augment": {"min_sizes": []},
        }

    def describe(self) -> list[tuple[str, str]]:
        """Its name and the backbone's norm."""
        return [("detector", f"torchvision's {self.name}"), ("backbone norm", self.backbone.norm)]
