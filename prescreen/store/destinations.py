"""Who may be sent to: silent until `go_live`, stopped by `hold`, each change with who and why."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, exists, insert, or_, select, update

from prescreen.errors import NotThere
from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.database import reading, writing
from prescreen.store.images import screenable
from prescreen.store.outbox import ALL
from prescreen.store.queue import utc_now
from prescreen.store.rebuild import rebuild
from prescreen.store.withdrawal import FINDING_HELD, RECALLED, is_note
from prescreen.study import LABELS, OutboxState, Stage


@dataclass(frozen=True)
class Standing:
    """Whether a destination (or `*`, all of them) is live and held, who said so, why and when."""

    name: str
    live: bool
    held: bool
    who: str
    why: str
    at: datetime.datetime


class Destinations:
    """The switches of one database. What is set is durable on return and counts at once."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime.datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def go_live(self, name: str, who: str, why: str) -> None:
        """Open a destination for jobs claimed from now on; what was held stays held."""
        self._set(name, {"live": True}, "destination.opened", who, why)

    def go_silent(self, name: str, who: str, why: str) -> None:
        """Close a destination for jobs claimed from now on; `hold` stops what is on its way."""
        self._set(name, {"live": False}, "destination.silenced", who, why)

    def hold(self, name: str | None, who: str, why: str) -> None:
        """Stop sending to a destination, or to all of them (None), with the next claim."""
        self._set(name or ALL, {"held": True}, "destination.held", who, why)

    def release(self, name: str | None, who: str, why: str) -> None:
        """Take one hold back; one on all of them (None) leaves those on single ones standing."""
        self._set(name or ALL, {"held": False}, "destination.released", who, why)

    def hold_finding(self, label: str, who: str, why: str) -> tuple[int, ...]:
        """Stop sending reports with a finding; unsent ones are made again without it.

        Returns the jobs that make them. Jobs claimed from now on report the finding as not
        evaluated; rows of reports made before are no longer handed out.
        """
        if label not in LABELS:
            raise _no_finding(label)
        with writing(self._engine) as connection:
            now = self._clock()
            connection.execute(delete(t.finding_hold).where(t.finding_hold.c.label == label))
            row = {"label": label, "who": who, "why": why, "at": now}
            connection.execute(insert(t.finding_hold), row)
            detail = {"finding": label, "who": who, "why": why}
            audit.append(connection, "finding.held", now, detail=detail)
            uids = _studies_with_unsent(connection)
            return tuple(rebuild(connection, uid, FINDING_HELD, now, detail) for uid in uids)

    def release_finding(self, label: str, who: str, why: str) -> None:
        """Let jobs claimed from now on report the finding again."""
        if label not in LABELS:
            raise _no_finding(label)
        with writing(self._engine) as connection:
            connection.execute(delete(t.finding_hold).where(t.finding_hold.c.label == label))
            detail = {"finding": label, "who": who, "why": why}
            audit.append(connection, "finding.released", self._clock(), detail=detail)

    def standings(self) -> tuple[Standing, ...]:
        """Every destination that was ever switched, by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(t.destination).order_by(t.destination.c.name))
            return tuple(Standing(**row._mapping) for row in rows)

    def held_findings(self) -> tuple[str, ...]:
        """Labels of the findings on hold, in alphabetical order."""
        with reading(self._engine) as connection:
            labels = select(t.finding_hold.c.label).order_by(t.finding_hold.c.label)
            return tuple(connection.scalars(labels))

    def _set(self, name: str, switch: Mapping[str, bool], kind: str, who: str, why: str) -> None:
        with writing(self._engine) as connection:
            now = self._clock()
            _upsert(connection, name, {**switch, "who": who, "why": why, "at": now})
            detail = {"destination": name, "who": who, "why": why}
            audit.append(connection, kind, now, detail=detail)


def _no_finding(label: str) -> NotThere:
    return NotThere(f"{label!r} is no finding: one of {', '.join(LABELS)}")


def _upsert(connection: Connection, name: str, values: Mapping[str, Any]) -> None:
    here = t.destination.c.name == name
    if connection.execute(update(t.destination).where(here).values(**values)).rowcount == 0:
        connection.execute(insert(t.destination), {"name": name, **values})


def _studies_with_unsent(connection: Connection) -> list[str]:
    """Studies with images to screen, and a report that is pending or being made.

    Notes that take results back, and the notices in place of what was recalled, show no finding:
    nothing is made again for them, least of all what was recalled.
    """
    pending = exists().where(
        t.outbox.c.job_id == t.job.c.job_id,
        t.outbox.c.state == OutboxState.PENDING,
        ~is_note(),
    )
    in_work = and_(t.job.c.stage == Stage.SCREEN, t.job.c.claimed_at.is_not(None))
    statement = (
        select(t.study.c.study_id, t.study.c.study_instance_uid)
        .select_from(t.study.join(t.job, t.job.c.study_id == t.study.c.study_id))
        .where(or_(pending, in_work), t.job.c.cause != RECALLED)
        .distinct()
        .order_by(t.study.c.study_id)
    )
    studies = connection.execute(statement).all()
    return [s.study_instance_uid for s in studies if screenable(connection, s.study_id)]
