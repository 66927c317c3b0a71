"""How alike the cells of feature maps are, before and after a branch (appendix A, Fig. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhcli.data.io.progress import Count
from dhcli.errors import ConfigError
from dhcli.models.two_stage.head import GROUP
from dhcli.report.sheet import Column
from dhcli.report.study_cells import draw_cells
from dhcli.studies.cells import list_cells, list_distances, ring_facts, side_of
from dhcli.studies.objects import Objects, views
from dhcli.studies.study import Study
from dhcli.studies.subjects import Subject, by_model

Floats = NDArray[np.float64]


class MeanCosine:
    """The mean over RoIs of the cosine between every two cells of a map; holds only their sum.

    A cell that is zero in all channels has no direction: its pairs are left out of the mean.
    """

    def __init__(self) -> None:
        self.total: Floats = np.zeros((1, 1))
        self.count: Floats = np.zeros((1, 1))

    def add(self, maps: Tensor) -> None:
        """Take in the RoIs of `maps` (N, C, S, S)."""
        vectors = maps.float().flatten(2).transpose(1, 2)  # (N, S², C)
        length = vectors.norm(dim=2, keepdim=True)
        known = (length > 0).float()
        unit = vectors / length.clamp(min=torch.finfo(torch.float32).tiny)
        self.total = self.total + _summed_products(unit)
        self.count = self.count + _summed_products(known)

    def mean(self) -> Floats:
        """(S², S²), NaN where no RoI has both cells."""
        with np.errstate(invalid="ignore"):
            mean: Floats = self.total / self.count
        return mean


def _summed_products(vectors: Tensor) -> Floats:
    """Of every two cells of (N, S², C), summed over N: (S², S²)."""
    summed: Floats = (vectors @ vectors.transpose(1, 2)).double().sum(dim=0).cpu().numpy()
    return summed


class BranchMaps:
    """What a branch sees of RoIs, and its last map before a RoI becomes a vector.

    maps  mean cosine of cells: `input`, of pooled RoIs, and `output`, of `Trunk.output_map`
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.rois = 0
        self.maps = {"input": MeanCosine(), "output": MeanCosine()}

    @torch.inference_mode()
    def add(self, levels: Sequence[Tensor], boxes: Tensor) -> None:
        """Take in the boxes (N, 4) float32 xyxy, in network pixels, of a batch of one image.

        Raises ConfigError where the branch has no output map.
        """
        head, name = self.subject.head, self.subject.branch
        for group in torch.split(boxes, GROUP):
            pooled = head.pooled(name, levels, group, torch.zeros_like(group[:, 0]).long())
            try:
                output = self.subject.module.trunk.output_map(pooled)
            except NotImplementedError as error:
                what = f"the branch `{self.subject.label}` has no output map by cells"
                raise ConfigError(what, hint="--branch chooses others") from error
            self.maps["input"].add(pooled)
            self.maps["output"].add(output)
            self.rois += len(group)


def study_features(
    subjects: Sequence[Subject],
    objects: Objects,
    *,
    seed: int = 0,
    progress: Count | None = None,
) -> Study:
    """Compare the cells of each branch's input and output, on the objects' own boxes.

    `seed` is that of the choice of images, for the record.

    Raises ConfigError where a branch has no output map, DataError where an image cannot be read.
    """
    found = [BranchMaps(subject) for subject in subjects]
    models = by_model(subjects)
    images = len(set(objects.images.tolist()))
    done = 0
    for model in models:
        mine = [one for one in found if one.subject.model == model[0].model]
        for view in views(objects, model[0].runner):
            levels = model[0].levels(view.batch)
            boxes = torch.from_numpy(view.boxes).float().to(levels[0].device)
            for one in mine:
                one.add(levels, boxes)
            done += 1
            if progress is not None:
                progress(done, images * len(models))
    return _as_study(found, objects, seed)


def _as_study(found: Sequence[BranchMaps], objects: Objects, seed: int) -> Study:
    means = {
        (one.subject.label, name): cosine.mean()
        for one in found
        for name, cosine in one.maps.items()
    }
    by_distance = [
        {"branch": label, "map": name, "side": side_of(mean), "by_distance": ring_facts(mean)}
        for (label, name), mean in means.items()
    ]
    rows = [
        [(f"{one.subject.label}: {name}", means[one.subject.label, name]) for name in one.maps]
        for one in found
    ]
    facts = objects.facts([one.subject for one in found])
    facts |= {"seed": seed, "rois": found[0].rois, "maps": by_distance}
    title, names = "Cells of feature maps", (Column("branch"), Column("map"))
    caption = "mean cosine of two cells, by their distance in cells: 1 is the eight around"
    return Study(
        "features",
        facts,
        list_cells(title, names, {key: (mean,) for key, mean in means.items()}, ("cosine",)),
        (list_distances(title, names, means, caption),),
        {"features.png": partial(draw_cells, rows, "cosine")},
    )
