"""Keys that older files hold and the tree no longer has: the one place where they are dropped."""

from __future__ import annotations

from dhcli.config.keys import stated_kind
from dhcli.config.tree import Node


def without_retired(tree: dict[str, Node]) -> dict[str, Node]:
    """What a file or a model file holds, without retired keys. `--set` does not come here.

    Until 0.1 `model.neck` was one section, so that every dump of `kind: none` has the `channels`
    of the pyramid too, which meant nothing.
    """
    model = tree.get("model")
    neck = model.get("neck") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(neck, dict) or stated_kind(neck) != "none":
        return tree
    kept = {key: node for key, node in neck.items() if key != "channels"}
    return {**tree, "model": {**model, "neck": kept}}
