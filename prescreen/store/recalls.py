"""Recall of what a withdrawn version of the networks said: found, cancelled, taken back.

Everything stands in the database, so a recall that was cut off goes on where it stopped when it is
given again: what was taken back is not found a second time.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, exists, func, select

from prescreen.errors import NotThere
from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.database import reading, writing
from prescreen.store.queue import utc_now
from prescreen.store.rejections import NOTE, cancel, take_back
from prescreen.store.withdrawal import RECALLED
from prescreen.study import OutboxState


@dataclass(frozen=True)
class Affected:
    """The results of one study that are to be taken back.

    `deliveries` counts their objects by destination and state. `patient_id` and
    `accession_number` are for the list that people work through in the PACS.
    """

    study_id: int
    study_instance_uid: str
    patient_id: str
    accession_number: str
    study_date: str
    job_ids: tuple[int, ...]
    deliveries: Mapping[str, Mapping[str, int]]


class Recalls:
    """The recalls of one database; see `Queue` for `clock`, `crash` and errors."""

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime.datetime] = utc_now,
        crash: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._crash = crash

    def affected(self, sha256: str, since: datetime.datetime) -> tuple[Affected, ...]:
        """Studies with results of weights whose digest begins so, claimed since an instant.

        With them later reports of the same studies that carry those results over. Results that
        nothing but silent mode held are not among them, nor is what was taken back already.
        """
        with reading(self._engine) as connection:
            rows = connection.execute(_candidates(since)).all()
            first: dict[int, int] = {}
            for row in rows:
                if _used(row.weights, sha256):
                    first.setdefault(row.study_id, row.job_id)
            return tuple(
                _affected(connection, study_id, _with_heirs(connection, rows, study_id, sha256))
                for study_id in first
            )

    def weights(self) -> tuple[str, ...]:
        """Digests of all weights that ever gave a result, for those who mistyped one."""
        with reading(self._engine) as connection:
            told = connection.scalars(select(t.job.c.weights).distinct())
            found = {digest for text in told if text for digest in json.loads(text).values()}
        return tuple(sorted(str(digest) for digest in found))

    def recall(
        self, sha256: str, since: datetime.datetime, who: str, why: str
    ) -> tuple[Affected, ...]:
        """Take back what `affected` finds; returns that, durable on return.

        What is pending is cancelled first, of all studies in one transaction. Then each study
        gets a job that sends rejection notes and a notice. Raises NotThere where there is nothing.
        """
        found = self.affected(sha256, since)
        if not found:
            known = ", ".join(digest[:12] for digest in self.weights()) or "none"
            text = f"no results of weights {sha256} since then are left to be taken back"
            raise NotThere(f"{text} (weights that gave results: {known})")
        detail = {"weights": sha256, "since": since.isoformat(), "who": who, "why": why}
        with writing(self._engine) as connection:
            now = self._clock()
            studies = {"studies": len(found)}
            audit.append(connection, "recall.started", now, detail={**detail, **studies})
            for one in found:
                cancel(connection, one.study_id, one.job_ids, now)
        self._crash("recall.cancelled")
        for one in found:
            with writing(self._engine) as connection:
                now = self._clock()
                take_back(connection, one.study_id, one.job_ids, "", RECALLED, now, detail)
            self._crash("recall.study")
        return found


def _candidates(since: datetime.datetime) -> Any:
    """Jobs claimed since an instant with results that somebody may have, or was to get."""
    job = t.job.c
    of_job = (t.outbox.c.job_id == job.job_id, t.outbox.c.state != OutboxState.HELD)
    has_row = exists().where(*of_job)
    taken = exists().where(t.withdrawal.c.withdrawn_job_id == job.job_id)
    return (
        select(job.job_id, job.study_id, job.weights, job.cause)
        .where(job.claimed_at >= since, has_row, ~taken, job.cause != RECALLED)
        .order_by(job.job_id)
    )


def _used(weights: str | None, sha256: str) -> bool:
    return any(str(digest).startswith(sha256) for digest in json.loads(weights or "{}").values())


def _with_heirs(
    connection: Connection, rows: Sequence[Row[Any]], study_id: int, sha256: str
) -> tuple[int, ...]:
    """The study's jobs with those weights, and later ones that do not answer all of it anew."""
    found: list[int] = []
    spoken: set[int] = set()
    for row in rows:
        if row.study_id != study_id:
            continue
        item = t.job_instance.c
        ids = set(connection.scalars(select(item.instance_id).where(item.job_id == row.job_id)))
        if _used(row.weights, sha256):
            spoken |= ids
        elif not spoken - ids:
            continue
        found.append(row.job_id)
    return tuple(found)


def _affected(connection: Connection, study_id: int, job_ids: tuple[int, ...]) -> Affected:
    joined = t.study.join(t.identity, t.study.c.identity_id == t.identity.c.identity_id)
    identity = t.identity.c
    columns = (
        t.study.c.study_instance_uid,
        identity.patient_id,
        identity.accession_number,
        identity.study_date,
    )
    study = connection.execute(
        select(*columns).select_from(joined).where(t.study.c.study_id == study_id)
    ).one()
    return Affected(study_id, *study, job_ids, _deliveries(connection, job_ids))


def _deliveries(connection: Connection, job_ids: Sequence[int]) -> dict[str, dict[str, int]]:
    row = t.outbox.c
    statement = (
        select(row.destination, row.state, func.count())
        .select_from(t.outbox.join(t.result_object))
        .where(row.job_id.in_(job_ids), t.result_object.c.kind != NOTE)
        .group_by(row.destination, row.state)
    )
    counts: dict[str, dict[str, int]] = {}
    for name, state, number in connection.execute(statement):
        counts.setdefault(name, {})[state] = number
    return counts
