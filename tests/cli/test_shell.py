from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dhcli import __version__
from dhcli.cli import app
from dhcli.cli.commands import COMMANDS, Command
from dhcli.cli.shell import load_command
from dhcli.errors import ConfigError, DataError, DhError, ModelError
from dhcli.runtime.launch import HANGUP

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "albumentations", "matplotlib", "numpy", "pydantic", "yaml"}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # a fresh interpreter: this one has imported everything
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


LATE = """
import sys
from dhcli.cli import app
try:
    app({arguments!r}, prog_name="dh")
finally:
    ours = [name for name in sys.modules if name.startswith("dhcli.cli.")]
    print("LOADED", *ours, *({heavy!r} & set(sys.modules)), file=sys.stderr)
"""


def modules_of(arguments: list[str], **environment: str) -> tuple[str, set[str]]:
    result = run_python(LATE.format(arguments=arguments, heavy=HEAVY), **environment)
    *_, last = result.stderr.splitlines()
    assert last.startswith("LOADED")
    return result.stdout, set(last.split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["-h"]])
def test_the_overview_imports_no_command_and_nothing_heavy(arguments: list[str]) -> None:
    printed, loaded = modules_of(arguments)

    assert printed
    assert loaded == {"dhcli.cli.commands", "dhcli.cli.shell"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("dh e", {"eval", "export", "env"}),
        ("dh presets s", {"show", "schema"}),
        ("dh presets show kitti", {"kitti-tiny", "kitti-tiny-light"}),
        ("dh presets show coco-r101", {f"coco-r101{kind}" for kind in ("", "-ext", "-fc", "-c4")}),
    ],
)
def test_completion_is_right_and_imports_nothing_heavy(words: str, found: set[str]) -> None:
    count = len(words.split()) - 1

    printed, loaded = modules_of(
        [], _DH_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(count)
    )

    assert set(printed.split()) == found
    assert not loaded & (HEAVY - {"pydantic"})  # Typer imports it to read a command line


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_no_torch(name: str) -> None:
    _, loaded = modules_of([name, "--help"])

    assert not loaded & {"torch", "torchvision", "albumentations", "matplotlib"}


def test_the_overview_names_every_command() -> None:
    result = CliRunner().invoke(app, ["--help"])

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for name, command in COMMANDS.items():
        assert any(name in line and command.line in line for line in lines), name


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"dh {__version__}\n"


def pages() -> list[list[str]]:
    return [[name] for name in COMMANDS] + [["presets", "show"], ["presets", "schema"]]


@pytest.mark.parametrize("command", pages(), ids=" ".join)
def test_every_help_has_an_example_on_a_line_of_its_own(command: list[str]) -> None:
    page = CliRunner().invoke(app, [*command, "--help"]).stdout

    example = " ".join(["dh", *command])
    assert re.search(rf"^\s*(\$ )?{example}\b", page, re.MULTILINE)


@pytest.mark.parametrize("command", pages(), ids=" ".join)
def test_help_shows_no_type_behind_switches_and_arguments(command: list[str]) -> None:
    page = CliRunner().invoke(app, [*command, "-h"]).stdout

    assert "--help" in page
    assert not re.search(r"<(bool|path|str|list\[\w+\])>", page)


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `dh env` raise the given exception."""

    def use(error: BaseException) -> None:
        def broken() -> None:
            """For example:
            dh env
            """
            raise error

        module = type(sys)("dhcli.cli.broken")
        module.broken = broken  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "dhcli.cli.broken", module)
        command = Command("dhcli.cli.broken", "broken", "", "")
        monkeypatch.setitem(COMMANDS, "env", command)

    return use


@pytest.mark.parametrize(
    ("error", "code"),
    [(DhError, 1), (ConfigError, 2), (DataError, 3), (ModelError, 4)],
)
def test_what_the_user_can_mend_is_said_without_a_traceback(
    raising: Callable[[BaseException], None], error: type[DhError], code: int
) -> None:
    raising(error("is broken", where="photos[1]/a.jpg", hint="mend it"))

    result = CliRunner().invoke(app, ["env"])

    assert result.exit_code == code
    assert result.stderr == "error: photos[1]/a.jpg: is broken\n\nhint: mend it\n"
    assert not result.stdout


def test_an_error_without_a_hint_is_one_line(raising: Callable[[BaseException], None]) -> None:
    raising(DhError("is broken"))

    assert CliRunner().invoke(app, ["env"]).stderr == "error: is broken\n"


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (typer.Exit(7), 7), (typer.Abort(), 130)]
)
def test_other_ends(
    raising: Callable[[BaseException], None], error: BaseException, code: int
) -> None:
    raising(error)

    result = CliRunner().invoke(app, ["env"])

    assert result.exit_code == code
    assert not result.stderr


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError(), ""),
        (
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 8000000000 bytes. Error code 12"),
            " (8.0 GB more were needed)",
        ),
        (RuntimeError("Storage size calculation overflowed with sizes=[1, 2]"), ""),
        (OSError(12, "Cannot allocate memory"), ""),
    ],
)  # fmt: skip
def test_lack_of_memory_is_one_line(
    raising: Callable[[BaseException], None], error: BaseException, asked: str
) -> None:
    raising(error)

    result = CliRunner().invoke(app, ["env"])

    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: there is too little memory{asked}\n\nhint: fewer")


def test_other_runtime_errors_are_bugs(raising: Callable[[BaseException], None]) -> None:
    raising(RuntimeError("a bug"))

    with pytest.raises(RuntimeError):
        CliRunner().invoke(app, ["env"], catch_exceptions=False)


def test_what_the_system_refuses_is_one_line(raising: Callable[[BaseException], None]) -> None:
    raising(OSError(5, "Input/output error", "a/b"))

    result = CliRunner().invoke(app, ["env"])

    assert (result.exit_code, result.stderr) == (1, "error: a/b: Input/output error\n")


def test_a_bug_keeps_its_traceback(raising: Callable[[BaseException], None]) -> None:
    raising(ZeroDivisionError("a bug"))

    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(app, ["env"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["tarin"], "error: no such command 'tarin'. Did you mean 'train'?", "dh --help"),
        (["--bogus"], "error: no such option: --bogus", "dh --help"),
        (["presets", "show", "--jsno"], "error: no such option: --jsno", "dh presets show --help"),
        (["presets", "list"], "error: no such command 'list'", "dh presets --help"),
    ],
)
def test_a_command_line_that_cannot_be_read(arguments: list[str], said: str, hint: str) -> None:
    result = CliRunner().invoke(app, arguments, prog_name="dh")

    assert result.exit_code == 2
    assert result.stderr.startswith(said)
    assert result.stderr.endswith(f"\n\nhint: `{hint}` shows what there is\n")
    assert not result.stdout


def test_a_group_alone_shows_its_help_and_no_empty_error() -> None:
    result = CliRunner().invoke(app, ["weights"])

    assert result.exit_code == 2
    assert "import" in result.stdout
    assert "error:" not in result.stderr


def test_brackets_in_a_help_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        """Do it.

        For example:
          dh broken --set data.classes=[cat, dog]
        """

    module = type(sys)("dhcli.cli.broken")
    module.broken = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dhcli.cli.broken", module)
    monkeypatch.setitem(COMMANDS, "env", Command("dhcli.cli.broken", "broken", "", ""))

    page = CliRunner().invoke(app, ["env", "--help"]).stdout

    assert any(
        line.startswith("   dh broken --set data.classes=[cat, dog]") for line in page.splitlines()
    )


def test_paragraphs_of_a_help_are_wrapped_by_the_terminal_alone() -> None:
    page = CliRunner().invoke(app, ["check", "--help"], env={"COLUMNS": "80"}).stdout
    lines = [line.strip() for line in page.splitlines()]

    first = lines.index("For example:")
    assert lines[first - 2].endswith("this comparison.")  # no line of a few words before it
    assert len(lines[first - 2]) > 40
    assert lines[first + 1 : first + 3] == [
        "dh check photos/",
        "dh check photos/ --decode --fix photos-mended/",
    ]


def test_a_closed_pipe_is_no_error() -> None:
    code = "import sys; from dhcli.cli import app; app(['presets', 'show', 'custom'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()

    said = process.stderr.read()

    process.wait()
    process.stderr.close()
    assert said == b""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_there(name: str) -> None:
    assert load_command(name).help


def dh_process(*words: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "dhcli", *words], check=False, **settings)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [("presets", "--json"), ("--help",), ("presets", "show", "demo")])
def test_output_that_cannot_be_written_is_an_error(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        result = dh_process(*words, stdout=full, stderr=subprocess.PIPE)

    assert result.returncode == 1
    assert result.stderr == b"error: the output: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_encoding_of_the_terminal_will_do(encoding: str) -> None:
    settings = {"env": os.environ | {"PYTHONIOENCODING": encoding}, "capture_output": True}
    for words in (("--help",), ("train", "--help"), ("presets", "show", "demo", "--json")):
        result = dh_process(*words, **settings)

        assert result.returncode == 0, result.stderr
        result.stdout.decode(encoding)
    json.loads(result.stdout)


def test_names_do_not_steer_the_terminal() -> None:
    result = CliRunner().invoke(app, ["check", "/nowhere/\x1b]0;PWN\x07\x9b31m"])

    assert "\\x1b]0;PWN\\x9b31m" in result.stderr  # rich has taken the bell away
    assert not {"\x1b", "\x07", "\x9b"} & set(result.stderr)


SLOW_WRITE = """
import sys, time
from pathlib import Path
from dhcli.atomic import atomic_folder
from dhcli.cli import commands, main
place = Path(sys.argv[1])
def demo() -> None:
    with atomic_folder(place / "out") as folder:
        (folder / "half").touch()
        print(flush=True)
        time.sleep(60)
commands.COMMANDS["demo"] = commands.Command("__main__", "demo", "", "")
sys.argv = ["dh", "demo"]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, HANGUP])
def test_a_signal_leaves_nothing_half_written(
    number: signal.Signals | None, tmp_path: Path
) -> None:
    if number is None:
        pytest.skip("this system has no SIGHUP")
    words = [sys.executable, "-c", SLOW_WRITE, str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()

    process.send_signal(number)

    assert process.wait(30) == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="by a POSIX shell")
@pytest.mark.parametrize(
    ("closed", "words", "code"),
    [
        (">&-", "presets", 0),
        ("2>&-", "check /nowhere", 3),
        ("<&- >&- 2>&-", "presets show demo", 0),
    ],
)
def test_streams_may_be_closed(closed: str, words: str, code: int) -> None:
    command = f"{sys.executable} -m dhcli {words} {closed}"

    result = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)

    assert result.returncode == code
    assert result.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="others keep the folder that a program runs in")
def test_a_folder_that_was_removed_is_said(tmp_path: Path) -> None:
    command = f"mkdir x && cd x && rmdir ../x && {sys.executable} -m dhcli presets"

    result = subprocess.run(
        ["sh", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert result.returncode == 1
    assert result.stderr.startswith("error: the folder that this runs in is no longer there\n")


def test_words_that_nobody_reads_end_no_work() -> None:
    code = (
        "from dhcli.report.console import err, out\n"
        "for _ in range(9): err.print('word ' * 9000)\nout.print('done')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.close()

    assert process.stdout.read().split() == [b"done"]
    assert process.wait(60) == 0
