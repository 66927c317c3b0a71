"""The model file: weights and everything needed to use them, in one safetensors file.

The header's `__metadata__` holds two strings: `format` ("pt", what other programs look for) and
`dh`, a JSON object with `layout`, `config`, `classes`, `category_ids` and `metadata` (provenance).
Pre-processing is `config.input`. Nothing in the file can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from dhcli import __version__
from dhcli.atomic import atomic_write
from dhcli.config.load import config_from_dict, config_to_dict
from dhcli.config.schema import Config
from dhcli.errors import DhError, ModelError
from dhcli.weights.recognise import look_at, read_head

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = 1
"""Version of the JSON object; a file of a higher one needs a newer dh."""

WAY_OUT = "give a model.safetensors that `dh train` or `dh finetune` wrote"


class Description(NamedTuple):
    """What travels with the weights of a model, see ModelHeader."""

    config: Config
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class ModelHeader:
    """What a model file says about itself.

    config        the resolved configuration it was trained with, pre-processing included
    classes       K class names; label k is classes[k]
    category_ids  K ids of the dataset it learned from, for results files
    metadata      provenance: dh, torch, date, and what training adds (data, epoch, metrics)
    shapes        name → shape of every tensor
    """

    config: Config
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    metadata: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelFile:
    """A detector at rest: see ModelHeader; `state` is the detector's state dict, on the CPU."""

    config: Config
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    state: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)

    def header(self) -> ModelHeader:
        """What it says about itself."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        return ModelHeader(self.config, self.classes, self.category_ids, self.metadata, shapes)


def save_model(path: Path, model: ModelFile) -> None:
    """Write `model`, whole or not at all; versions and the date are added to its metadata.

    Raises DhError where the file cannot be written, ModelError where it could not be read again.
    """
    from safetensors.torch import save

    try:
        _checked_classes(list(model.classes))
    except (ValueError, TypeError) as error:
        hint = "give each class a name of its own"
        raise ModelError(f"cannot be written: {error}", where=path, hint=hint) from error
    about = description(model.config, model.classes, model.category_ids, _stamp() | model.metadata)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state.items()}
    with atomic_write(path) as file:
        file.write(save(state, metadata={"format": "pt", "dh": about}))


def description(
    config: Config,
    classes: Sequence[str],
    category_ids: Sequence[int],
    metadata: Mapping[str, Any],
) -> str:
    """The JSON object that travels with the weights; see the module's docstring."""
    about = {
        "layout": LAYOUT,
        "config": config_to_dict(config),
        "classes": list(classes),
        "category_ids": list(category_ids),
        "metadata": dict(metadata),
    }
    return json.dumps(about, ensure_ascii=False)


def _stamp() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"dh": __version__, "torch": version("torch"), "date": now}


def read_model(path: Path) -> ModelFile:
    """Read a model file whole, tensors on the CPU.

    Raises ModelError that says what the file looks like where it is not a model file.
    """
    from safetensors.torch import load_file

    header = read_metadata(path)
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _foreign(path) from error
    return ModelFile(header.config, header.classes, header.category_ids, state, header.metadata)


def read_metadata(path: Path) -> ModelHeader:
    """Read what a model file says about itself, without its tensors and without torch.

    Raises ModelError as `read_model` does.
    """
    read_head(path)
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("dh")
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise _foreign(path) from error
    if text is None:
        what = "holds weights only, without the description that dh adds"
        raise ModelError(what, where=path, hint=WAY_OUT)
    return ModelHeader(*parse_description(text, path), shapes)


def parse_description(text: str, path: Path) -> Description:
    """What `description` made of a model. Raises ModelError where it is damaged, or of another dh.

    `path` is the file that holds it, for the messages.
    """
    try:
        about = json.loads(text)
        _check_layout(about["layout"], path)
        classes = _checked_classes(about["classes"])
        category_ids = tuple(int(number) for number in about["category_ids"])
        if any(abs(number) >= 2**63 for number in category_ids):
            raise ValueError("ids that no file of results can hold")  # noqa: TRY301 - as below
        metadata = dict(about["metadata"])
        settings = about["config"]
        if len(category_ids) != len(classes) or not isinstance(settings, Mapping):
            raise ValueError("parts that do not agree")  # noqa: TRY301 - one place turns it into words
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError("its description is damaged", where=path, hint=WAY_OUT) from error
    config = _checked_config(settings, path, metadata)
    return Description(config, classes, category_ids, metadata)


def _check_layout(layout: object, path: Path) -> None:
    if not isinstance(layout, int) or layout > LAYOUT:
        what = f"was written by a newer dh (layout {layout}; this dh {__version__} reads {LAYOUT})"
        raise ModelError(what, where=path, hint="update dh")


def _checked_classes(names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or len(set(names)) != len(names):
        raise ValueError("classes must be a list of different names")
    if not all(isinstance(name, str) for name in names):
        raise TypeError("class names must be text")
    return tuple(names)


def _checked_config(settings: Mapping[str, Any], path: Path, metadata: Mapping[str, Any]) -> Config:
    try:
        return config_from_dict(dict(settings))
    except DhError as error:
        what = f"its configuration does not fit this dh {__version__}: {error.what}"
        hint = f"it was written by dh {metadata.get('dh', 'of unknown version')}"
        raise ModelError(what, where=path, hint=hint) from error


def _foreign(path: Path) -> ModelError:
    return ModelError(f"is not a model file of dh: it is {look_at(path)}", where=path, hint=WAY_OUT)
