"""What people ask of the store: how it stands, which studies there are, what became of one."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, select, text

from prescreen.errors import NotThere
from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.database import reading
from prescreen.store.destinations import Destinations, Standing
from prescreen.study import Event, OutboxState, Stage

#: The pace of work is that of the jobs settled last: so many at most, and none longer ago.
_SAMPLE, _PACE = 64, datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Status:
    """How the store stands at one instant.

    `waiting`, `due` and `leased` count jobs still to be screened: in their quiet period or
    delay, ready, and in work. `deliveries` counts outbox rows: destination -> state -> number.
    `oldest_due` is the instant since when the oldest ready job has been waiting. `seconds_left` is
    how long it takes to screen what is ready or in work, at the pace of the last minutes; None
    while nothing tells that pace.
    """

    at: datetime.datetime
    instances: int
    studies: int
    waiting: int
    due: int
    leased: int
    oldest_due: datetime.datetime | None
    seconds_left: float | None
    outcomes: Mapping[str, int]
    deliveries: Mapping[str, Mapping[str, int]]
    standings: tuple[Standing, ...]
    held_findings: tuple[str, ...]


@dataclass(frozen=True)
class StudyRecord:
    """All that is known of one study. The rows are those of the documented views, as mappings."""

    study: Mapping[str, Any]
    instances: tuple[Mapping[str, Any], ...]
    findings: tuple[Mapping[str, Any], ...]
    deliveries: tuple[Mapping[str, Any], ...]
    events: tuple[Event, ...]


def status(engine: Engine, now: datetime.datetime) -> Status:
    """Counts of everything, as of `now` (aware)."""
    switches = Destinations(engine)
    standings, held = switches.standings(), switches.held_findings()
    with reading(engine) as connection:
        waiting, due, leased, oldest = _to_screen(connection, now)
        return Status(
            at=now,
            instances=_count(connection, "instance"),
            studies=_count(connection, "study"),
            waiting=waiting,
            due=due,
            leased=leased,
            oldest_due=oldest,
            seconds_left=_seconds_left(connection, due + leased, now),
            outcomes=_outcomes(connection),
            deliveries=_deliveries(connection),
            standings=standings,
            held_findings=held,
        )


def waiting(engine: Engine) -> int:
    """How many jobs are still to be screened."""
    with reading(engine) as connection:
        counted = select(func.count()).select_from(t.job).where(t.job.c.stage == Stage.SCREEN)
        return connection.scalars(counted).one()


def _count(connection: Connection, table: str) -> int:
    counted = select(func.count()).select_from(t.metadata.tables[table])
    return connection.scalars(counted).one()


def _to_screen(
    connection: Connection, now: datetime.datetime
) -> tuple[int, int, int, datetime.datetime | None]:
    columns = select(t.job.c.due_at, t.job.c.lease_until)
    rows = connection.execute(columns.where(t.job.c.stage == Stage.SCREEN)).all()
    leased = sum(row.lease_until is not None and row.lease_until > now for row in rows)
    free = [row.due_at for row in rows if row.lease_until is None or row.lease_until <= now]
    due = [instant for instant in free if instant <= now]
    return len(free) - len(due), len(due), leased, min(due, default=None)


def _seconds_left(connection: Connection, jobs: int, now: datetime.datetime) -> float | None:
    """How long so many jobs take at the pace of those that were settled last."""
    if jobs == 0:
        return 0.0
    newest = t.job.c.settled_at.desc()
    rows = select(t.job.c.settled_at).where(t.job.c.settled_at > now - _PACE)
    settled = connection.scalars(rows.order_by(newest).limit(_SAMPLE)).all()
    if len(settled) < 2 or settled[0] == settled[-1]:
        return None
    taken: datetime.timedelta = settled[0] - settled[-1]
    return jobs * taken.total_seconds() / (len(settled) - 1)


def _outcomes(connection: Connection) -> dict[str, int]:
    columns = select(t.job.c.outcome, func.count()).where(t.job.c.outcome.is_not(None))
    return {row[0]: row[1] for row in connection.execute(columns.group_by(t.job.c.outcome))}


def _deliveries(connection: Connection) -> dict[str, dict[str, int]]:
    destination, state = t.outbox.c.destination, t.outbox.c.state
    counts: dict[str, dict[str, int]] = {}
    statement = select(destination, state, func.count()).group_by(destination, state)
    for name, word, number in connection.execute(statement):
        counts.setdefault(name, {})[word] = number
    return counts


def kinds(engine: Engine) -> dict[str, int]:
    """How many events of each kind the audit holds."""
    counted = select(t.event.c.kind, func.count()).group_by(t.event.c.kind)
    with reading(engine) as connection:
        return {row[0]: row[1] for row in connection.execute(counted)}


def parked(engine: Engine) -> tuple[Mapping[str, Any], ...]:
    """The rows of `v_delivery` that wait for a person, oldest first."""
    with reading(engine) as connection:
        statement = text("SELECT * FROM v_delivery WHERE state = :state ORDER BY outbox_id")
        rows = connection.execute(statement, {"state": OutboxState.PARKED})
        return tuple(dict(row) for row in rows.mappings())


def studies(engine: Engine, limit: int = 50) -> tuple[Mapping[str, Any], ...]:
    """The newest studies as rows of `v_study`, newest first."""
    with reading(engine) as connection:
        statement = text("SELECT * FROM v_study ORDER BY last_received_at DESC LIMIT :limit")
        return tuple(
            dict(row) for row in connection.execute(statement, {"limit": limit}).mappings()
        )


def show(engine: Engine, key: str) -> StudyRecord:
    """One study by Study Instance UID, accession number or job id, in this order.

    Raises NotThere where there is none, or several under one accession number (it lists them), and
    where nothing is asked for.
    """
    with reading(engine) as connection:
        uid = _resolve(connection, key)
        (study,) = _rows(connection, "v_study", uid, "study_instance_uid")
        record = {
            name: _rows(connection, view, uid, order)
            for name, view, order in (
                ("instances", "v_instance", "instance_id"),
                ("findings", "v_finding", "job_id, instance_id, label"),
                ("deliveries", "v_delivery", "outbox_id"),
            )
        }
    return StudyRecord(study=study, events=audit.events(engine, study_instance_uid=uid), **record)


def _rows(connection: Connection, view: str, uid: str, order: str) -> tuple[Mapping[str, Any], ...]:
    statement = text(f"SELECT * FROM {view} WHERE study_instance_uid = :uid ORDER BY {order}")
    return tuple(dict(row) for row in connection.execute(statement, {"uid": uid}).mappings())


def _resolve(connection: Connection, key: str) -> str:
    if not key.strip():  # many a study has no accession number, and none of them is meant
        raise NotThere("no study is named: give its UID, accession number or job")
    for find in (_by_uid, _by_accession_number, _by_job):
        uids = find(connection, key)
        if len(uids) > 1:
            raise NotThere(f"{len(uids)} studies have that number: {', '.join(sorted(uids))}")
        if uids:
            return uids[0]
    # what was asked for may be a patient's: only a UID is repeated
    asked = f"{key}: no study" if "." in key and key.replace(".", "").isdecimal() else "no study"
    raise NotThere(f"{asked}, accession number or job of that name; see `prescreen audit list`")


def _by_uid(connection: Connection, key: str) -> list[str]:
    uid = t.study.c.study_instance_uid
    return list(connection.scalars(select(uid).where(uid == key)))


def _by_accession_number(connection: Connection, key: str) -> list[str]:
    joined = t.study.join(t.identity, t.study.c.identity_id == t.identity.c.identity_id)
    columns = select(t.study.c.study_instance_uid).select_from(joined)
    return list(connection.scalars(columns.where(t.identity.c.accession_number == key)))


def _by_job(connection: Connection, key: str) -> list[str]:
    if not (key.isascii() and key.isdecimal() and len(key) < 19):
        return []
    joined = t.study.join(t.job, t.job.c.study_id == t.study.c.study_id)
    columns = select(t.study.c.study_instance_uid).select_from(joined)
    return list(connection.scalars(columns.where(t.job.c.job_id == int(key))))
