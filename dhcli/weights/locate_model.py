"""The model of a run folder: one rule for every command that takes weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dhcli.errors import ModelError

BEST, LAST = "best.safetensors", "last.safetensors"
"""What a run calls the model of its best validation, and that of its last checkpoint."""


def locate_model(folder: Path) -> tuple[Path, str]:
    """The model of the run in `folder`, and one line that says which it is.

    The best, or the last where nothing was validated. Raises ModelError where there is neither.
    """
    for name, which in ((BEST, "its best model"), (LAST, "no best model yet, so its last")):
        if (folder / name).is_file():
            return folder / name, f"{folder}: {which}, {folder / name}"
    what = f"is a folder without {BEST} or {LAST}, so it is not a run with a model"
    models = sorted(folder.glob("*.safetensors"))
    runs = sorted({path.parent for name in (BEST, LAST) for path in folder.glob(f"*/{name}")})
    inside = [*models, *runs]
    hint = f"did you mean {inside[0]}?" if inside else "name a run folder or a model file"
    raise ModelError(what, where=folder, hint=hint)


def name_models(weights: Sequence[Path]) -> list[str]:
    """A short name for each file, no two alike: that of the run, or of the file."""
    short = [p.absolute().parent.name if p.name in (BEST, LAST) else p.stem for p in weights]
    seen: Counter[str] = Counter()
    names = []
    for name in short:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names
