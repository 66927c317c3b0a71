"""Precision over recall, of every class and of their mean."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.atomic import atomic_write
from dhcli.metrics.result import ApResult

MOST_NAMED = 20
"""With more classes than this, curves of classes are grey and only their mean is named."""
_LONGEST = 24


def draw_pr_curves(result: ApResult, path: Path) -> None:
    """Draw COCO's interpolated precision over recall to `path`, a PNG.

    On the left at IoU 0.5, on the right the mean over IoU 0.5 … 0.95. The mean height of a curve is
    AP50, or AP, and stands before its name in percent. Classes without objects are left out.
    Raises DhError where `path` cannot be written.
    """
    from matplotlib.figure import Figure

    if result.precision is None:
        raise ValueError("this metric has no precision at each recall")
    figure = Figure(figsize=(12, 5), dpi=110, layout="constrained")
    panels = {"IoU 0.5": result.precision[0], "mean over IoU 0.5:0.95": result.precision.mean(0)}
    names = [_short(name) for name in result.per_class]
    for axes, (title, curves) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        _draw_panel(axes, curves, names)
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    with warnings.catch_warnings(), atomic_write(path) as file:
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for it
        figure.savefig(file, format="png")


def _draw_panel(axes: Any, curves: NDArray[np.float64], names: list[str]) -> None:
    """The curves (R, K) of classes called `names`, the best first, and their mean in black."""
    recall = np.linspace(0, 1, len(curves))
    known = np.flatnonzero(~np.isnan(curves[0]))
    if not len(known):
        return
    order = known[np.argsort(-curves[:, known].mean(0), kind="stable")]
    mean = curves[:, known].mean(1)
    axes.plot(recall, mean, label=_label(mean, "mean"), color="black", linewidth=2.5, zorder=3)
    few = len(known) <= MOST_NAMED
    looks = _looks(known.tolist()) if few else {}
    for k in order.tolist():
        if few:
            axes.plot(recall, curves[:, k], label=_label(curves[:, k], names[k]), **looks[k])
        else:
            axes.plot(recall, curves[:, k], color="0.6", linewidth=0.7)
    legend = axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for text in legend.get_texts():
        text.set_parse_math(False)  # a class may be called `$5 or $10`
    if not few:
        legend.set_title(f"{len(order)} classes in grey", {"size": 8})


def _looks(classes: list[int]) -> dict[int, dict[str, Any]]:
    """How the curve of each class is drawn, the same in both panels."""
    from matplotlib import colormaps

    colours = colormaps["tab10" if len(classes) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    return {k: {"color": colours[place], "linewidth": 1.3} for place, k in enumerate(classes)}


def _label(curve: NDArray[np.float64], name: str) -> str:
    return f"{100 * curve.mean():.1f} {name}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
