"""Start a detector for new classes from one that knows others: rows are copied by class name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dhcli.errors import ConfigError, ModelError, suggest
from dhcli.models.contract import Detector, Predictor
from dhcli.models.state import compare, is_counter
from dhcli.weights.class_names import Match, match_names
from dhcli.weights.model_file import ModelFile
from dhcli.words import counted


@dataclass(frozen=True)
class Transfer:
    """What was copied.

    rows    one a class of the new detector, in its order
    unused  classes of the source that no row starts from
    fresh   predictors that the source does not have and that keep their initialisation
    """

    rows: tuple[Match, ...]
    unused: tuple[str, ...]
    fresh: tuple[str, ...]

    def summary(self) -> str:
        """One line: "3 classes: 2 exact, 1 new"."""
        counts = Counter(row.how for row in self.rows)
        ways = ", ".join(f"{n} {how}" for how, n in counts.items())
        return f"{counted(len(self.rows), 'class')}: {ways}"

    def rest_lines(self) -> list[str]:
        """What of the source is not used, and what starts at random; [] where there is neither."""
        lines = []
        if self.unused:
            lines.append(f"weights not used: {', '.join(self.unused)}")
        if self.fresh:
            new = ", ".join(self.fresh)
            lines.append(f"new, because the weights have no such predictor: {new}")
        return lines


def transfer(
    source: ModelFile,
    detector: Detector,
    classes: Sequence[str],
    aliases: Mapping[str, str],
) -> tuple[dict[str, Tensor], Transfer]:
    """The state dict that `detector`, of `classes`, starts from, and the table of what was copied.

    Neither `detector` nor `source` is changed. Everything but the predictors is copied whole. Of
    the predictors, the background's rows and those of classes that the source knows are copied;
    the others stay as they are in `detector`.
    Raises ConfigError where an alias names an unknown class, with the nearest name, and ModelError
    where the networks are not alike.
    """
    _check_aliases(aliases, classes, source.classes)
    rows = match_names(classes, source.classes, aliases)
    pairs = [
        (new, source.classes.index(row.source))
        for new, row in enumerate(rows)
        if row.source is not None
    ]
    predictors = detector.predictors()
    started = _copy_rest(source, detector.state_dict(), predictors)
    sizes = (len(source.classes), len(classes))
    fresh = [
        name
        for name, predictor in predictors.items()
        if not _copy(predictor, source.state.get(name), started[name], pairs, sizes)
    ]
    used = {row.source for row in rows}
    unused = tuple(name for name in source.classes if name not in used)
    return started, Transfer(rows, unused, tuple(fresh))


def _copy_rest(
    source: ModelFile, state: Mapping[str, Tensor], predictors: Mapping[str, Predictor]
) -> dict[str, Tensor]:
    """A copy of `state` with everything but the predictors taken from `source`."""
    rest = {name: tensor for name, tensor in state.items() if name not in predictors}
    given = {
        name: tensor
        for name, tensor in source.state.items()
        if name in rest or not (_is_predictor(name, predictors) or is_counter(name))
    }
    differences = compare(rest, given)
    if differences:
        raise ModelError(
            f"the weights belong to another network: {differences}",
            hint=f"use the preset that they were trained with, `{source.config.name}`",
        )
    return {
        name: (given if name in given else state)[name].clone().to(tensor.dtype)
        for name, tensor in state.items()
    }


def _is_predictor(name: str, predictors: Mapping[str, Predictor]) -> bool:
    """Whether a tensor of the source is a predictor beside those that the new detector has.

    A branch may have had a classifier or a box regression that it now has not.
    """
    places = {_owner(one) for one in predictors} - {""}
    return name in predictors or _owner(name) in places


def _owner(name: str) -> str:
    """The module that holds the layer of a tensor: `a.b` of `a.b.cls.weight`."""
    return name.rpartition(".")[0].rpartition(".")[0]


def _copy(
    predictor: Predictor,
    old: Tensor | None,
    new: Tensor,
    pairs: Sequence[tuple[int, int]],
    sizes: tuple[int, int],
) -> bool:
    """Copy the rows of one predictor into `new`; False where the source has none of its shape.

    in   pairs  (new class, source's class) of those that are known
         sizes  classes of the source, of the new detector
    """
    if old is None or old.shape[1:] != new.shape[1:]:
        return False
    group = predictor.group
    first = 1 if predictor.background == "first" else 0
    beside = 0 if predictor.background == "none" else 1
    if not predictor.by_class:
        if len(old) != len(new):
            return False
        new[:] = old
        return True
    of_anchor = [(size + beside) * group for size in sizes]
    if [len(old), len(new)] != [rows * predictor.anchors for rows in of_anchor]:
        return False
    if not predictor.named:
        pairs = [(row, row) for row in range(min(sizes))]
    moves = [(to + first, origin + first) for to, origin in pairs]
    if beside:
        moves.append((0, 0) if first else (sizes[1], sizes[0]))
    old, new = (
        x.view(-1, rows, *x.shape[1:]) for x, rows in zip((old, new), of_anchor, strict=True)
    )
    for to, origin in moves:
        new[:, to * group : (to + 1) * group] = old[:, origin * group : (origin + 1) * group]
    return True


def _check_aliases(
    aliases: Mapping[str, str], classes: Sequence[str], known: Sequence[str]
) -> None:
    for name, source in aliases.items():
        if name not in classes:
            what = f"alias `{name}: {source}`: `{name}` is not a class of the data"
            raise ConfigError(what, hint=suggest(name, classes))
        if source not in known:
            what = f"alias `{name}: {source}`: the weights have no class `{source}`"
            raise ConfigError(what, hint=suggest(source, known))
