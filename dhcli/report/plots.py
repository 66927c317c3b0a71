"""What every plot shares: its look, names as they are, and the way into a file."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhcli.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG, whole or not at all. Raises DhError where `path` cannot be written.

    A character that the font lacks is drawn as a box, without a word.
    """
    with warnings.catch_warnings(), atomic_write(path) as file:
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, format="png")


def whole_numbers(most: int = 9) -> Any:
    """At most this many ticks, at whole numbers, for counts of objects."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, integer=True)


def bare(axes: Any) -> None:
    """Take the frame above and on the right away."""
    axes.spines[["top", "right"]].set_visible(False)


def legend_beside(axes: Any) -> Any:
    """A legend on the right of the plot."""
    legend = axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    as_they_are(legend.get_texts())
    return legend


def as_they_are(texts: Iterable[Any]) -> None:
    """Draw names as they are: a class may be called `$5 or $10`, which is no formula."""
    for text in texts:
        text.set_parse_math(False)


def short(name: str, most: int) -> str:
    """`name`, cut to `most` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
