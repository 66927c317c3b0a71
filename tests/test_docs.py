"""The documentation speaks of things that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    set(re.findall(r"`(dhcli(?:\.\w+)+)`", (ROOT / "docs/architecture.md").read_text("utf-8")))
)


def test_the_symbol_table_was_found() -> None:
    assert len(NAMES) > 10


@pytest.mark.parametrize("name", NAMES)
def test_the_symbol_table_names_what_is_there(name: str) -> None:
    parts = name.split(".")
    split = next(i for i in range(len(parts), 0, -1) if _is_module(".".join(parts[:i])))
    found = importlib.import_module(".".join(parts[:split]))

    for attribute in parts[split:]:
        found = getattr(found, attribute)

    assert found.__doc__


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http|#|mailto)([^)#]+)", page.read_text("utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []
