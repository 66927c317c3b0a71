"""What the house may know of a detector and of a backbone. Nothing outside `models/` knows more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Self

from torch import Tensor, nn

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.heads import ONLY, ReadOut
from dhcli.ops.batch import Detections, ImageBatch, Target


class Predictor(NamedTuple):
    """A tensor that has rows by class.

    group       rows of one class: 1 of a classifier, 4 of a box regression
    background  where the background's rows stand beside those of the classes
    by_class    whether each class has rows of its own; else all share the ones there are
    anchors     how often all of these rows stand there, once for each anchor of a cell
    named       whether a class's rows are of that class; else of its place among the classes
    """

    group: int
    background: Literal["first", "last", "none"] = "none"
    by_class: bool = True
    anchors: int = 1
    named: bool = True


class Detector(nn.Module):
    """Images to losses, images to detections: two methods, neither depends on `self.training`.

    A detector of another program fulfils this too; what it does not have keeps its default.
    """

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Weighted loss parts by name, each () float32; the loss is their sum.

        Every trainable parameter takes part, also where no image holds an object.
        """
        raise NotImplementedError

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        """What is in each image, best first, in pixels of the original image.

        One list of B per read-out of `options`, else one for the detector's own.
        """
        raise NotImplementedError

    def parts(self) -> dict[str, nn.Module]:
        """The modules by name, in the order they run: for precision, timing and profiles."""
        return dict(self.named_children())

    def predictors(self) -> Mapping[str, Predictor]:
        """The tensors of the state dict that have rows by class: for other classes' weights."""
        return {}

    def read_outs(self) -> list[ReadOut]:
        """The ways it can be read; most have one."""
        return [ONLY]

    def features(self) -> Features | None:
        """Its backbone, for pretrained weights; None if it has none to load."""
        return None

    def settle(self) -> None:
        """Training says so once the epochs of `augment.plain_epochs` begin; losses may change."""

    def notes(self) -> list[str]:
        """Lines about how it trains that a user should know."""
        return []


class Features(nn.Module):
    """A backbone: pixels to feature maps, fine to coarse.

    in   (B, 3, H, W) float, normalised
    out  a map (B, c, H / s, W / s) for each c of `channels` and s of `strides`

    `name` is that of the classifier whose published weights it can take.
    """

    name: str
    channels: list[int]
    strides: list[int]
    runs_as_listed = True
    """Whether modules of a container run in the order they are listed in."""
    _frozen: Sequence[nn.Module] = ()

    def stages(self) -> list[list[nn.Module]]:
        """The parts in order from the input: the stem, then one stage per halving."""
        raise NotImplementedError

    def load_pretrained(self, state: Mapping[str, Tensor], where: object, hint: str) -> None:
        """Take weights trained elsewhere, under the names that their program gives them.

        Raises ModelError about the file `where`, with `hint`, if a tensor is missing, unknown or
        of another shape.
        """
        raise NotImplementedError

    def freeze(self, count: int) -> None:
        """Fix the weights of the first `count` stages, and keep them in eval mode."""
        self._frozen = [module for stage in self.stages()[:count] for module in stage]
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self
