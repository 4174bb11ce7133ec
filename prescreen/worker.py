"""The loop: claim, handle, renew the lease, stop when told.

One loop serves both kinds of work, jobs and deliveries. What is claimed is counted before it is
worked on, so work that kills the process is not handed out for ever; what is handled settles
itself. The loop ends between two pieces of work, never inside one.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Generic, TypeVar

from prescreen.errors import LeaseLost, StoreError

Work = TypeVar("Work")

logger = logging.getLogger(__name__)

#: Seconds between two times that a resting loop asks for news, and before it asks at all: where
#: news never ends, most of it is of no use to this loop.
_LISTEN, _LEAST_REST = 0.02, 0.05
#: The exit status of a process whose work hung.
EXIT_STUCK = 70


class Worker(Generic[Work]):
    """Claims work, handles it, and renews its lease meanwhile.

    `claim` returns what is due (nothing: an empty sequence) with the leases set; `handle` does it
    and settles it; `renew` pushes a lease back and raises LeaseLost where another owns the work
    by now. `pause` and `renew_every` are seconds. `idle` is called whenever nothing is due; then
    the loop rests for `pause`, or until `news` says that there may be something.
    Work that lasts longer than `longest` seconds hangs: then `stuck` is called, which by default
    ends the process, so that another one tries again, or gives up.
    """

    def __init__(
        self,
        claim: Callable[[], Sequence[Work]],
        handle: Callable[[Sequence[Work]], None],
        renew: Callable[[Work], None],
        *,
        pause: float = 0.5,
        renew_every: float = 60.0,
        idle: Callable[[], None] | None = None,
        news: Callable[[], bool] = lambda: False,
        longest: float = math.inf,
        stuck: Callable[[], None] = lambda: os._exit(EXIT_STUCK),
    ) -> None:
        self._claim = claim
        self._handle = handle
        self._renew = renew
        self._pause = pause
        self._renew_every = renew_every
        self._idle = idle
        self._news = news
        self._longest = longest
        self._stuck = stuck
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask the loop to end after the work in hand."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """True once the loop was asked to end: long work may look between two of its steps."""
        return self._stop.is_set()

    def run(self) -> None:
        """Work until stopped. A store that cannot be used is waited for, not died of."""
        while not self._stop.is_set():
            if not self.run_once():
                self._rest()

    def _rest(self) -> None:
        """Sleep until there is news, or it is time to look all the same."""
        begun = time.monotonic()
        while not self._stop.wait(min(_LISTEN, self._pause)):
            rested = time.monotonic() - begun
            if rested >= self._pause or (rested >= _LEAST_REST and self._news()):
                return

    def run_once(self) -> bool:
        """Claim and handle once; False where nothing was due."""
        try:
            work = self._claim()
        except StoreError:
            logger.exception("cannot claim work; trying again")
            return False
        if not work:
            if self._idle is not None:
                self._idle()
            return False
        done = threading.Event()
        renewal = threading.Thread(target=self._keep_leases, args=(work, done), daemon=True)
        renewal.start()
        try:
            self._handle(work)
        except LeaseLost:
            logger.warning("the lease was lost; another worker owns the work")
        except StoreError:
            logger.exception("the work could not be settled; it is due again when its lease ends")
        finally:
            done.set()
            renewal.join()
        return True

    def _keep_leases(self, work: Sequence[Work], done: threading.Event) -> None:
        held, until = list(work), time.monotonic() + self._longest
        while not done.wait(min(self._renew_every, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                logger.error("the work in hand hangs: given up after %.0f s", self._longest)
                self._stuck()
                return
            for piece in list(held):
                try:
                    self._renew(piece)
                except LeaseLost:
                    held.remove(piece)  # settled already, or someone else's: the settling tells
                except StoreError:
                    logger.warning("a lease could not be renewed")


def stop_on_signals(*stops: Callable[[], None]) -> None:
    """Let SIGTERM, SIGINT and SIGHUP call `stops`; only from a process's main thread.

    By default SIGHUP, of a terminal that is closed or of a hand that would reload the settings,
    ends a process at once and leaves the processes it started to themselves.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        for stop in stops:
            stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
