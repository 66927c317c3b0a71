"""The model of a run folder: one rule for every command that takes weights."""

from __future__ import annotations

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
