"""How a branch says a box: what it is taught, what an error costs, and which box is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dhcli.config.schema import Deltas as DeltasConfig
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.contract import Predictor
from dhcli.models.init import init_normal
from dhcli.models.losses import regression_loss
from dhcli.models.two_stage.rois import Rois
from dhcli.ops.box_rules import BoxRules
from dhcli.ops.boxes import encode_boxes


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
        classes: int,
        head: HeadConfig,
        rules: BoxRules,
    ) -> None:
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


REGRESSORS: dict[type[Any], Callable[[Any, int, int, HeadConfig, BoxRules], Regressor]] = {
    DeltasConfig: Deltas,
}
"""What builds a regressor by the class of its section `reg`: of that section, the width of the
trunk's vectors, K, the head and the rules on boxes."""
