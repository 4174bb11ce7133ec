"""What destinations have promised to keep: what is asked of them, and what came of it.

A row is asked for from the moment it is delivered until it is committed, found, given up or lost;
all of that stands in the row, so a process may be killed at any point. Every question is written
down before it is asked: its answer may come days later, to another process.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update

from prescreen.store import audit, stages
from prescreen.store import schema as t
from prescreen.store.database import reading, writing
from prescreen.store.queue import utc_now
from prescreen.store.withdrawal import sent_reference
from prescreen.study import OutboxState, Promise, Reference, Stage, generate_uid

#: Failure Reasons (PS3.3 C.14.1.1) after which the same question is worth asking again: a
#: processing failure, no resources, a Transaction UID it has seen before.
PASSING = frozenset({0x0110, 0x0213, 0x0131})
#: The peer will never commit to an object of this class.
CLASS_NOT_SUPPORTED = 0x0122

#: Longest time between two questions for the same object.
LONGEST = datetime.timedelta(hours=6)


@dataclass(frozen=True)
class Question:
    """A request for commitment that was written down and is to be asked now."""

    transaction_uid: str
    asked: Mapping[int, Reference]  # outbox_id -> the object as it was sent

    @property
    def references(self) -> tuple[Reference, ...]:
        return tuple(self.asked.values())


class Commitments:
    """The promises of one database; see `Queue` for `clock` and errors."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime.datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def question(self, destination: str, again: float, limit: int = 200) -> Question | None:
        """What a destination is to be asked now, written down; None where there is nothing.

        Without an answer it is due again after `again` seconds, each time after twice as long.
        """
        due = _due(destination, self._clock())
        with reading(self._engine) as connection:
            if connection.scalar(due.limit(1)) is None:
                return None
        with writing(self._engine) as connection:
            now = self._clock()
            rows = connection.execute(due.order_by(t.outbox.c.outbox_id).limit(limit)).all()
            return _write_down(connection, destination, rows, again, now) if rows else None

    def answered(self, promise: Promise) -> bool:
        """Take an answer down, durably; False where no such question was ever asked.

        An object the peer does not have (or will not say) is sent again, once; then a person
        looks: a radiologist may have deleted it.
        """
        with writing(self._engine) as connection:
            now = self._clock()
            known = update(t.commitment).where(
                t.commitment.c.transaction_uid == promise.transaction_uid
            )
            if connection.execute(known.values(answered_at=now)).rowcount != 1:
                return False
            for row in connection.execute(_rows(promise.transaction_uid)).all():
                uid = sent_reference(row).sop_instance_uid
                if uid in promise.kept:
                    _committed(connection, row, now)
                elif uid in promise.failed and row.commit_due_at is not None:
                    _failed(connection, row, promise.failed[uid], now)
        return True

    def found(self, question: Question, listed: Iterable[str], patience: int) -> None:
        """What a destination that offers no commitment lists (C-FIND) of what was asked for.

        What it does not list after `patience` questions is sent again, once.
        """
        there = frozenset(listed)
        with writing(self._engine) as connection:
            now = self._clock()
            for row in connection.execute(_rows(question.transaction_uid)).all():
                if sent_reference(row).sop_instance_uid in there:
                    values = {"found_at": now, "commit_due_at": None}
                    _settle(connection, row, values, "object.found", now)
                elif row.commit_asks >= patience:
                    _lost(connection, row, 0x0112, now)

    def give_up(self, question: Question, why: str) -> None:
        """Leave what was asked for as delivered: the peer offers no proof of any kind."""
        with writing(self._engine) as connection:
            now = self._clock()
            for row in connection.execute(_rows(question.transaction_uid)).all():
                _uncommitted(connection, row, why, now)

    def expire(self, destination: str, days: float) -> int:
        """Ask no more for what was delivered `days` ago; how many objects that were."""
        with writing(self._engine) as connection:
            now = self._clock()
            old = _due(destination, now).where(
                t.outbox.c.delivered_at <= now - datetime.timedelta(days=days)
            )
            rows = connection.execute(old).all()
            for row in rows:
                _uncommitted(connection, row, "no promise in time", now)
        return len(rows)


def _objects() -> Any:
    item = t.result_object.c
    columns = (
        *t.outbox.c,
        item.sop_class_uid,
        item.sop_instance_uid,
        item.series_instance_uid,
        item.fallback_sop_instance_uid,
        t.study.c.study_instance_uid,
    )
    return select(*columns).select_from(t.outbox_of_studies())


def _due(destination: str, now: datetime.datetime) -> Any:
    row = t.outbox.c
    return _objects().where(
        row.destination == destination,
        row.commit_due_at <= now,
        row.state == OutboxState.DELIVERED,
    )


def _rows(transaction_uid: str) -> Any:
    """The objects of a question that are still waited for."""
    asked = select(t.commitment_item.c.outbox_id).where(
        t.commitment_item.c.transaction_uid == transaction_uid
    )
    row = t.outbox.c
    return _objects().where(row.outbox_id.in_(asked), row.state == OutboxState.DELIVERED)


def _write_down(
    connection: Connection,
    destination: str,
    rows: Iterable[Row[Any]],
    again: float,
    now: datetime.datetime,
) -> Question:
    question = Question(generate_uid(), {row.outbox_id: sent_reference(row) for row in rows})
    uid = question.transaction_uid
    said = {"transaction_uid": uid, "destination": destination, "asked_at": now}
    connection.execute(insert(t.commitment), said)
    items = [{"transaction_uid": uid, "outbox_id": number} for number in question.asked]
    connection.execute(insert(t.commitment_item), items)
    for row in rows:
        wait = min(datetime.timedelta(seconds=again * 2.0 ** min(row.commit_asks, 20)), LONGEST)
        values = {"commit_due_at": now + wait, "commit_asks": row.commit_asks + 1}
        here = t.outbox.c.outbox_id == row.outbox_id
        connection.execute(update(t.outbox).where(here).values(**values))
    detail = {"destination": destination, "transaction_uid": uid, "objects": len(items)}
    audit.append(connection, "commitment.asked", now, detail=detail)
    return question


def _committed(connection: Connection, row: Row[Any], now: datetime.datetime) -> None:
    values = {"state": OutboxState.COMMITTED, "committed_at": now, "commit_due_at": None}
    _settle(connection, row, {**values, "error": None}, "object.committed", now)


def _failed(connection: Connection, row: Row[Any], reason: int, now: datetime.datetime) -> None:
    if reason in PASSING:
        _settle(connection, row, {}, "object.uncommitted", now, reason)
    elif reason == CLASS_NOT_SUPPORTED:
        _uncommitted(connection, row, "the peer commits to no object of this class", now)
    else:
        _lost(connection, row, reason, now)


def _lost(connection: Connection, row: Row[Any], reason: int, now: datetime.datetime) -> None:
    """Taken and not there: once more with the same UID, the second time for a person."""
    again = row.losses == 0
    words = f"the peer took the object and does not have it (0x{reason:04X}): " + (
        "sent again" if again else "deleted there? `prescreen retry` sends it once more"
    )
    values: dict[str, Any] = {
        "state": OutboxState.PENDING if again else OutboxState.PARKED,
        "losses": row.losses + 1,
        "error": words,
        "status": reason,
        "due_at": now,
        "settled_at": None if again else now,
        "commit_due_at": None,
        "commit_asks": 0,
    }
    _settle(connection, row, values, "object.lost", now, reason)
    if again:
        stages.advance(connection, row.job_id, row.study_instance_uid, Stage.DELIVER, now)


def _uncommitted(connection: Connection, row: Row[Any], why: str, now: datetime.datetime) -> None:
    values = {"commit_due_at": None, "error": f"delivered, not committed: {why}"}
    _settle(connection, row, values, "object.uncommitted", now)


def _settle(
    connection: Connection,
    row: Row[Any],
    values: Mapping[str, Any],
    kind: str,
    now: datetime.datetime,
    reason: int | None = None,
) -> None:
    if values:
        here = t.outbox.c.outbox_id == row.outbox_id
        connection.execute(update(t.outbox).where(here).values(**values))
    detail: dict[str, Any] = {"outbox_id": row.outbox_id, "destination": row.destination}
    if reason is not None:
        detail["reason"] = f"0x{reason:04X}"
    audit.append(
        connection,
        kind,
        now,
        study_instance_uid=row.study_instance_uid,
        sop_instance_uid=sent_reference(row).sop_instance_uid,
        job_id=row.job_id,
        detail=detail,
    )
