"""Other programs' files of weights: tensors by name, read without running any code in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from dhcli.errors import ModelError
from dhcli.weights.recognise import ULTRALYTICS, load_plain, look_at, read_head

HOLDERS = ("state_dict", "model", "model_state_dict", "model_state", "net", "weights")
"""Keys that a checkpoint holds its tensors under; without one, it is the state dict itself."""

STRIP = (
    "if you trust it, make a plain file of it in the environment that wrote it: "
    "python -c \"import torch; c = torch.load('{name}', weights_only=False); "
    "c = {{k: getattr(c[k], 'state_dict', lambda k=k: c[k])() for k in {kept} if k in c}} "
    "if isinstance(c, dict) else c.state_dict(); torch.save(c, 'plain.pth')\""
)
UNPICKLE = (
    'if you trust it, rewrite it: python -c "import pickle, torch; '
    "m = pickle.load(open('{name}', 'rb'), encoding='latin1')['model']; "
    "torch.save({{'model': {{k: torch.as_tensor(v) for k, v in m.items()}}}}, 'plain.pth')\""
)


OTHER_NETWORK = (
    "`dh weights import --help` names the detectors that can be taken; `dh train` makes one from "
    "the images it was trained on"
)


@dataclass(frozen=True)
class PlainFile:
    """`state` is tensors by name, `about` what stood beside them (`meta`, `epoch` …)."""

    state: dict[str, Tensor]
    about: dict[str, Any]


def read_plain(path: Path) -> PlainFile:
    """The tensors of a .safetensors or .pth file, on the CPU.

    Raises ModelError that says what the file looks like where it holds no tensors, and what to do
    where it holds objects that only code could make.
    """
    from safetensors.torch import load_file

    read_head(path, absent=None)
    if path.suffix == ".safetensors":
        try:
            return PlainFile(load_file(path), {})
        except (SafetensorError, OSError, ValueError) as error:
            raise _unreadable(path, "") from error
    try:
        loaded = load_plain(path)
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(loaded, Mapping):
        raise ModelError(f"holds a {type(loaded).__name__}, not weights by name", where=path)
    for key in HOLDERS:
        if isinstance(loaded.get(key), Mapping):
            about = {str(name): value for name, value in loaded.items() if name != key}
            return PlainFile(_tensors_of(loaded[key], path), about)
    return PlainFile(_tensors_of(loaded, path), {})


def _tensors_of(loaded: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    tensors = {str(name): x for name, x in loaded.items() if isinstance(x, Tensor)}
    if not tensors:
        raise ModelError("holds no tensors by name", where=path)
    return tensors


def _unreadable(path: Path, reason: str) -> ModelError:
    foreign = re.search(r"GLOBAL ([\w.]+)", reason)
    if foreign is not None and not foreign[1].startswith("numpy"):
        if foreign[1].startswith(ULTRALYTICS):
            what = "is a YOLO model of Ultralytics, a network that dh does not have"
            return ModelError(what, where=path, hint=OTHER_NETWORK)
        what = f"holds a {foreign[1]} and not only tensors; loading it could run code"
        hint = STRIP.format(name=path, kept=("meta", *HOLDERS))
        return ModelError(what, where=path, hint=hint)
    if path.suffix == ".pkl" or foreign is not None:
        what = f"is not opened: it is {look_at(path)}"
        return ModelError(what, where=path, hint=UNPICKLE.format(name=path))
    return ModelError(
        f"is not a file of weights that can be read safely: it is {look_at(path)}",
        where=path,
        hint="give a state dict saved by torch.save, or a .safetensors file",
    )
