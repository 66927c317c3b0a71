"""A cascade: the head again and again, each on the boxes that the one before refined."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dhcli.config.heads import ReadOut
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.contract import Predictor
from dhcli.models.two_stage.head import Head, Scored
from dhcli.ops.batch import Target


class Cascade(nn.Module):
    """Stages, each a head with thresholds of its own ("Cascade R-CNN"); a head to the detector.

    Between stages a box is refined by the branch whose boxes are configured to be read. It goes on
    clipped to its image, whether or not anything is left of it, and without a gradient. Scores are
    read from the mean of all stages' logits, branch by branch; boxes from the last stage.
    """

    def __init__(self, config: HeadConfig, stages: Sequence[Head]) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(stages)
        self.read_out = stages[-1].read_out

    def losses(
        self,
        levels: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        sizes: Tensor,
    ) -> dict[str, Tensor]:
        """loss_s<stage>_<branch>_<task>, weighted by the stage's weight, ω and λ. See `Head`.

        Every stage samples anew. The objects that it adds to its proposals do not go on.
        """
        *before, last = self._heads()
        losses: dict[str, Tensor] = {}
        for number, stage in enumerate(before):
            rois = stage.sample(proposals, targets)
            found, outputs = stage.learn(levels, rois, of_all=True)
            losses |= _named(found, number)
            refined = stage.refine(outputs, rois.boxes, rois.images, sizes, rois.classes)
            proposals = [
                refined[(rois.images == image) & ~rois.added] for image in range(len(targets))
            ]
        return losses | _named(last.losses(levels, proposals, targets, sizes), len(before))

    def detect(
        self,
        read_outs: Sequence[ReadOut],
        levels: Sequence[Tensor],
        boxes: Tensor,
        images: Tensor,
        sizes: Tensor,
        threshold: float,
        gate: float = 0.0,
    ) -> list[Scored]:
        """As `Head.detect`; a gate saves work in the last stage only."""
        *before, last = self._heads()
        scorers = last.all_scorers(read_outs)
        logits: dict[str, list[Tensor]] = {name: [] for name in scorers}
        needed = {*last.all_scorers([*read_outs, self.read_out]), self.read_out.boxes}
        for stage in before:
            outputs = {
                name: stage.run_in_groups(name, levels, boxes, images)
                for name in stage.branches
                if name in needed
            }
            for name in scorers:
                said = outputs[name].logits
                assert said is not None  # a scorer has them
                logits[name].append(said)
            boxes = stage.refine(outputs, boxes, images, sizes)
        return last.detect(read_outs, levels, boxes, images, sizes, threshold, gate, logits)

    def parts(self) -> dict[str, nn.Module]:
        """The modules by name, in the order they run; the stages pool by the same one."""
        found: dict[str, nn.Module] = {}
        for number, stage in enumerate(self._heads()):
            pool, *branches = stage.parts().items()
            found |= dict([pool]) | {f"{name} {number}": branch for name, branch in branches}
        return found

    def predictors(self) -> dict[str, Predictor]:
        """The tensors that have rows by class; see the contract."""
        return {
            f"stages.{number}.{name}": rows
            for number, stage in enumerate(self._heads())
            for name, rows in stage.predictors().items()
        }

    def notes(self) -> list[str]:
        """What a user should know of how the branches train."""
        return list(dict.fromkeys(note for stage in self._heads() for note in stage.notes()))

    def _heads(self) -> list[Head]:
        return [stage for stage in self.stages if isinstance(stage, Head)]


def _named(losses: dict[str, Tensor], stage: int) -> dict[str, Tensor]:
    return {name.replace("loss_", f"loss_s{stage}_", 1): loss for name, loss in losses.items()}
