"""What is said of findings."""

from __future__ import annotations

from dhcli.data.tools.findings import CODES, Finding, summary


def test_a_line_tells_how_many_there_are_of_a_code_and_the_first() -> None:
    findings = [
        Finding("image-turned", "a.jpg", "is 40 x 30"),
        Finding("image-unannotated", "b.jpg", "has no XML"),
        *[Finding("image-turned", f"{n}.jpg", "is 3 x 4") for n in range(1233)],
    ]

    turned, unannotated = summary(findings)

    about = CODES["image-turned"]
    done = f"; {about.training}" if about.training else ""
    assert turned == f"image-turned (1,234): {about.meaning}{done}, such as a.jpg: is 40 x 30"
    assert unannotated.startswith("image-unannotated (1): ")


def test_nothing_is_said_of_nothing() -> None:
    assert summary([]) == []


def test_a_finding_knows_how_bad_it_is_and_what_training_does() -> None:
    for code, about in CODES.items():
        finding = Finding(code, "here", "is wrong")
        assert (finding.severity, finding.training) == (about.severity, about.training)
