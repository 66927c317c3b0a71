"""The documentation speaks of things that exist."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dhcli.config.load import load_config
from dhcli.config.presets import preset_names
from dhcli.data.shapes import CLASSES, draw_shapes
from dhcli.weights.model_file import ModelFile, save_model

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


BLOCKS = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def test_the_page_on_python_runs_and_prints_what_it_shows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small_model: Callable[..., ModelFile],
) -> None:
    """In order and in one namespace, beside ten drawn photos and an untrained model."""
    monkeypatch.chdir(tmp_path)
    draw_shapes(Path("photos"), images=10, seed=0)
    shutil.copy("photos/JPEGImages/000001.jpg", "photo.jpg")
    save_model(Path("best.safetensors"), small_model(*CLASSES))
    space: dict[str, object] = {}
    page = (ROOT / "docs/python.md").read_text("utf-8")

    blocks = BLOCKS.findall(page)

    assert len(blocks) == page.count("```python")
    for code, shown in blocks:
        exec(compile(code, "docs/python.md", "exec"), space)
        assert (code, capsys.readouterr().out) == (code, shown)
