"""How a branch says a box: what it is taught, what an error costs, and which box is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dhcli.config.schema import Buckets as BucketsConfig
from dhcli.config.schema import Deltas as DeltasConfig
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.contract import Predictor
from dhcli.models.init import init_normal
from dhcli.models.losses import bucket_loss, regression_loss
from dhcli.models.two_stage.rois import Rois
from dhcli.ops.box_rules import BoxRules
from dhcli.ops.boxes import encode_boxes
from dhcli.ops.buckets import decode_buckets, encode_buckets


class Regressor(nn.Module):
    """A branch's predictor of boxes.

    Below, `said` is what `read` gives of n RoIs: (n, …) float, in a form of the regressor's own.
    """

    def read(self, x: Tensor) -> Tensor:
        """What is said of the RoIs that the trunk has turned into `x` (n, …)."""
        raise NotImplementedError

    def loss(self, said: Tensor, rois: Rois, sampled: int) -> Tensor:
        """The error of what is said of objects among n `rois`, per `sampled` one: () float32."""
        raise NotImplementedError

    def decode(self, said: Tensor, boxes: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """The boxes that are meant, for D choices of a RoI and a class.

        in   boxes  (n, 4) float32 xyxy, the RoIs
             rows, labels  (D,) int64, which RoI and which class, 0…K-1
        out  (D, 4) float32 xyxy, not clipped
        """
        raise NotImplementedError

    def confidence(self, said: Tensor, rows: Tensor) -> Tensor | None:
        """What the scores of RoIs `rows` (D,) are multiplied by, after the threshold: (D,) float32.

        None: it has no opinion.
        """
        return None

    def predictors(self) -> dict[str, Predictor]:
        """Its tensors that have rows by class; see the contract."""
        return {}


class Deltas(Regressor, nn.Linear):
    """A shift and a change of size, of each class or of all alike (R-CNN, appendix C).

    `said` is (n, K or 1, 4) float: dx, dy, dw, dh over their deviations.
    """

    def __init__(
        self,
        config: DeltasConfig,
        width: int,
        places: int,
        classes: int,
        head: HeadConfig,
        rules: BoxRules,
    ) -> None:
        assert places == 1  # the configuration sees to it
        self.first = int(head.background_box)
        super().__init__(width, ((1 if head.class_agnostic else classes) + self.first) * 4)
        self.agnostic = head.class_agnostic
        self.std = head.box_std
        self.beta = head.smooth_l1_beta
        self.rules = rules
        init_normal(self, std=0.001)

    def read(self, x: Tensor) -> Tensor:
        deltas: Tensor = self(x).unflatten(1, (-1, 4))[:, self.first :]
        return deltas

    def loss(self, said: Tensor, rois: Rois, sampled: int) -> Tensor:
        rows = torch.nonzero(rois.classes).flatten()
        goals = encode_boxes(rois.goals[rows], rois.boxes[rows], self.std)
        deltas = said[rows, self._columns(rois.classes[rows] - 1)]
        return regression_loss(deltas, goals, self.beta, sampled)

    def decode(self, said: Tensor, boxes: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        return self.rules.decode(said[rows, self._columns(labels)], boxes[rows], self.std)

    def predictors(self) -> dict[str, Predictor]:
        rows = Predictor(4, "first" if self.first else "none", not self.agnostic)
        return {"weight": rows, "bias": rows}

    def _columns(self, labels: Tensor) -> Tensor:
        return torch.zeros_like(labels) if self.agnostic else labels


class Buckets(Regressor):
    """Of each side a bucket and an offset within it ("Side-Aware Boundary Localization", §3).

    `said` is (n, 4, b, 2) float: logit and offset of each bucket of the left, right, top and bottom
    side, the outermost first. They are read from one vector, or each from its own.
    """

    def __init__(
        self,
        config: BucketsConfig,
        width: int,
        places: int,
        classes: int,
        head: HeadConfig,
        rules: BoxRules,
    ) -> None:
        super().__init__()
        self.config = config
        self.logits = nn.Linear(width, 2 * config.count // places)
        self.offsets = nn.Linear(width, 2 * config.count // places)
        init_normal(self.logits, std=0.01)
        init_normal(self.offsets, std=0.001)

    def read(self, x: Tensor) -> Tensor:
        parts = (layer(x).reshape(-1, 4, self.config.count // 2) for layer in self._layers())
        return torch.stack(tuple(parts), dim=-1)

    def loss(self, said: Tensor, rois: Rois, sampled: int) -> Tensor:
        rows = torch.nonzero(rois.classes).flatten()
        scale, count, beta = self.config.scale, self.config.count, self.config.beta
        goals = encode_buckets(rois.goals[rows], rois.boxes[rows], scale, count)
        return bucket_loss(said[rows], goals, beta, sampled)

    def decode(self, said: Tensor, boxes: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        return decode_buckets(said, boxes, self.config.scale, self.config.count)[rows]

    def confidence(self, said: Tensor, rows: Tensor) -> Tensor:
        """How likely the best bucket is, and the second if it is beside it: the mean of four."""
        best = said[..., 0].float().softmax(dim=-1).topk(2)
        first, second = best.values.unbind(-1)
        beside = (best.indices[..., 0] - best.indices[..., 1]).abs() == 1
        return (first + second * beside).mean(dim=1)[rows]

    def predictors(self) -> dict[str, Predictor]:
        shared = Predictor(1, by_class=False)
        return {f"{x}.{part}": shared for x in ("logits", "offsets") for part in ("weight", "bias")}

    def _layers(self) -> tuple[nn.Linear, nn.Linear]:
        return self.logits, self.offsets


REGRESSORS: dict[type[Any], Callable[[Any, int, int, int, HeadConfig, BoxRules], Regressor]] = {
    DeltasConfig: Deltas,
    BucketsConfig: Buckets,
}
"""What builds a regressor by the class of its section `reg`: of that section, the width of the
trunk's vectors and how many a RoI has, K, the head and the rules on boxes."""
