"""Findings about a dataset as people read them: by code, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.text import Text

from dhcli.data.tools.findings import CODES, Finding
from dhcli.words import counted

SHOWN = 5
"""Findings of a code that are named; the others are counted."""


def findings_text(findings: Sequence[Finding], most: int | None = SHOWN) -> Group:
    """Every code with its findings, `most` of them (None: all), and what becomes of them."""
    return Group(*_lines(findings, most))


def _lines(findings: Sequence[Finding], most: int | None) -> Iterator[Text]:
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    for code in sorted(by_code, key=lambda code: (CODES[code].severity, list(CODES).index(code))):
        about, found = CODES[code], by_code[code]
        colour = "bold red" if about.severity == "error" else "yellow"
        mends = (("in training", about.training), ("--fix", about.fix))
        becomes = (f"; {what}: {mend}" for what, mend in mends if mend)
        said = f" ({len(found)}): {about.meaning}{''.join(becomes)}"
        yield Text.assemble((f"{about.severity} {code}", colour), said)
        for finding in found[:most]:
            yield Text(f"  {finding.where}: {finding.what}")
        if most is not None and len(found) > most:
            yield Text(f"  … and {len(found) - most} more (--all)")


def count_line(findings: Sequence[Finding]) -> str:
    """How many errors and warnings there are, in words."""
    errors = sum(finding.severity == "error" for finding in findings)
    counts = ((errors, "error"), (len(findings) - errors, "warning"))
    return ", ".join(counted(count, what) if count else f"no {what}s" for count, what in counts)
