"""docs/formats.md says what the formats say of themselves."""

from pathlib import Path

from dhcli.data.formats import FORMATS
from dhcli.data.formats.reference import formats_page

PAGE = Path(__file__).parents[3] / "docs/formats.md"


def test_the_committed_page_is_current():
    committed = PAGE.read_text("utf-8")

    assert committed == formats_page(), "python -m dhcli.data.formats.reference > docs/formats.md"


def test_every_format_has_its_rows_and_its_words():
    lines = formats_page().splitlines()

    for name, each in FORMATS.items():
        assert sum(line.startswith((f"| `{name}` |", f"| {each.title} |")) for line in lines) == 2
        assert lines[lines.index(f"## {each.title} (`{name}`)") + 2]
