"""How alike the weights of a branch's layer are at every two cells of its map (§3.4, Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dhcli.errors import ConfigError
from dhcli.report.sheet import Cell, Column, Row, Sheet
from dhcli.report.study_cells import draw_cells
from dhcli.studies.cells import PAIR_COLUMNS, Floats, Ring, by_distance, list_pairs, rings, side_of
from dhcli.studies.layers import CellLayer, cell_layers, correlate_cells
from dhcli.studies.study import Study
from dhcli.studies.subjects import Subject


@dataclass(frozen=True)
class LayerCorrelation:
    """A layer of a subject, and how alike the weights of its cells are: see `correlate_cells`.

    pearson, cosine  (S², S²)
    """

    label: str
    layer: str
    pearson: Floats
    cosine: Floats

    @property
    def name(self) -> str:
        """Of its panel."""
        return f"{self.label}: {self.layer}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: mean and spread of r by distance."""
        return {
            "branch": self.label,
            "layer": self.layer,
            "side": side_of(self.pearson),
            "by_distance": [ring.as_dict() for ring in rings(self.pearson)],
        }


def study_weights(subjects: Sequence[Subject], layer: str | None = None) -> Study:
    """Correlate the cells of the first layer of each branch that reads a map, or of `layer`.

    Branches without it are left out. Raises ConfigError where no branch has it.
    """
    found = [
        LayerCorrelation(subject.label, name, *correlate_cells(of))
        for subject in subjects
        for name, of in _choose(_layers(subject), layer).items()
    ]
    if not found:
        raise _no_layer(subjects, layer)
    panels = [(one.name, one.pearson) for one in found]
    label = "Pearson's r of weights"
    return Study(
        "weights",
        {"layers": [one.as_dict() for one in found]},
        _numbers(found),
        (_sheet(found),),
        {
            "weights.png": partial(draw_cells, [panels], label),
            "weights_others.png": partial(draw_cells, [panels], label, others=True),
        },
    )


def _layers(subject: Subject) -> dict[str, CellLayer]:
    """By their names in the branch."""
    head = subject.head
    found = cell_layers(head.branch(subject.branch).trunk, head.pool.size)
    return {f"trunk.{name}": layer for name, layer in found.items()}


def _choose(layers: dict[str, CellLayer], name: str | None) -> dict[str, CellLayer]:
    """The layer `name`, the first where that is None; nothing where there is none."""
    wanted = next(iter(layers), None) if name is None else name
    return {wanted: layers[wanted]} if wanted in layers else {}


def _no_layer(subjects: Sequence[Subject], name: str | None) -> ConfigError:
    if name is None:
        return ConfigError("no branch has a layer that reads the cells of a RoI")
    what = f"no branch has a layer `{name}` that reads the cells of a map"
    every = "; ".join(f"{one.label}: {', '.join(_layers(one)) or 'none'}" for one in subjects)
    return ConfigError(what, hint=f"these do: {every}")


def _numbers(found: Sequence[LayerCorrelation]) -> Sheet:
    """Both numbers of every two cells of every layer."""
    rows: list[Row] = []
    for one in found:
        values = zip(one.pearson.ravel().tolist(), one.cosine.ravel().tolist(), strict=True)
        pairs = list_pairs(side_of(one.pearson))
        rows += [(one.label, one.layer, *p, *v) for p, v in zip(pairs, values, strict=True)]
    columns = (Column("branch"), Column("layer"), *PAIR_COLUMNS)
    return Sheet(
        "Weights of cells", (*columns, Column("pearson", "score"), Column("cosine", "score")), tuple(rows)
    )


def _sheet(found: Sequence[LayerCorrelation]) -> Sheet:
    means = [rings(one.pearson) for one in found]
    rows: list[tuple[list[Cell], list[Ring]]] = [
        ([one.label, one.layer], mean) for one, mean in zip(found, means, strict=True)
    ]
    return by_distance(
        "Correlation of weights",
        (Column("branch"), Column("layer")),
        rows,
        "mean Pearson's r of the weights of two cells, by their distance in cells",
    )
