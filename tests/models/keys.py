"""Names and shapes in other programs' files, as the lists of the weights' tests have them."""

from __future__ import annotations

from pathlib import Path

KEYS = Path(__file__).parents[1] / "weights/keys"


def names_and_shapes(listed: str, prefix: str = "") -> list[tuple[str, tuple[int, ...]]]:
    """In the order of the file, those that begin with `prefix`."""
    pairs = (line.split() for line in (KEYS / f"{listed}.txt").read_text().splitlines())
    return [
        (name, () if shape == "-" else tuple(map(int, shape.split("x"))))
        for name, shape in pairs
        if name.startswith(prefix)
    ]
