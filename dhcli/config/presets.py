"""Where presets live and how one is named: by its name, or by the path of a YAML file."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from dhcli.errors import ConfigError

DEFAULT_PRESET = "custom"
"""What a command starts from when neither a preset nor a file is given."""
FINETUNE_PRESET = "finetune"
"""What a fine-tuning starts from then."""
CPU_PRESET = "light"
"""What a training starts from then where there is no GPU."""
CPU_FINETUNE_PRESET = "finetune-light"
"""What a fine-tuning starts from there."""
LIGHT = (
    CPU_PRESET,
    CPU_FINETUNE_PRESET,
    "light-cascade",
    "light-atss",
    "kitti-tiny-light",
    "small",
    "demo",
)
"""Presets that are made for a CPU."""


def presets_folder() -> Path:
    """The folder of the shipped presets: inside the wheel, or at the top of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "presets"
    return installed if installed.is_dir() else package.parent / "presets"


def preset_names() -> list[str]:
    """Names of the shipped presets, in alphabetical order."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def find_preset(preset: str, beside: Path | None = None) -> Path:
    """The file of `preset`, a shipped name or a path (relative paths: to the folder `beside`).

    Raises ConfigError, with the nearest names, where there is none.
    """
    if is_path(preset):
        return (beside or Path()) / Path(preset).expanduser()
    path = presets_folder() / f"{preset}.yaml"
    if preset in preset_names():
        return path
    near = get_close_matches(preset, preset_names(), n=2)
    hint = f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else None
    raise ConfigError(
        f"no preset is named `{preset}`",
        hint=hint or "`dh presets` lists them; give a file by its path, ending in .yaml",
    )


def is_path(preset: str) -> bool:
    """Whether `preset` is written as a path rather than as the name of a shipped preset."""
    return "/" in preset or preset.endswith((".yaml", ".yml"))
