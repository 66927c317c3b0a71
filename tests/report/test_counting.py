import io

import pytest
from rich.console import Console

from dhcli.data.io.progress import track, watched_by
from dhcli.report import counting as module
from dhcli.report.counting import LongSteps, counting


def test_piped_progress_is_a_line_every_tenth(capsys) -> None:
    with counting("images") as progress:
        for done in range(1, 101):
            progress(done, 100)

    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("10/100 images, ")
    assert lines[-1].startswith("100/100 images, ")
    assert "\r" not in said.err
    assert "\x1b" not in said.err
    assert not said.out


@pytest.mark.parametrize(("pause", "said"), [(0.0, "files: 33 %\n"), (1000.0, "")])
def test_long_steps_say_how_far_they_are(capsys, monkeypatch, pause: float, said: str) -> None:
    monkeypatch.setattr(module, "_PAUSE", pause)

    with watched_by(LongSteps()):
        items = list(track(range(192), "files"))

    assert items == list(range(192))
    assert capsys.readouterr().err.startswith(f"files: 0 %\n{said}" if said else "")
    assert list(track(["x"], "files")) == ["x"]
    assert not capsys.readouterr().err


def test_on_a_terminal_progress_is_a_bar_that_goes_when_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = {"force_terminal": True, "width": 60, "_environ": {"TERM": "xterm"}}
    console = Console(file=io.StringIO(), color_system=None, **terminal)
    monkeypatch.setattr(module, "err", console)
    monkeypatch.setattr(module, "is_live", lambda: True)

    with counting("images") as progress:
        progress(30, 40)

    said = console.file.getvalue()
    assert "30/40 images" in said
    assert said.endswith("\x1b[1A\x1b[2K")  # one line up, and cleared
