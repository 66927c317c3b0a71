"""Precision over recall, of every class and of their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.metrics.result import ApResult
from dhcli.report.draw import PALETTE, colour_of
from dhcli.report.plots import bare, legend_beside, new_figure, save_figure, short

MOST_NAMED = 20
"""With more classes than this, curves of classes are grey and only their mean is named."""
_LONGEST = 24


def draw_pr_curves(result: ApResult, path: Path) -> None:
    """Draw COCO's interpolated precision over recall to `path`, a PNG.

    On the left at IoU 0.5, on the right the mean over IoU 0.5 … 0.95. The mean height of a curve is
    AP50, or AP, and stands before its name in percent. Classes without objects are left out.
    Raises DhError where `path` cannot be written.
    """
    if result.precision is None:
        raise ValueError("this metric has no precision at each recall")
    figure = new_figure(12, 5)
    panels = {"IoU 0.5": result.precision[0], "mean over IoU 0.5:0.95": result.precision.mean(0)}
    names = [short(name, _LONGEST) for name in result.per_class]
    for axes, (title, curves) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        _draw_panel(axes, curves, names)
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        bare(axes)
    save_figure(figure, path)


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
    legend = legend_beside(axes)
    if not few:
        legend.set_title(f"{len(order)} classes in grey", {"size": 8})


def _looks(classes: list[int]) -> dict[int, dict[str, Any]]:
    """How the curve of each class is drawn: in the colour of its boxes."""
    return {
        k: {
            "color": tuple(band / 255 for band in colour_of(k)),
            "linestyle": ("-", "--", ":")[k // len(PALETTE) % 3],
            "linewidth": 1.3,
        }
        for k in classes
    }


def _label(curve: NDArray[np.float64], name: str) -> str:
    return f"{100 * curve.mean():.1f} {name}"
