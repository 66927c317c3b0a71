"""A dataset in pictures: samples with their boxes, how many of what, how large, and where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhcli.atomic import atomic_folder
from dhcli.data.io.image import read_image
from dhcli.data.table import ANY_CLASS, DetectionTable
from dhcli.data.tools.statistics import MEDIUM, SMALL, Statistics, find_objects
from dhcli.errors import DataError
from dhcli.report.contact_sheet import tile_size, write_contact_sheet
from dhcli.report.dataset import statistics_sheets
from dhcli.report.draw import colour_of, draw_boxes
from dhcli.report.html import page_html
from dhcli.report.plots import as_they_are, bare, new_figure, save_figure, short, whole_numbers
from dhcli.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 12
"""Images in the grid."""
_MOST_BARS = 40
_LONGEST = 30
_WIDTH = 560
"""Pixels of an image in the grid."""
_MOST_CELLS = 64
_COLOUR = "#0072b2"


def write_pictures(
    table: DetectionTable,
    numbers: Statistics,
    folder: Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
) -> list[str]:
    """Draw a dataset into a new folder, beside its `numbers`; the names of the files.

    samples.png      images with their boxes, every class shown where `SAMPLES` images can
    classes.png      objects of each class
    sizes.png        √area and height / width of the objects, and objects per image
    centres.png      where in their images the centres of objects lie
    statistics.html  the numbers, every class of them

    Raises DhError where the folder is there already, unless `overwrite`, or cannot be written.
    """
    found = find_objects(table)
    figures = {"classes.png": draw_classes(found), "sizes.png": draw_sizes(found)}
    figures["centres.png"] = draw_centres(found)
    with atomic_folder(folder, overwrite=overwrite) as place:
        chosen = table.take_images(np.array(choose_samples(table, SAMPLES, seed), np.int64))
        if samples := list(_samples(chosen)):
            legend = "hatched in grey: to ignore" if chosen.regions().any() else ""
            sheet = place / "samples.png"
            write_contact_sheet(samples, sheet, columns=3, width=_WIDTH, legend=legend)
        for name, figure in figures.items():
            save_figure(figure, place / name)
        page = page_html(str(table.root), statistics_sheets(numbers))
        (place / "statistics.html").write_bytes(page.encode("utf-8", "replace"))
        return sorted(path.name for path in place.iterdir())


def choose_samples(table: DetectionTable, count: int, seed: int) -> list[int]:
    """Numbers of `count` images: for every class in turn one that shows it, the rarest first."""
    order = np.random.default_rng(seed).permutation(len(table))
    place = np.empty(len(table), np.int64)
    place[order] = np.arange(len(table))
    labels, images = table.labels, table.image_of_box
    counts = np.bincount(labels[labels != ANY_CLASS], minlength=len(table.classes))
    chosen: dict[int, None] = {}
    for label in np.argsort(counts, kind="stable").tolist():
        showing = np.unique(images[labels == label])
        if len(showing) and len(chosen) < count and not set(showing.tolist()) & set(chosen):
            chosen[int(showing[place[showing].argmin()])] = None
    filled = np.unique(images)
    others = filled[np.argsort(place[filled])].tolist()
    return list(dict.fromkeys([*chosen, *others, *order.tolist()]))[:count]


def draw_classes(objects: DetectionTable) -> Figure:
    """Bars: objects of each class, the most frequent first."""
    counts = np.bincount(objects.labels, minlength=len(objects.classes))
    order = np.argsort(-counts, kind="stable")[:_MOST_BARS]
    figure = new_figure(9, 1.2 + 0.24 * max(len(order), 3))
    axes = figure.subplots()
    rows = np.arange(len(order))
    colours = [np.divide(colour_of(label), 255) for label in order.tolist()]
    bars = axes.barh(rows, counts[order], color=colours)  # as in samples.png
    axes.bar_label(bars, [f"{count:,}" for count in counts[order]], padding=3, fontsize=8)
    axes.set_yticks(rows, [short(objects.classes[label], _LONGEST) for label in order], fontsize=8)
    as_they_are(axes.get_yticklabels())
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    more = len(counts) - len(order)
    axes.xaxis.set_major_locator(whole_numbers())
    axes.set_xlabel("objects" + (f" (and {counted(more, 'class')} more)" if more else ""))
    bare(axes)
    return figure


def draw_sizes(objects: DetectionTable) -> Figure:
    """Histograms: side of the objects, height / width, objects per image."""
    figure = new_figure(12, 3.6)
    left, middle, right = figure.subplots(1, 3)
    x1, y1, x2, y2 = objects.boxes.T
    _histogram(left, np.sqrt(objects.areas), "side of the object, √area in pixels")
    for limit, beyond in ((SMALL, "medium"), (MEDIUM, "large")):
        _line(left, limit**0.5, f"{beyond}, from {limit**0.5:g}²")
    _histogram(middle, (y2 - y1) / (x2 - x1), "height / width")
    _line(middle, 1, "square")
    counts = np.bincount(objects.image_of_box, minlength=len(objects))
    step = 1 + int(counts.max(initial=0)) // 40
    edges = np.arange(0, int(counts.max(initial=0)) + 1 + step, step)
    right.hist(counts, bins=edges - 0.5, color=_COLOUR)
    right.set(xlabel="objects per image", ylabel="images")
    right.xaxis.set_major_locator(whole_numbers())
    left.set_ylabel("objects")
    for axes in (left, middle, right):
        axes.yaxis.set_major_locator(whole_numbers())
        bare(axes)
    return figure


def draw_centres(objects: DetectionTable) -> Figure:
    """A heat map: share of the objects whose centre lies in each part of the image."""
    known = np.asarray((objects.sizes > 0).all(axis=1))[objects.image_of_box]
    sides = np.maximum(objects.sizes[objects.image_of_box], 1)
    middle = ((objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2 / sides)[known]
    # About as many objects as cells: with fewer, a heat map is dots.
    edges = np.linspace(0, 1, int(np.clip(len(middle) ** 0.5, 8, _MOST_CELLS)) + 1)
    counts, _, _ = np.histogram2d(middle[:, 1], middle[:, 0], bins=[edges, edges])
    # The shape of the images, half of which are wider.
    shape = float(np.median(sides[:, 1] / sides[:, 0])) if len(middle) else 0.75
    shape = float(np.clip(shape, 1 / 4, 4))
    figure = new_figure(*((7, 1.4 + 5.2 * shape) if shape < 1 else (1.8 + 4.2 / shape, 4.8)))
    axes = figure.subplots()
    shown = axes.imshow(
        counts, extent=(0, 1, 1, 0), cmap="viridis", interpolation="nearest", aspect=shape
    )
    figure.colorbar(shown, label="objects", ticks=whole_numbers(5), shrink=min(1, 1.2 * shape))
    axes.set(xlabel="x of the centre / width", ylabel="y of the centre / height")
    return figure


def _line(axes: Any, place: float, text: str) -> None:
    """A dotted line at a value, and what stands right of it."""
    axes.axvline(place, color="black", linestyle=":", linewidth=1)
    transform = axes.get_xaxis_transform()
    axes.text(place, 1, f" {text}", transform=transform, fontsize=7, va="bottom", rotation=20)


def _samples(table: DetectionTable) -> Iterator[Image.Image]:
    """The images, as small as they are shown, with their boxes; what cannot be read is left out."""
    regions = table.regions()
    finite = np.asarray(np.isfinite(table.boxes).all(axis=1))
    for image in range(len(table)):
        try:
            picture = Image.fromarray(read_image(table.path(image)))
        except DataError:
            continue
        size = tile_size(picture, _WIDTH)
        scale = np.tile(np.divide(size, picture.size), 2)
        shown = np.array(picture.resize(size, Image.Resampling.LANCZOS))
        rows = np.arange(len(table.boxes))[table.rows(image)]
        rows = rows[finite[rows]]
        objects = rows[~regions[rows]]
        labels = table.labels[objects].astype(np.int64)
        names = [table.classes[label] for label in labels.tolist()]
        ignored = rows[regions[rows]]
        with np.errstate(over="ignore"):  # drawn as far as the edge
            boxes = table.boxes * scale
        yield draw_boxes(shown, boxes[objects], labels, names, boxes[ignored].tolist())


def _histogram(axes: Any, values: NDArray[np.float64], label: str) -> None:
    """Counts of `values` on a logarithmic axis."""
    if len(values):
        low, high = values.min() / 1.05, values.max() * 1.05
        axes.hist(values, bins=np.geomspace(low, high, 41), color=_COLOUR)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(label)
