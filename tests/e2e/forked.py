"""Roles as processes forked from one that has imported what they need: a start costs little.

So hundreds of kills can be had. What runs afterwards is what `serve --only` runs, and it dies as
that does. `blind` is a screener without networks (tests.e2e.blind).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from prescreen import logs, node
from prescreen.dicom import heap, receive
from prescreen.settings import Settings, load
from prescreen.store.guard import Guard
from prescreen.worker import stop_on_signals
from tests.e2e.blind import screener
from tests.e2e.dying import DIED
from tests.e2e.house import House, Pacs
from tests.peers.dcmtk import wait_until_listening

#: `node` imports these when a role begins; here they are to be there before.
_LOADED = (heap, receive)

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload([__name__])


def start(home: House, role: str, point: str = "") -> ForkServerProcess:
    """A role that works until it is killed or told, or exits with DIED at a named point."""
    process = _FORKING.Process(target=_run, args=(role, point, str(home.config)))
    process.start()
    return process


@contextmanager
def forked(home: House, role: str) -> Iterator[ForkServerProcess]:
    """The same, killed where it is left."""
    process = start(home, role)
    try:
        if role == "receive":
            wait_until_listening(home.settings.receive.port, 600)
        yield process
    finally:
        process.kill()
        process.join(120)


def _run(role: str, point: str, config: str) -> None:
    def crash(reached: str) -> None:
        if reached == point:
            os._exit(DIED)

    settings, stop = load(Path(config)), threading.Event()
    logs.configure(settings.log)
    stop_on_signals(stop.set)
    run = _blind if role == "blind" else node.RUN[role]
    run(settings, stop, crash)


def _blind(settings: Settings, stop: threading.Event, crash: Callable[[str], None]) -> None:
    home = House(Path(), settings, Pacs(), node.open_store(settings, crash))
    with Guard(settings.data_dir, "screen"):
        worker = screener(home)
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        stop.wait()
        worker.stop()
        thread.join(120)
