"""The line to one destination: a thread that claims, sends, and asks what became of it.

Each destination has a line of its own, so that one that is dead, slow or silent delays no other.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Engine

from prescreen import pipeline
from prescreen.breaker import Breaker, Pace
from prescreen.dicom.send import Sender, echo
from prescreen.proof import Proof
from prescreen.settings import Destination
from prescreen.store import audit
from prescreen.store.commitments import Commitments
from prescreen.store.corrections import Corrections
from prescreen.store.database import News
from prescreen.store.outbox import Outbox
from prescreen.store.queue import utc_now
from prescreen.study import Delivery
from prescreen.worker import Worker

logger = logging.getLogger(__name__)

#: Objects claimed at a time.
BATCH = 16


class Line:
    """One destination, the way to it, its breaker, its pace and its proofs."""

    def __init__(
        self,
        destination: Destination,
        sender: Sender,
        calling_ae_title: str,
        engine: Engine,
        *,
        clock: Callable[[], datetime.datetime] = utc_now,
        crash: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._destination = destination
        self._sender = sender
        self._engine = engine
        self._clock = clock
        self._outbox = Outbox(engine, clock, crash)
        self._pace = Pace(destination.objects_per_minute, clock)
        self._breaker = Breaker(
            lambda: echo(destination, calling_ae_title),
            destination.probe_every,
            clock,
            away=self._is_away,
            back=self._is_back,
        )
        self._proof = Proof(
            destination,
            calling_ae_title,
            Commitments(engine, clock),
            self._outbox.identity,
            Corrections(engine, clock).correct,
            clock,
        )
        self._route = pipeline.Route(
            destination,
            self._outbox,
            sender,
            clock,
            crash,
            check=self._proof.check,
            ready=sender.ready,
            prove=lambda: self._proof.is_wanted,
            was_away=self._breaker.was_away,
            answered=self._breaker.answered,
            lost=self._breaker.lost,
        )

    @property
    def lease(self) -> float:
        """Seconds; renewed while a send lasts: short, so that what a killed process had is due."""
        return max(10.0, 2 * self._destination.acse_timeout)

    def worker(self) -> Worker[Delivery]:
        """The loop of this line."""
        return Worker(
            self.claim,
            self.deliver,
            partial(self._outbox.renew, lease=self.lease),
            renew_every=self.lease / 3,
            idle=self.rest,
            news=News(self._engine),
        )

    def claim(self) -> list[Delivery]:
        """What is to be sent now; nothing while the breaker is open or the minute is full."""
        if not self._breaker.lets_through():
            return []
        room = self._pace.room(BATCH)
        if room <= 0 or not self._outbox.is_due(self._destination.name):
            return []
        rows = self._outbox.claim(self._destination.name, self.lease, room)
        self._pace.took(len(rows))
        return rows

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Send what was claimed."""
        pipeline.deliver(deliveries, self._route)

    def rest(self) -> None:
        """Nothing is due: let go of the association, and ask for proofs."""
        self._sender.close()
        if not self._breaker.is_open:
            self._proof.look()

    def close(self) -> None:
        """Let go of the association."""
        self._sender.close()

    def _is_away(self) -> None:
        name = self._destination.name
        logger.error("%s: is away; asked every %g s", name, self._destination.probe_every)
        audit.record(self._engine, "destination.away", {"destination": name}, self._clock)

    def _is_back(self, seconds: float) -> None:
        name = self._destination.name
        due = self._outbox.due_now(name)
        logger.warning("%s: is back after %.0f s; %d objects are due", name, seconds, due)
        detail = {"destination": name, "seconds": round(seconds), "objects": due}
        audit.record(self._engine, "destination.back", detail, self._clock)
