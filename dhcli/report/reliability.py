"""How many of the detections with a score are right, beside what the scores say."""

from __future__ import annotations

from pathlib import Path

from dhcli.metrics.calibration import Calibration
from dhcli.report.plots import bare, new_figure, save_figure, whole_numbers

PRECISION, GAP = "#4c78a8", "#e45756"


def draw_reliability(calibration: Calibration, path: Path) -> None:
    """Draw precision over mean score, and the number of detections, of each bin to `path`, a PNG.

    The dashed line is where both are equal. In the error, each bin counts by its detections. Empty
    axes where nothing was detected. Raises DhError where `path` cannot be written.
    """
    figure = new_figure(5.5, 6)
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = [one for one in calibration.bins if one.detections]
    axes.plot((0, 1), (0, 1), color="0.5", linestyle="--", linewidth=1, label="score = precision")
    places = [one.low for one in bins]
    wide = {"width": 0.1, "align": "edge", "edgecolor": "white"}
    axes.bar(places, [one.precision for one in bins], color=PRECISION, **wide, label="precision")
    axes.scatter(
        [one.score for one in bins],
        [one.precision for one in bins],
        color="black",
        s=18,
        zorder=3,
        label="mean score",
    )
    for number, one in enumerate(bins):
        ends = (one.score, one.score), (one.score, one.precision)
        axes.plot(*ends, color=GAP, linewidth=2, label="" if number else "their difference")
    counts.bar(places, [one.detections for one in bins], color="0.6", **wide)
    error = calibration.error
    title = "nothing to calibrate" if error is None else f"calibration error {100 * error:.1f} %"
    axes.set(title=title, ylabel="precision at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
    counts.set(xlabel="score", ylabel="detections")
    counts.yaxis.set_major_locator(whole_numbers(4))
    for each in (axes, counts):
        bare(each)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    save_figure(figure, path)
