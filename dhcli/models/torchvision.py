"""torchvision's detectors behind the contract: their own parts, losses and selection."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection.image_list import ImageList

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.schema import Config, TorchVision
from dhcli.models.contract import Detector, Features, Predictor
from dhcli.models.detector import Pixels
from dhcli.models.norms import norm_layer
from dhcli.models.state import load_state
from dhcli.ops.batch import Detections, ImageBatch, Target

STAGES = {
    "ssdlite": ("2", "4", "7", "13", "17"),
    "mobilenet_v3_large": ("2", "4", "7", "13", "16"),
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "vgg16": ("4", "9", "16", "23"),
}
"""What each stage but the first begins with; by the first name that is in the detector's."""
CLASSIFIER = re.compile(r"head\.classification_head\.(cls_logits|module_list\.\d+(\.1)?)")
"""Names of the layers that score the classes of each anchor."""
COMPUTING = ("backbone", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor", "head")
"""The parts that hold all weights; between them are anchors, boxes and scores."""


class ClassifierFeatures(Features):
    """What torchvision's backbones share; each keeps its forward, and the names of its tensors."""

    @classmethod
    def of(cls, backbone: Any, detector: str) -> Any:
        """`backbone` itself, as one of these; `detector` is the name of the detector."""
        backbone.__class__ = type(cls.__name__, (cls, type(backbone)), {})
        backbone.name = next(name for name in STAGES if name in detector)
        return backbone

    def layers(self) -> dict[str, nn.Module]:
        """The layers of the classifier that it was made from, in order, by the names there."""
        own: Any = self
        if "body" in self._modules:
            return dict(own.body.named_children())
        lite = self.name == "ssdlite"
        every = chain(*own.features) if lite else chain(own.features, own.extra[0][:-1])
        return {str(number): layer for number, layer in enumerate(every)}

    def stages(self) -> list[list[nn.Module]]:
        layers = self.layers()
        cuts = [list(layers).index(name) for name in STAGES[self.name]]
        return [list(layers.values())[a:b] for a, b in pairwise([0, *cuts, len(layers)])]

    def load_pretrained(self, state: Mapping[str, Tensor], where: object, hint: str) -> None:
        bare = {name.removeprefix("features."): tensor for name, tensor in state.items()}
        own = {name: x for name, x in bare.items() if not name.startswith(("fc.", "classifier."))}
        load_state(nn.ModuleDict(self.layers()), own, where, hint)


class Prepared(nn.Module):
    """Stands where torchvision scales, resizes and pads images: these are so already."""

    def __init__(self, images: ImageList) -> None:
        super().__init__()
        self.images = images

    def forward(self, _: object, targets: Any = None) -> tuple[ImageList, Any]:
        return self.images, targets

    def postprocess(self, found: list[dict[str, Tensor]], *_: object) -> list[dict[str, Tensor]]:
        """Boxes stay in pixels of the resized image."""
        return found


class TorchVisionDetector(Detector):
    """One of torchvision's detectors: its parts, under its names, run by its own forward.

    Whether it trains and what it selects is decided at each call, in copies that share the weights.
    """

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        model = config.model
        assert isinstance(model, TorchVision)
        # Those with a softmax have a background, at 0; the others score each class by itself
        self.first = 0 if model.name.startswith(("retinanet", "fcos")) else 1
        self.columns = classes + self.first
        network = get_model(model.name, num_classes=self.columns, weights_backbone=None)
        backbone = ClassifierFeatures.of(network.backbone, model.name)
        if model.backbone.norm != "bn":
            fixed = norm_layer(model.backbone.norm, model.backbone.bn_epsilon)
            _replace_norms(getattr(backbone, "body", backbone), fixed)
        backbone.freeze(model.backbone.frozen_stages)
        self.rule = model.detect
        self.pixels = Pixels(config.input)
        for name, part in network.named_children():
            if name != "transform":
                self.add_module(name, part)
        network._modules = {}
        self.shell = (network,)  # in a tuple, so that it is no part
        for name, part in self.named_modules():
            if name in COMPUTING:
                part.register_forward_pre_hook(_in_own_numbers)
                part.register_forward_hook(_in_float32)

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        wanted = []
        for target in targets:
            solid = (target.boxes[:, 2:] > target.boxes[:, :2]).all(1)
            labels = target.labels[solid] + self.first
            wanted.append({"boxes": target.boxes[solid], "labels": labels})
        losses = self._run(images, wanted)
        return {f"loss_{name.removeprefix('loss_')}": loss for name, loss in losses.items()}

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        rule = options.over(self.rule)
        limits = {"score_thresh": rule.score_threshold, "nms_thresh": rule.nms_threshold}
        every = self._run(images, **limits, detections_per_img=rule.max_detections)
        scales = (images.originals / images.sizes).flip(1).repeat(1, 2)  # (B, 4)
        for one, scale in zip(every, scales, strict=True):
            one.update(boxes=one["boxes"] * scale, labels=one["labels"] - self.first)
        return [[Detections(**one) for one in every]]

    def parts(self) -> dict[str, nn.Module]:
        return {name: part for name, part in self.named_children() if list(part.parameters())}

    def predictors(self) -> dict[str, Predictor]:
        background: Literal["first", "none"] = "first" if self.first else "none"
        layers = {}
        for name, layer in self.named_modules():
            if name.startswith("roi_heads.box_predictor."):
                layers[name] = Predictor(layer.out_features // self.columns, background)
            elif isinstance(layer, nn.Conv2d) and CLASSIFIER.fullmatch(name):
                anchors = layer.out_channels // self.columns
                layers[name] = Predictor(1, background, anchors=anchors)
        both = ("weight", "bias")
        return {f"{name}.{part}": one for name, one in layers.items() for part in both}

    def features(self) -> Features:
        return self.get_submodule("backbone")  # type: ignore[return-value]

    def notes(self) -> list[str]:
        return ["torchvision's detectors treat regions to ignore as background"]

    def _run(self, images: ImageBatch, targets: Any = None, **limits: float) -> Any:
        """The network's own forward: with `targets` its losses, else what it finds in each image.

        `limits` are torchvision's names of what it selects by.
        """
        training = targets is not None
        sizes = [(height, width) for height, width in images.sizes.tolist()]
        parts = dict(self.named_children())
        parts["transform"] = Prepared(ImageList(self.pixels(images), sizes))
        if "rpn" in parts:
            parts["rpn"] = _with(parts["rpn"], training=training)
            parts["roi_heads"] = _with(parts["roi_heads"], training=training, **limits)
        network = _with(self.shell[0], _modules=parts, training=training, **limits)
        return network(list(images.pixels), targets)


def _with(part: nn.Module, **values: Any) -> nn.Module:
    """A copy of `part` that shares its weights and parts, and has other `values`."""
    copied = copy.copy(part)
    vars(copied).update(values)
    return copied


def _replace_norms(network: nn.Module, norm: Any) -> None:
    for module in list(network.modules()):
        for name, part in list(module.named_children()):
            if type(part) is nn.BatchNorm2d:
                setattr(module, name, norm(part.num_features))


def _in_own_numbers(part: nn.Module, args: Any) -> Any:
    """What a part is given, in what it computes in."""
    return _cast(args, next(part.parameters()).dtype)


def _in_float32(_: nn.Module, __: Any, out: Any) -> Any:
    """What a part gives: anchors, boxes and scores take its dtype."""
    return _cast(out, torch.float32)


def _cast(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, Tensor):
        return x.to(dtype)
    if isinstance(x, dict):
        return {name: _cast(one, dtype) for name, one in x.items()}
    return type(x)(_cast(one, dtype) for one in x)
