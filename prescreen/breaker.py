"""The breaker and the pace of one destination: when nothing is sent, and how much at most."""

from __future__ import annotations

import datetime
import logging
from collections import deque
from collections.abc import Callable

from prescreen.errors import DeliveryError, PeerUnavailable

logger = logging.getLogger(__name__)

#: Losses in a row after which a destination is taken to be away.
LOSSES = 3


class Breaker:
    """Closed while the peer answers. Open, it lets nothing through until a probe finds the peer.

    `probe` asks the peer (a C-ECHO) and raises PeerUnavailable where it is not there; any other
    answer of it, a refusal too, is a sign of life. It is called every `every` seconds. `away` is
    called when the breaker opens, `back` with the seconds it was open when it closes again. Used
    by one thread.
    """

    def __init__(
        self,
        probe: Callable[[], object],
        every: float,
        clock: Callable[[], datetime.datetime],
        *,
        away: Callable[[], object] = lambda: None,
        back: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self._probe = probe
        self._every = datetime.timedelta(seconds=every)
        self._clock = clock
        self._away, self._back = away, back
        self._losses = 0
        self._was_away = True  # nobody knows what happened before this process began
        self._open_since: datetime.datetime | None = None
        self._next_probe: datetime.datetime | None = None

    @property
    def is_open(self) -> bool:
        return self._open_since is not None

    def was_away(self) -> bool:
        """Whether the peer was lost since this was asked last, or it was never asked."""
        answer, self._was_away = self._was_away, False
        return answer

    def lost(self) -> None:
        """The peer could not be reached, or broke off."""
        self._was_away = True
        self._losses += 1
        if self._losses >= LOSSES and not self.is_open:
            self._open_since = now = self._clock()
            self._next_probe = now + self._every
            self._away()

    def answered(self) -> None:
        """The peer gave an answer, whichever."""
        self._losses = 0

    def lets_through(self) -> bool:
        """Whether something may be sent now; probes the peer where that is due.

        After a probe that found it one more loss opens the breaker again.
        """
        if self._open_since is None or self._next_probe is None:
            return True
        now = self._clock()
        # a clock set back must not leave the destination closed for as long as it was set back
        if self._next_probe - self._every <= now < self._next_probe:
            return False
        if not self._finds_it():
            self._next_probe = self._clock() + self._every
            return False
        seconds = (self._clock() - self._open_since).total_seconds()
        self._open_since, self._losses = None, LOSSES - 1
        self._back(seconds)
        return True

    def _finds_it(self) -> bool:
        try:
            self._probe()
        except PeerUnavailable as error:
            logger.info("%s; asked again in %.0f s", error, self._every.total_seconds())
            return False
        except DeliveryError as error:
            logger.info("it answers: %s", error)
        return True


class Pace:
    """At most so many objects in any minute; 0 lets any number through. Used by one thread."""

    def __init__(self, per_minute: int, clock: Callable[[], datetime.datetime]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._taken: deque[datetime.datetime] = deque()

    def room(self, wanted: int) -> int:
        """How many of `wanted` may go now."""
        if self._per_minute == 0:
            return wanted
        begin = self._clock() - datetime.timedelta(minutes=1)
        while self._taken and self._taken[0] <= begin:
            self._taken.popleft()
        return min(wanted, self._per_minute - len(self._taken))

    def took(self, number: int) -> None:
        """So many go now."""
        if self._per_minute:
            self._taken.extend([self._clock()] * number)
