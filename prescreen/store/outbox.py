"""Every change of state of every outbox row: one object on its way to one destination.

A row is attempted when it is claimed, and only its holder may settle it. A destination on hold
gets nothing handed out; nor does a report that was made before one of its findings went on hold.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    Row,
    and_,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from prescreen.errors import LeaseLost, NotThere, StoreError
from prescreen.store import audit, disputes, overtaken, stages
from prescreen.store import schema as t
from prescreen.store.database import data_dir, reading, writing
from prescreen.store.prepared import Prepared
from prescreen.store.queue import utc_now
from prescreen.store.withdrawal import RECALLED, give_up, is_note, let_go, pass_over
from prescreen.study import Delivery, OutboxState, Stage

_KEYS = (
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "accession_number",
)

#: The name under which all destinations are held at once.
ALL = "*"


@dataclass(frozen=True)
class Unparked:
    """What became of parked rows: how many are due, and by study the job that overtook the rest."""

    due: int
    overtaken: Mapping[str, int]


class Outbox:
    """The outbox of one database; see `Queue` for `clock`, `crash` and errors."""

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime.datetime] = utc_now,
        crash: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._crash = crash
        self._results = data_dir(engine) / "spool" / "results"

    def is_due(self, destination: str) -> bool:
        """Whether a row of a destination may be due: cheaper to ask than to claim."""
        with reading(self._engine) as connection:
            terms = {"to": destination, "now": self._clock()}
            return _DUE.scalar(connection, terms) is not None

    def claim(self, destination: str, lease: float, limit: int = 1) -> list[Delivery]:
        """Up to `limit` due rows of a destination, leased for `lease` seconds, attempt counted.

        Higher priority first, then in the order in which they were written.
        """
        with writing(self._engine) as connection:
            now = self._clock()
            ids = _claim(connection, destination, now, lease, limit)
            rows = connection.execute(_CLAIMED, {"ids": ids}).all() if ids else []
        return [self._delivery(row) for row in rows]

    def _delivery(self, row: Row[Any]) -> Delivery:
        return Delivery(
            outbox_id=row.outbox_id,
            job_id=row.job_id,
            destination=row.destination,
            kind=row.kind,
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            path=self._results / str(row.job_id) / row.file_name,
            attempt=row.attempts,
            lease_token=row.lease_token,
            fallback_sop_instance_uid=row.fallback_sop_instance_uid,
            uses_fallback=row.uses_fallback,
            study_instance_uid=row.study_instance_uid,
            refused_since=row.refused_since,
            created_at=row.created_at,
        )

    def renew(self, delivery: Delivery, lease: float) -> None:
        """Hold the row for another `lease` seconds from now; LeaseLost if it is not ours."""
        with writing(self._engine) as connection:
            until = self._clock() + datetime.timedelta(seconds=lease)
            _change(connection, delivery, {"lease_until": until})

    def delivered(self, delivery: Delivery, status: int, prove: bool = False) -> None:
        """The peer has it: success or a warning `status`. Raises LeaseLost.

        With `prove` it is asked from now on whether it keeps it; see `Commitments`.
        """
        now = self._clock()
        values = {"state": OutboxState.DELIVERED, "delivered_at": now, "error": None}
        values |= {"commit_due_at": now if prove else None, "commit_asks": 0}
        self._settle(delivery, "object.delivered", values, status, now)
        self._crash("deliver.settled")

    def park(self, delivery: Delivery, error: str, status: int | None = None) -> None:
        """Set the row aside for a person, who sees `error`. Raises LeaseLost."""
        values = {"state": OutboxState.PARKED, "error": error}
        self._settle(delivery, "object.parked", values, status, self._clock())

    def _settle(
        self,
        delivery: Delivery,
        kind: str,
        values: Mapping[str, Any],
        status: int | None,
        now: datetime.datetime,
    ) -> None:
        with writing(self._engine) as connection:
            settled = {**values, "status": status, "settled_at": now, **_FREE}
            _change(connection, delivery, settled)
            _append(connection, kind, delivery, now, {"status": status})
            _advance(connection, delivery.job_id, delivery.study_instance_uid, now)

    def retry(
        self,
        delivery: Delivery,
        delay: float,
        error: str,
        status: int | None = None,
        refused: bool = False,
    ) -> None:
        """Put the row back, due in `delay` seconds. Raises LeaseLost.

        A `status` says that the peer refused, as does `refused` where there is none: the first
        time is kept as `refused_since`.
        """
        with writing(self._engine) as connection:
            now = self._clock()
            values = {"due_at": now + datetime.timedelta(seconds=delay), "error": error, **_FREE}
            if status is not None or refused:
                since = func.coalesce(t.outbox.c.refused_since, t.instant_text(now))
                values |= {"status": status, "refused_since": since}
            _change(connection, delivery, values)
            _append(connection, "object.retried", delivery, now, {"status": status, "delay": delay})

    def hand_back(self, delivery: Delivery, delay: float = 0.0) -> None:
        """Put a row back that was never sent: the attempt does not count. Raises LeaseLost."""
        with writing(self._engine) as connection:
            due_at = self._clock() + datetime.timedelta(seconds=delay)
            values = {"attempts": t.outbox.c.attempts - 1, "due_at": due_at, **_FREE}
            _change(connection, delivery, values)

    def use_fallback(self, delivery: Delivery) -> Delivery:
        """Decide for good, before it is sent, that the destination gets the fallback object.

        Raises StoreError where the object has none, LeaseLost where the row is not ours.
        """
        if delivery.fallback_sop_instance_uid is None:
            raise StoreError(f"outbox row {delivery.outbox_id}: its object has no fallback")
        with writing(self._engine) as connection:
            _change(connection, delivery, {"uses_fallback": True})
            detail = {"fallback_sop_instance_uid": delivery.fallback_sop_instance_uid}
            _append(connection, "object.fallback_chosen", delivery, self._clock(), detail)
        return replace(delivery, uses_fallback=True)

    def may_send(self, delivery: Delivery) -> bool:
        """Whether the row is still ours and nothing it needs has gone on hold since its claim."""
        terms = {"to": delivery.destination, **_whose(delivery)}
        with reading(self._engine) as connection:
            return _MAY_SEND.scalar(connection, terms) is not None

    def let_go_overtaken(self, delivery: Delivery) -> bool:
        """Cancel the row if its study may be another's since it was written; whether it may.

        What was in hand when that happened was not withdrawn; its report is made again. So is what
        waited so long that a later report was delivered. What takes results back stays.
        """
        if delivery.kind == "rejection":
            return False
        terms = {"uid": delivery.study_instance_uid, "the_id": delivery.outbox_id}
        with reading(self._engine) as connection:
            later = overtaken.overtaken_on_its_way(connection, delivery.outbox_id)
            if later is None and overtaken.SINCE_WRITTEN.scalar(connection, terms) is None:
                return False
        with writing(self._engine) as connection:
            let_go(connection, delivery, self._clock(), alone=True, later_job_id=later)
        return True

    def identity(self, study_instance_uid: str) -> dict[str, str]:
        """Patient and order of a study as the node knows them now; empty where it does not."""
        joined = t.study.join(t.identity, t.study.c.identity_id == t.identity.c.identity_id)
        columns = [t.identity.c[name] for name in _KEYS]
        statement = select(*columns).select_from(joined)
        with reading(self._engine) as connection:
            row = connection.execute(
                statement.where(t.study.c.study_instance_uid == study_instance_uid)
            ).one_or_none()
        return dict.fromkeys(_KEYS, "") if row is None else dict(row._mapping)

    def due_now(self, destination: str) -> int:
        """Make the rows due that waited for a peer that is back; how many.

        What the peer refused waits on: that it answers now is no news to those.
        """
        waiting = and_(
            t.outbox.c.destination == destination,
            t.outbox.c.state == OutboxState.PENDING,
            t.outbox.c.lease_until.is_(None),
            t.outbox.c.refused_since.is_(None),
        )
        with writing(self._engine) as connection:
            now = self._clock()
            late = and_(waiting, t.outbox.c.due_at > now)
            return connection.execute(update(t.outbox).where(late).values(due_at=now)).rowcount

    def unpark(
        self,
        who: str,
        why: str,
        *,
        outbox_id: int | None = None,
        job_id: int | None = None,
        destination: str | None = None,
    ) -> Unparked:
        """Send parked rows again, those of a number, a job or a destination.

        Not those whose patient is disputed. Those that a later report overtook are cancelled: they
        would arrive after it. Raises NotThere where none of them is parked.
        """
        chosen = {"outbox_id": outbox_id, "job_id": job_id, "destination": destination}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        with writing(self._engine) as connection:
            now = self._clock()
            told = {"who": who, "why": why}
            later = _pass_over_overtaken(connection, chosen, told, now)
            rows = _unpark(connection, chosen, now)
            if not rows and not later:
                which = " and ".join(f"{name} {value}" for name, value in chosen.items())
                text = f"nothing is parked{' for ' if which else ''}{which}; see `prescreen status`"
                raise NotThere(text)
            for row in rows:
                _unparked(connection, row, told, now)
            return Unparked(len(rows), later)

    def give_up(
        self,
        who: str,
        why: str,
        *,
        outbox_id: int | None = None,
        destination: str | None = None,
        is_gone: bool = False,
    ) -> int:
        """Cancel what is parked, of a number or a destination; how many rows.

        Of a destination that `is_gone` also what waits for it, which nobody sends, and what its
        peer was still to be asked about. Raises NotThere where nothing is.
        """
        chosen = {"outbox_id": outbox_id} if destination is None else {"destination": destination}
        states = [OutboxState.PARKED, *([OutboxState.PENDING] if is_gone else [])]
        with writing(self._engine) as connection:
            now = self._clock()
            number = give_up(connection, chosen, states, {"who": who, "why": why}, now)
            asked = 0
            if is_gone:
                due = (t.outbox.c.destination == destination, t.outbox.c.commit_due_at.is_not(None))
                forget = update(t.outbox).where(*due).values(commit_due_at=None)
                asked = connection.execute(forget).rowcount
            if not number and not asked:
                raise NotThere("nothing of that is parked; see `prescreen status`")
            return number


_FREE: dict[str, Any] = {"lease_token": None, "lease_until": None}


#: Parameters of the statements below.
_TO: BindParameter[str] = bindparam("to")
_NOW, _AHEAD = bindparam("now", type_=t.Instant), bindparam("ahead", type_=t.Instant)
_ID: BindParameter[int] = bindparam("the_id")
_TOKEN: BindParameter[str] = bindparam("the_token")


def _claimable(held: ColumnElement[bool]) -> ColumnElement[bool]:
    """Pending, due, free or its lease run out (see `Queue`), and nothing it needs on hold."""
    row = t.outbox.c
    free = or_(row.lease_until.is_(None), row.lease_until <= _NOW, row.lease_until > _AHEAD)
    here = and_(row.destination == _TO, row.state == OutboxState.PENDING)
    return and_(here, row.due_at <= _NOW, free, ~held, ~_finding_held())


def _held() -> ColumnElement[bool]:
    name = t.destination.c.name
    return exists().where(or_(name == _TO, name == ALL), t.destination.c.held)


def _finding_held() -> ColumnElement[bool]:
    """A finding is on hold that was not yet when the row's job was claimed.

    Notes that take results back, and the notices in place of what was recalled, show none.
    """
    quoted = literal('"').concat(t.finding_hold.c.label).concat('"')
    known = t.job.c.held_findings.contains(quoted)
    shows = t.job.c.cause != RECALLED
    return and_(exists().where(t.job.c.job_id == t.outbox.c.job_id, shows, ~known), ~is_note())


def _claim_statement(claimable: ColumnElement[bool]) -> Any:
    row = t.outbox.c
    order = (row.priority.desc(), row.outbox_id)
    due = select(row.outbox_id).where(claimable).order_by(*order).limit(bindparam("number"))
    return (
        update(t.outbox)
        .where(row.outbox_id.in_(due.scalar_subquery()))
        .values(
            attempts=row.attempts + 1,
            lease_token=bindparam("token"),
            lease_until=bindparam("until", type_=t.Instant),
        )
        .returning(row.outbox_id)
    )


def _claim(
    connection: Connection,
    destination: str,
    now: datetime.datetime,
    lease: float,
    limit: int,
) -> list[int]:
    lasts = datetime.timedelta(seconds=lease)
    terms = {
        "to": destination,
        "now": now,
        "ahead": now + 2 * lasts,
        "number": limit,
        "token": uuid.uuid4().hex,
        "until": now + lasts,
    }
    return _CLAIM.scalars(connection, terms)


def _delivery_rows() -> Any:
    item = t.result_object.c
    columns = (
        *t.outbox.c,
        item.kind,
        item.sop_class_uid,
        item.sop_instance_uid,
        item.fallback_sop_instance_uid,
        item.file_name,
        t.study.c.study_instance_uid,
    )
    order = (t.outbox.c.priority.desc(), t.outbox.c.outbox_id)
    chosen = t.outbox.c.outbox_id.in_(bindparam("ids", expanding=True))
    return select(*columns).select_from(t.outbox_of_studies()).where(chosen).order_by(*order)


def _change(connection: Connection, delivery: Delivery, values: Mapping[str, Any]) -> None:
    if _CHANGE.run(connection, {**values, **_whose(delivery)}) != 1:
        raise LeaseLost(f"outbox row {delivery.outbox_id}: someone else owns it now")


def _whose(delivery: Delivery) -> dict[str, Any]:
    return {"the_id": delivery.outbox_id, "the_token": delivery.lease_token}


def _ours() -> ColumnElement[bool]:
    return and_(
        t.outbox.c.outbox_id == _ID,
        t.outbox.c.lease_token == _TOKEN,
        t.outbox.c.state == OutboxState.PENDING,
    )


def _append(
    connection: Connection,
    kind: str,
    delivery: Delivery,
    now: datetime.datetime,
    detail: Mapping[str, Any],
) -> None:
    facts = {
        "outbox_id": delivery.outbox_id,
        "destination": delivery.destination,
        "attempt": delivery.attempt,
        **detail,
    }
    audit.append(
        connection,
        kind,
        now,
        study_instance_uid=delivery.study_instance_uid,
        sop_instance_uid=delivery.sop_instance_uid,
        job_id=delivery.job_id,
        detail={key: value for key, value in facts.items() if value is not None},
    )


_CLAIM = Prepared(_claim_statement(_claimable(_held())))
_CLAIMED = _delivery_rows()
_DUE = Prepared(
    select(t.outbox.c.outbox_id)
    .where(
        t.outbox.c.destination == _TO,
        t.outbox.c.state == OutboxState.PENDING,
        t.outbox.c.due_at <= _NOW,
    )
    .limit(1)
)
_CHANGE = Prepared(update(t.outbox).where(_ours()))
_MAY_SEND = Prepared(select(t.outbox.c.outbox_id).where(_ours(), ~_held(), ~_finding_held()))


def _advance(
    connection: Connection, job_id: int, study_instance_uid: str, now: datetime.datetime
) -> None:
    """The job of a row that was settled: while another row is pending it stays where it is."""
    stage = stages.next_stage(connection, job_id)
    if stage is Stage.DONE:
        stages.advance(connection, job_id, study_instance_uid, stage, now)


def _parked(chosen: Mapping[str, Any]) -> ColumnElement[bool]:
    row = t.outbox.c
    same = [row[name] == value for name, value in chosen.items()]
    undisputed = row.error.is_distinct_from(disputes.WORDS)
    return and_(row.state == OutboxState.PARKED, undisputed, *same)


def _pass_over_overtaken(
    connection: Connection,
    chosen: Mapping[str, Any],
    told: Mapping[str, str],
    now: datetime.datetime,
) -> dict[str, int]:
    """Cancel those parked rows that a later report overtook; its job, by study."""
    columns = (t.outbox.c.outbox_id, t.study.c.study_instance_uid)
    parked = select(*columns).select_from(t.outbox_of_studies()).where(_parked(chosen))
    found: dict[str, int] = {}
    for outbox_id, uid in connection.execute(parked).all():
        later = overtaken.later_report(connection, outbox_id)
        if later is not None:
            pass_over(connection, outbox_id, uid, later, told, now)
            found[uid] = max(later, found.get(uid, 0))
    return found


def _unpark(
    connection: Connection, chosen: Mapping[str, Any], now: datetime.datetime
) -> list[Row[Any]]:
    row = t.outbox.c
    statement = (
        update(t.outbox)
        .where(_parked(chosen))
        .values(state=OutboxState.PENDING, due_at=now, settled_at=None, refused_since=None)
        .returning(row.outbox_id, row.job_id, row.destination)
    )
    return list(connection.execute(statement).all())


def _unparked(
    connection: Connection, row: Row[Any], detail: Mapping[str, Any], now: datetime.datetime
) -> None:
    joined = t.job.join(t.study, t.job.c.study_id == t.study.c.study_id)
    uid = connection.scalar(
        select(t.study.c.study_instance_uid).select_from(joined).where(t.job.c.job_id == row.job_id)
    )
    facts = {"outbox_id": row.outbox_id, "destination": row.destination, **detail}
    audit.append(
        connection,
        "object.unparked",
        now,
        study_instance_uid=uid,
        job_id=row.job_id,
        detail=facts,
    )
    stages.advance(connection, row.job_id, str(uid), Stage.DELIVER, now)
