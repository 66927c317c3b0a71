from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from dhcli.runtime.launch import HANGUP
from dhcli.training.stop import Stopped, StopRequest

needs_hangup = pytest.mark.skipif(HANGUP is None, reason="this system has no SIGHUP")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, pytest.param(HANGUP, marks=needs_hangup)]
)
def test_first_signal_is_kept_until_it_is_asked_for(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    with StopRequest() as stop:
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(Stopped):
            stop.check()

    assert stop.signal == number
    assert signal.getsignal(number) is before


def test_second_signal_acts_at_once() -> None:
    code = (
        "import signal\nfrom dhcli.training.stop import StopRequest\n"
        "with StopRequest():\n"
        "    signal.raise_signal(signal.SIGINT)\n    print('still here', flush=True)\n"
        "    signal.raise_signal(signal.SIGINT)\n    print('not reached')\n"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert result.stdout == "still here\n"
    assert result.returncode == -signal.SIGINT


@needs_hangup
def test_a_terminal_that_closes_says_so_more_than_once() -> None:
    assert HANGUP is not None
    before = signal.getsignal(HANGUP)

    with StopRequest() as stop:
        signal.raise_signal(HANGUP)
        signal.raise_signal(HANGUP)

    assert stop.signal == HANGUP
    assert signal.getsignal(HANGUP) is before


@needs_hangup
def test_under_nohup_the_terminal_may_close() -> None:
    assert HANGUP is not None
    before = signal.signal(HANGUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(HANGUP)
            stop.check()
    finally:
        signal.signal(HANGUP, before)


def test_other_threads_train_without_handlers() -> None:
    raised = []

    def enter() -> None:
        try:
            with StopRequest() as stop:
                stop.check()
        except ValueError as error:
            raised.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()

    assert not raised
