"""Sheets as a web page of one file: plain tables that a browser, or a screen reader, reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from dhcli.report.sheet import Row, Sheet

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 sans-serif; }
body { margin: 2rem; }
table { border-collapse: collapse; margin: 0 0 2rem; }
caption { font-weight: bold; text-align: left; padding: .5rem 0; }
th, td { padding: .2rem .8rem; text-align: left; font-weight: normal; }
thead th, th[scope=rowgroup] { font-weight: bold; vertical-align: bottom; }
tbody { border-top: 1px solid; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def page_html(title: str, sheets: Sequence[Sheet]) -> str:
    """A whole page of `sheets`; it needs no other file."""
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        *map(table_html, sheets),
        "</html>",
    ]
    return "\n".join([*lines, ""])


def table_html(sheet: Sheet) -> str:
    """A sheet as a `<table>`: its first column names the rows, a section is a `<tbody>`."""
    return "\n".join(_lines(sheet))


def _lines(sheet: Sheet) -> Iterator[str]:
    note = f"<p>{escape(sheet.caption)}</p>" if sheet.caption else ""
    yield f"<table>\n<caption>{escape(sheet.title)}{note}</caption>"
    if not sheet.facts:
        cells = (_cell("th", c.label, c.is_number, "col") for c in sheet.columns)
        yield f"<thead><tr>{''.join(cells)}</tr></thead>"
    for title, rows in sheet.parts():
        yield "<tbody>"
        if title:
            head = f'<th scope="rowgroup" colspan="{len(sheet.columns)}">{escape(title)}</th>'
            yield f"<tr>{head}</tr>"
        yield from (_row(sheet, row) for row in rows)
        yield "</tbody>"
    yield "</table>"


def _row(sheet: Sheet, row: Row) -> str:
    tags = [("th", "row"), *[("td", "")] * (len(row) - 1)]
    cells = (
        _cell(tag, column.text(cell), column.is_number, scope)
        for (tag, scope), column, cell in zip(tags, sheet.columns, row, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _cell(tag: str, text: str, is_number: bool, scope: str) -> str:
    marks = (' class="number"' if is_number else "") + (f' scope="{scope}"' if scope else "")
    return f"<{tag}{marks}>{escape(text)}</{tag}>"
