"""Sheets as a web page, read back by a parser."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from dhcli.report.html import page_html, table_html
from dhcli.report.sheet import Column, Sheet, list_facts

HOSTILE = '<script>alert("1")</script> & co'
SHEET = Sheet(
    HOSTILE,
    (Column(HOSTILE), Column("AP", "percent", heading="short"), Column("n", "count")),
    ((HOSTILE, 0.4194, 1234), ("b", float("nan"), None), ("c", 0.5, 1)),
    sections={2: HOSTILE},
    caption=HOSTILE,
)
VOID = {"meta"}


class Page(HTMLParser):
    """Elements as (tag, attributes, text); checks that every one is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[int] = []
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(len(self.elements))
        self.elements.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            tag, attrs, text = self.elements[self.open[-1]]
            self.elements[self.open[-1]] = (tag, attrs, text + data)

    def texts(self, tag: str, **attrs: str) -> list[str]:
        return [
            text.strip()
            for name, found, text in self.elements
            if name == tag and attrs.items() <= found.items()
        ]


@pytest.fixture
def page() -> Page:
    return Page(page_html(HOSTILE, [SHEET, list_facts("Facts", [("file", "a<b"), ("n", 1024)])]))


def test_headings_have_their_unit_and_their_scope(page: Page) -> None:
    assert page.texts("th", scope="col") == [HOSTILE, "AP (%)", "n"]


def test_the_first_cell_of_a_row_names_it_and_numbers_stand_on_the_right(page: Page) -> None:
    assert page.texts("th", scope="row") == [HOSTILE, "b", "c", "file", "n"]
    numbers = [("41.9", "1,234"), ("n/a", "–"), ("50.0", "1")]
    assert page.texts("td", **{"class": "number"}) == [text for row in numbers for text in row]


def test_sections_are_bodies_with_their_title(page: Page) -> None:
    assert len(page.texts("tbody")) == 3  # two sections, and the facts
    assert page.texts("th", scope="rowgroup", colspan="3") == [HOSTILE]


def test_facts_have_no_headings(page: Page) -> None:
    assert len(page.texts("thead")) == 1
    assert page.texts("td")[-2:] == ["a<b", "1,024"]


def test_whatever_is_in_a_name_is_text(page: Page) -> None:
    assert not page.texts("script")
    assert page.texts("title") == page.texts("h1") == page.texts("p") == [HOSTILE]
    assert page.texts("caption") == [HOSTILE, "Facts"]


def test_the_page_needs_no_other_file(page: Page) -> None:
    assert not {"src", "href"} & {name for _, attrs, _ in page.elements for name in attrs}
    assert ("html", {"lang": "en"}) in [(tag, attrs) for tag, attrs, _ in page.elements]
    assert ("meta", {"charset": "utf-8"}) in [(tag, attrs) for tag, attrs, _ in page.elements]


def test_a_sheet_without_rows_is_a_table_all_the_same() -> None:
    empty = Page(table_html(Sheet("none", (Column("class"),), ())))

    assert empty.texts("caption") == ["none"]
    assert not empty.texts("td")
