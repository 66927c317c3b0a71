"""How alike the weights of a branch's layer are at every two cells of its map (§3.4, Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dhcli.errors import ConfigError
from dhcli.report.sheet import Column
from dhcli.report.study_cells import draw_cells
from dhcli.studies.cells import list_cells, list_distances, ring_facts, side_of
from dhcli.studies.layers import CellLayer, cell_layers, correlate_cells
from dhcli.studies.study import Study
from dhcli.studies.subjects import Subject


def study_weights(subjects: Sequence[Subject], layer: str | None = None) -> Study:
    """Correlate the cells of the first layer of each branch that reads a map, or of `layer`.

    Branches without it are left out. Raises ConfigError where no branch has it.
    """
    alike = {
        (subject.label, name): correlate_cells(of)
        for subject in subjects
        for name, of in _choose(_layers(subject), layer).items()
    }
    if not alike:
        raise _no_layer(subjects, layer)
    pearson = {key: of[0] for key, of in alike.items()}
    layers = [
        {"branch": label, "layer": name, "side": side_of(r), "by_distance": ring_facts(r)}
        for (label, name), r in pearson.items()
    ]
    title, names = "Weights of cells", (Column("branch"), Column("layer"))
    caption = "mean Pearson's r of two cells, by their distance in cells: 1 is the eight around"
    panels = [(": ".join(key), r) for key, r in pearson.items()]
    label = "Pearson's r of weights"
    return Study(
        "weights",
        {
            "models": {subject.model: str(subject.path) for subject in subjects},
            "subjects": [subject.label for subject in subjects],
            "layers": layers,
        },
        list_cells(title, names, alike, ("pearson", "cosine")),
        (list_distances(title, names, pearson, caption),),
        {
            "weights.png": partial(draw_cells, [panels], label),
            "weights_others.png": partial(draw_cells, [panels], label, others=True),
        },
    )


def _layers(subject: Subject) -> dict[str, CellLayer]:
    """The layers of the branch that read a map, by their names in it."""
    found = cell_layers(subject.module.trunk, subject.head.pool.size)
    return {f"trunk.{name}": layer for name, layer in found.items()}


def _choose(layers: dict[str, CellLayer], name: str | None) -> dict[str, CellLayer]:
    """The layer `name`, or the first where that is None; nothing where there is none."""
    wanted = next(iter(layers), "") if name is None else name
    return {wanted: layers[wanted]} if wanted in layers else {}


def _no_layer(subjects: Sequence[Subject], name: str | None) -> ConfigError:
    if name is None:
        return ConfigError("no branch has a layer that reads the cells of a map")
    what = f"no branch has a layer `{name}` that reads the cells of a map"
    every = "; ".join(f"{one.label}: {', '.join(_layers(one)) or 'none'}" for one in subjects)
    return ConfigError(what, where="--layer", hint=f"these do: {every}")
