"""A supervisor that is killed with SIGKILL leaves nothing running."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading

import pytest

from prescreen.supervisor import LIFELINE, heed_supervisor

#: Ends with 0 when it is told to; its standard output is the supervisor's.
ROLE = """
import os, threading
from prescreen.supervisor import heed_supervisor
stop = threading.Event()
heed_supervisor(stop.set)
os.write(1, b"at work\\n")
if stop.wait(60):
    os.write(1, b"ended\\n")
"""
SUPERVISING = f"""
import sys, time
from prescreen.supervisor import Supervisor
supervisor = Supervisor(lambda role: [sys.executable, "-c", {ROLE!r}], ["receive", "deliver"])
supervisor.look()
time.sleep(60)
"""


def test_a_supervisor_that_is_killed_takes_its_roles_along() -> None:
    command = [sys.executable, "-c", SUPERVISING]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        said = [supervisor.stdout.readline() for _ in range(2)]
        assert said == [b"at work\n"] * 2
        assert select.select([supervisor.stdout], [], [], 0)[0] == []
        supervisor.send_signal(signal.SIGKILL)
        # ends when the last process that can write to it has ended
        assert supervisor.stdout.read() == b"ended\n" * 2


def test_who_has_no_supervisor_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIFELINE, raising=False)
    before = threading.active_count()
    heed_supervisor(lambda: os._exit(1))
    assert threading.active_count() == before
