"""The documentation speaks of things that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from dhcli.config.load import load_config
from dhcli.config.presets import preset_names

ROOT = Path(__file__).parents[1]
PAPER = (ROOT / "docs/paper.md").read_text("utf-8")
SYMBOLS = re.compile(r"`(dhcli(?:\.\w+)+)`")
NAMES = sorted(
    {*SYMBOLS.findall(PAPER), *SYMBOLS.findall((ROOT / "docs/architecture.md").read_text("utf-8"))}
)


def test_the_symbols_were_found() -> None:
    assert len(NAMES) > 15


def test_the_page_on_the_paper_names_every_preset_of_it_with_its_ap() -> None:
    configs = {name: load_config(name).config for name in preset_names()}
    ours = {name for name, config in configs.items() if config.paper_tables}
    cells = re.findall(r"`((?:coco|voc07)-r\d+[\w-]*)`(?: (\d\d\.\d))?", PAPER)
    stated = {name: float(ap) for name, ap in cells if ap}

    assert {name for name, _ in cells} == ours
    assert all(configs[name].paper["AP"] == ap for name, ap in stated.items())
    assert len(stated) > 15


@pytest.mark.parametrize("name", NAMES)
def test_a_symbol_names_what_is_there(name: str) -> None:
    parts = name.split(".")
    split = next(i for i in range(len(parts), 0, -1) if _is_module(".".join(parts[:i])))
    found = importlib.import_module(".".join(parts[:split]))

    for attribute in parts[split:]:
        found = getattr(found, attribute)

    assert found.__doc__


def test_the_table_of_findings_is_that_of_the_code() -> None:
    from dhcli.data.tools.findings import CODES

    page = (ROOT / "docs/your-data.md").read_text("utf-8")

    rows = [f"| `{code}` | {' | '.join(about)} |" for code, about in CODES.items()]
    assert re.findall(r"^\| `[a-z]+-[-a-z]+` \|.*", page, re.MULTILINE) == rows


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http|#|mailto)([^)#]+)", page.read_text("utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []
