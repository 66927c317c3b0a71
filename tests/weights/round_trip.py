"""Another program's file read, and written back from the model that it became."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dhcli.weights.exchange import Imported, export_weights, import_weights
from dhcli.weights.layout_names import ExportName
from dhcli.weights.model_file import save_model


class RoundTrip(NamedTuple):
    """What was imported, and the content of the file `back.pth` that was written."""

    found: Imported
    content: Any


def assert_written_back(
    path: Path,
    state: Mapping[str, Tensor],
    layout: ExportName = "mmdet",
    holder: str = "state_dict",
) -> RoundTrip:
    """Names, their order and every byte of `state`, which `path` holds, are those of before.

    `holder` is the entry of the written file that has the tensors; "": the file itself.
    """
    model, back = path.parent / "m.safetensors", path.parent / "back.pth"
    found = import_weights(path)
    save_model(model, found.model)

    differences = export_weights(model, back, layout)

    content = torch.load(back, weights_only=True)
    written = content[holder] if holder else content
    assert list(written) == list(state)
    assert all(torch.equal(written[k], x) and written[k].dtype == x.dtype for k, x in state.items())
    assert differences == []
    return RoundTrip(found, content)
