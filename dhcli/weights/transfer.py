"""Start a detector for new classes from one that knows others: rows are copied by class name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dhcli.errors import ConfigError, ModelError, suggest
from dhcli.weights.model_file import ModelFile
from dhcli.weights.state import compare, is_counter
from dhcli.words import counted

PREDICTOR = re.compile(r"head\.branches\.[^.]+\.(cls|reg)\.(weight|bias)")


@dataclass(frozen=True)
class Row:
    """Where the predictors of one class start from.

    `how`: named by an alias, the exact name, alike but for case, spaces, `-` and `_`, or new.
    """

    name: str
    source: str | None
    how: Literal["alias", "exact", "alike", "new"]


@dataclass(frozen=True)
class Transfer:
    """What was copied.

    rows    one a class of the new detector, in its order
    unused  classes of the source that no row starts from
    fresh   predictors that the source does not have and that keep their initialisation
    """

    rows: tuple[Row, ...]
    unused: tuple[str, ...]
    fresh: tuple[str, ...]

    def summary(self) -> str:
        """One line: "3 classes: 2 exact, 1 new"."""
        counts = Counter(row.how for row in self.rows)
        ways = ", ".join(f"{n} {how}" for how, n in counts.items())
        return f"{counted(len(self.rows), 'class')}: {ways}"


def transfer(
    source: ModelFile,
    state: Mapping[str, Tensor],
    classes: Sequence[str],
    aliases: Mapping[str, str],
) -> tuple[dict[str, Tensor], Transfer]:
    """The state dict that a detector of `classes` starts from, and the table of what was copied.

    `state` is the new detector's fresh state dict; neither it nor `source` is changed. Everything
    but the predictors is copied whole. Of the predictors, the background's row and the rows of
    classes that the source knows are copied, cls and reg alike; the others stay as they are.
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
    predictors = [name for name in state if PREDICTOR.fullmatch(name)]
    started = _copy_rest(source, state)
    sizes = (len(source.classes), len(classes))
    fresh = [name for name in predictors if not _copy(name, source.state, started, pairs, sizes)]
    used = {row.source for row in rows}
    unused = tuple(name for name in source.classes if name not in used)
    return started, Transfer(rows, unused, tuple(fresh))


def match_names(
    classes: Sequence[str], known: Sequence[str], aliases: Mapping[str, str]
) -> tuple[Row, ...]:
    """For each of `classes` the one of `known` it starts from: alias, else exact, else alike.

    Two known names that are alike to one another are matched exactly or not at all.
    """
    counts = Counter(map(_plain, known))
    alike = {_plain(name): name for name in known if counts[_plain(name)] == 1}
    return tuple(_match(name, known, alike, aliases) for name in classes)


def _match(
    name: str, known: Sequence[str], alike: Mapping[str, str], aliases: Mapping[str, str]
) -> Row:
    if name in aliases:
        return Row(name, aliases[name], "alias")
    if name in known:
        return Row(name, name, "exact")
    if _plain(name) in alike:
        return Row(name, alike[_plain(name)], "alike")
    return Row(name, None, "new")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _copy_rest(source: ModelFile, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of `state` with everything but the predictors taken from `source`."""
    rest = {name: tensor for name, tensor in state.items() if not PREDICTOR.fullmatch(name)}
    given = {
        name: tensor
        for name, tensor in source.state.items()
        if name in rest or not (PREDICTOR.fullmatch(name) or is_counter(name))
    }
    differences = compare(rest, given)
    if differences:
        raise ModelError(
            f"the weights are of another network: {differences}",
            hint=f"start from the preset that they were trained with, `{source.config.name}`",
        )
    return {
        name: (given if name in given else state)[name].clone().to(tensor.dtype)
        for name, tensor in state.items()
    }


def _copy(
    name: str,
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    pairs: Sequence[tuple[int, int]],
    sizes: tuple[int, int],
) -> bool:
    """Copy the rows of one predictor in place; False where the source has none of its shape.

    cls has K+1 rows, background first; reg has four a class, with or without the background's
    (`model.head.background_box`), or where it is class-agnostic as many in both.
    """
    old, new = source.get(name), target[name]
    if old is None or old.shape[1:] != new.shape[1:]:
        return False
    group = 1 if ".cls." in name else 4
    moves = list(pairs)
    firsts = [len(tensor) // group - size for tensor, size in zip((old, new), sizes, strict=True)]
    if firsts == [1, 1]:
        moves = [(0, 0), *((to + 1, origin + 1) for to, origin in pairs)]
    elif firsts != [0, 0]:
        if group == 1 or len(old) != len(new) or len(old) > 8:
            return False
        moves = [(row, row) for row in range(len(old) // 4)]
    for to, origin in moves:
        new[to * group : (to + 1) * group] = old[origin * group : (origin + 1) * group]
    return True


def _check_aliases(
    aliases: Mapping[str, str], classes: Sequence[str], known: Sequence[str]
) -> None:
    for name, source in aliases.items():
        if name not in classes:
            what = f"alias `{name}: {source}`: `{name}` is not a class of the data"
            raise ConfigError(what, hint=suggest(name, classes))
        if source not in known:
            what = f"alias `{name}: {source}`: the weights know no class `{source}`"
            raise ConfigError(what, hint=suggest(source, known))
