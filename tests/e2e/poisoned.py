"""`python -m tests.e2e.poisoned KIND SOP CONFIG`: a screener that one image poisons.

It has no networks: every study is answered with a notice. At the poison image the process follows
a bad pointer, ends, hangs, or is killed for its memory.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from prescreen import logs
from prescreen.settings import load
from prescreen.store.guard import Guard
from prescreen.study import Job
from prescreen.worker import stop_on_signals
from tests.e2e.blind import screener
from tests.e2e.house import House, Pacs


def _segfault() -> None:
    ctypes.string_at(0)


def _exit() -> None:
    os._exit(3)


def _hang() -> None:
    time.sleep(600)


def _out_of_memory() -> None:
    """What the kernel does to a process that wants more than there is."""
    os.kill(os.getpid(), signal.SIGKILL)


POISON: dict[str, Callable[[], None]] = {
    "segfault": _segfault,
    "exit": _exit,
    "hang": _hang,
    "out_of_memory": _out_of_memory,
}


def main(kind: str, sop_instance_uid: str, config: str) -> None:
    settings = load(Path(config))
    logs.configure(settings.log)
    home = House(Path(config), settings, Pacs())
    limits, stop = settings.screen, threading.Event()
    stop_on_signals(stop.set)

    def poison(jobs: Sequence[Job]) -> None:
        uids = {image.sop_instance_uid for job in jobs for image in job.instances}
        tried = all(job.attempt <= limits.max_attempts for job in jobs)
        if sop_instance_uid in uids and tried:
            POISON[kind]()

    with Guard(settings.data_dir, "screen"):
        worker = screener(home, poison)
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        while thread.is_alive() and not stop.wait(0.2):
            pass
        worker.stop()
        thread.join(120)


if __name__ == "__main__":
    main(*sys.argv[1:])
