"""How several processes are started, and what is said of how they ended."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from dhcli.errors import DhError
from dhcli.runtime import launch as launching
from dhcli.runtime.launch import HANGUP, LEFT_ALONE, Place, launch, own_place

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """`launch` of a script in place of dh; `rank` and `restart` are known to it."""
    (tmp_path / "dhcli").mkdir()
    (tmp_path / "dhcli/__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dh"])
    head = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
    head += "restart = int(os.environ['DH_RESTART'])\n"

    def call(script: str, processes: int = 2, restarts: int = 0) -> tuple[int, list[str]]:
        (tmp_path / "dhcli/__main__.py").write_text(head + script)
        said: list[str] = []
        return launch(processes, restarts, said.append), said

    return call


def test_the_place_is_what_a_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert own_place() == Place(0, 1, 0, 1)

    for name, value in zip(NAMES, ("5", "8", "1", "4"), strict=True):
        monkeypatch.setenv(name, value)
    assert own_place() == Place(5, 8, 1, 4)

    monkeypatch.setenv("RANK", "8")
    with pytest.raises(DhError, match="no place among several"):
        own_place()


def test_all_get_what_torchrun_would_give(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    names = [*NAMES, "MASTER_ADDR"]
    script = f"open(f'said{{rank}}', 'w').write(' '.join(os.environ[n] for n in {names}))"

    assert run(script, 3) == (0, [])
    said = [(tmp_path / f"said{rank}").read_text() for rank in range(3)]
    assert said == [f"{rank} 3 {rank} 3 127.0.0.1" for rank in range(3)]


@pytest.mark.parametrize("code", [2, 3])
def test_the_exit_code_is_that_of_the_error_not_of_those_left_alone(run, code: int) -> None:  # type: ignore[no-untyped-def]
    script = f"time.sleep(0.3 * rank)\nsys.exit({code} if rank else {LEFT_ALONE})"

    assert run(script, restarts=3) == (code, [])


def test_who_does_not_end_after_another_failed_is_ended(  # type: ignore[no-untyped-def]
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "GRACE", 0.2)
    begun = time.monotonic()

    assert run("time.sleep(0 if rank else 60)\nsys.exit(3)") == (3, [])
    assert time.monotonic() - begun < 20


def test_a_killed_process_is_named(run) -> None:  # type: ignore[no-untyped-def]
    script = f"os.kill(os.getpid(), signal.SIGKILL) if rank else sys.exit({LEFT_ALONE})"

    with pytest.raises(DhError, match=r"process 2 of 2 was killed \(SIGKILL\)"):
        run(script)


def test_all_start_again_as_often_as_allowed(run) -> None:  # type: ignore[no-untyped-def]
    script = "os.kill(os.getpid(), signal.SIGKILL) if restart < 2 else sys.exit(0)"

    code, said = run(script, 1, restarts=2)

    assert code == 0
    assert len(said) == 2
    assert "process 1 of 1 was killed (SIGKILL); all start again" in said[0]


@pytest.mark.parametrize(
    "name",
    ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.skipif(not HANGUP, reason="none here"))],
)
def test_a_signal_is_passed_on_and_not_tried_again(run, name: str) -> None:  # type: ignore[no-untyped-def]
    number = signal.Signals[name]
    script = (
        f"signal.signal({number}, lambda *_: (time.sleep(0.5), sys.exit(128 + {number})))\n"
        f"for _ in range({1 + (number == HANGUP)} * (rank == 0)):\n"  # a terminal says it twice
        f"    time.sleep(0.5); os.kill(os.getppid(), {number})\n"
        "time.sleep(60)"
    )

    assert run(script, restarts=2) == (128 + number, [])
