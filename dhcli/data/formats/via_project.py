"""Projects of VIA 3, told as VIA 2 tells them, for `via.py` to read.

A project has files, views of them, attributes with options, and metadata: a view, the coordinates
`[shape, …]` and the values of attributes, which are numbers of options where these are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dhcli.data.formats.boxes import hull_of_row
from dhcli.data.io.json_text import ODD, JsonText, begins_as, oddity
from dhcli.errors import DataError

_IMAGE = 2
_BY_ADDRESS = (2, 3)
"""The kinds of place, of a file, whose `src` tells it: the web and the disk."""
_SHAPES = {
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
}
_OF_POINTS = {1: "point", 5: "polyline", 6: "polyline", 7: "polygon", 9: "circle of three points"}
_EXTREMES = 8


def is_project(path: Path) -> bool:
    """Whether a JSON file is a project of VIA 3."""
    return begins_as(path, "{", "project", "attribute", "file", "fname")


class Project:
    """A project's files, views and attributes. Raises DataError where they cannot be read.

    The error of a region that cannot be read goes to `refuse`.

    images      the image in each view that is of one image
    attributes  as VIA 2 lists them: name → options
    """

    def __init__(self, path: Path, refuse: Callable[[DataError], None]) -> None:
        self._path, self._refuse = path, refuse
        self._regions: list[tuple[int, Mapping[str, Any]]] = []
        document = JsonText(path)
        keep = document.taking("a region", lambda row, n: self._regions.append((n, row)), refuse)
        parts = document.read_object({"metadata": keep})
        try:
            self.images = dict(_images(parts["file"], parts["view"]))
            self._named = {key: str(row["aname"]) for key, row in parts["attribute"].items()}
            self._options = {
                key: {str(value): name for value, name in (row.get("options") or {}).items()}
                for key, row in parts["attribute"].items()
            }
        except ODD as error:
            raise DataError(f"a project of VIA 3 that {oddity(error)}", where=path) from None
        listed = ((name, self._options[key]) for key, name in self._named.items())
        self.attributes = {name: {"options": list(one.values())} for name, one in listed}

    def regions(self) -> Iterator[tuple[int, str | None, dict[str, Any]]]:
        """The line of each region, the image it is in, None of a video, and itself as in VIA 2."""
        for line, row in self._regions:
            try:
                if not row["xy"]:  # of the file as a whole, or a time
                    continue
                region = {
                    "shape_attributes": _shape(row["xy"]),
                    "region_attributes": dict(self._attributes(row.get("av") or {})),
                }
                image = self.images.get(str(row["vid"]))
            except ODD as error:
                what = f"a region {oddity(error)}"
                self._refuse(DataError(what, where=f"{self._path}:{line}"))
                continue
            yield line, image, region

    def _attributes(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            first = str(value).partition(",")[0]  # of boxes that are ticked
            yield self._named.get(key, key), self._options.get(key, {}).get(first, value)


def _images(
    files: Mapping[str, Mapping[str, Any]], views: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """View and image of the views of one image."""
    for view, row in views.items():
        shown = [files[str(file)] for file in row["fid_list"]]
        if len(shown) == 1 and shown[0].get("type", _IMAGE) == _IMAGE:
            named = shown[0].get("loc") in _BY_ADDRESS and shown[0].get("src")
            name = named or shown[0]["fname"]
            if not isinstance(name, str):
                raise TypeError("a file whose name is not text")
            yield view, name


def _shape(xy: list[Any]) -> dict[str, Any]:
    """A shape as in VIA 2. Raises one of ODD."""
    kind, *numbers = xy
    if kind == _EXTREMES:
        x1, y1, x2, y2 = hull_of_row(numbers)
        kind, numbers = 2, [x1, y1, x2 - x1, y2 - y1]
    if kind in _SHAPES:
        name, sides = _SHAPES[kind]
        return {"name": name, **dict(zip(sides, numbers, strict=True))}
    name = _OF_POINTS.get(kind, str(kind))
    return {"name": name, "all_points_x": numbers[::2], "all_points_y": numbers[1::2]}
