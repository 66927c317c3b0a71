from __future__ import annotations

from pathlib import Path

from dhcli.config.keys import known_keys
from dhcli.config.reference import json_schema, reference_page
from dhcli.config.schema import Config
from dhcli.config.tree import as_tree

PAGE = Path(__file__).parents[2] / "docs/configuration.md"


def test_the_committed_page_is_current() -> None:
    committed = PAGE.read_text(encoding="utf-8")

    assert committed == reference_page(), "python -m dhcli.config.reference > docs/configuration.md"


def test_every_setting_stands_on_the_page_with_its_meaning() -> None:
    rows = {line.split("`")[1]: line for line in reference_page().splitlines() if line[:3] == "| `"}
    tree = as_tree(Config().model_dump(by_alias=True), "default")
    assert isinstance(tree, dict)
    known = dict(known_keys(tree, Config))

    assert set(known) <= set(rows)
    assert [key for key, field in known.items() if not field.description] == []
    assert rows["model.head.branches.fc.lambda"].startswith(
        "| `model.head.branches.fc.lambda` | number, in [0, 1] | `1.0` | λ, weight of"
    )


def test_the_json_schema_knows_what_a_preset_may_hold() -> None:
    schema = json_schema()

    assert schema["properties"]["extends"]["type"] == "string"
    assert schema["additionalProperties"] is False
    assert "lambda" in schema["$defs"]["FcBranch"]["properties"]
    branches = schema["$defs"]["Head"]["properties"]["branches"]["anyOf"]
    assert [one["type"] for one in branches] == ["array", "object"]
    assert schema["$defs"]["Train"]["properties"]["lr"]["exclusiveMinimum"] == 0
