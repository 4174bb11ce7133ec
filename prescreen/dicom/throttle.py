"""Two counters of the receiver: what is said too often is held back, who is busy is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Throttle:
    """Lets one of a kind through per `every` seconds, and counts those it holds back.

    At most 256 kinds are told apart at a time; beyond that, new ones are held back as one kind.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, kinds: int = 256) -> None:
        self._clock = clock
        self._kinds = kinds
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}  # next time, left out since
        self._lock = threading.Lock()

    def admit(self, kind: tuple[str, ...], every: float = 60.0) -> int | None:
        """How many were held back since the last that passed, or None: this one is, too."""
        with self._lock:
            now = self._clock()
            if kind not in self._seen and len(self._seen) >= self._kinds:
                self._forget(now)
                kind = kind if len(self._seen) < self._kinds else ("others",)
            next_time, left_out = self._seen.get(kind, (now, 0))
            if now < next_time:
                self._seen[kind] = (next_time, left_out + 1)
                return None
            self._seen[kind] = (now + every, 0)
            return left_out

    def _forget(self, now: float) -> None:
        self._seen = {kind: seen for kind, seen in self._seen.items() if seen[0] > now}


class Count:
    """How many are at it, and a way to wait until nobody is."""

    def __init__(self) -> None:
        self._number = 0
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._changed:
            self._number += 1
        try:
            yield
        finally:
            with self._changed:
                self._number -= 1
                self._changed.notify_all()

    def wait_for_zero(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._number == 0, seconds)
