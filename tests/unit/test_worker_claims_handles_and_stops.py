"""The loop claims, renews while it works, and ends between two pieces of work."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence

from prescreen.errors import LeaseLost, StoreError
from prescreen.worker import Worker


def test_it_handles_what_is_due_and_says_when_nothing_is() -> None:
    due, handled, idle = [["a", "b"], ["c"]], [], []
    worker: Worker[str] = Worker(
        claim=lambda: due.pop(0) if due else [],
        handle=lambda work: handled.append(list(work)),
        renew=lambda piece: None,
        idle=lambda: idle.append(True),
    )
    assert worker.run_once() and worker.run_once()
    assert not worker.run_once()
    assert handled == [["a", "b"], ["c"]]
    assert idle == [True]


def test_it_renews_each_lease_while_the_work_lasts() -> None:
    renewed: list[str] = []
    enough = threading.Event()

    def renew(piece: str) -> None:
        renewed.append(piece)
        if len(renewed) >= 4:
            enough.set()

    def handle(work: Sequence[str]) -> None:
        assert enough.wait(10)

    worker: Worker[str] = Worker(lambda: ["a", "b"], handle, renew, renew_every=0.01)
    worker.run_once()
    assert renewed[:4] == ["a", "b", "a", "b"]


def test_a_lost_lease_and_a_store_that_is_away_end_nothing() -> None:
    def lost(work: Sequence[str]) -> None:
        raise LeaseLost("someone else owns it")

    assert Worker(lambda: ["a"], lost, lambda piece: None).run_once()

    def away() -> list[str]:
        raise StoreError("the database is locked")

    assert not Worker(away, lost, lambda piece: None).run_once()


def test_a_lease_that_cannot_be_renewed_does_not_end_the_work() -> None:
    asked = threading.Event()

    def renew(piece: str) -> None:
        asked.set()
        raise LeaseLost("gone")

    def handle(work: Sequence[str]) -> None:
        assert asked.wait(60)

    assert Worker(lambda: ["a"], handle, renew, renew_every=0.01).run_once()


def test_it_stops_after_the_work_in_hand() -> None:
    handled: list[str] = []

    def handle(work: Sequence[str]) -> None:
        handled.extend(work)
        worker.stop()

    worker: Worker[str] = Worker(lambda: ["a"], handle, lambda piece: None, pause=0.01)
    thread = threading.Thread(target=worker.run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert handled == ["a"]
    assert worker.stopping


HANGING_UP = """
import os, signal, threading
from prescreen.worker import stop_on_signals
stop = threading.Event()
stop_on_signals(stop.set)
os.kill(os.getpid(), signal.SIGHUP)
print(stop.wait(5))
"""


def test_a_terminal_that_is_closed_ends_it_as_sigterm_does() -> None:
    command = [sys.executable, "-c", HANGING_UP]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "True\n"


def test_news_end_a_rest_and_nothing_else_does_before_its_time() -> None:
    claimed, news = threading.Semaphore(0), threading.Event()
    asked = threading.Event()

    def claim() -> list[str]:
        claimed.release()
        return []

    def told() -> bool:
        asked.set()
        return news.is_set()

    worker: Worker[str] = Worker(
        claim, lambda work: None, lambda piece: None, pause=3600, news=told
    )
    loop = threading.Thread(target=worker.run)
    loop.start()
    assert claimed.acquire(timeout=60) and asked.wait(60)
    assert not claimed.acquire(blocking=False), "it rests"
    news.set()
    assert claimed.acquire(timeout=60), "it looks again"
    worker.stop()
    loop.join(10)
    assert not loop.is_alive()
