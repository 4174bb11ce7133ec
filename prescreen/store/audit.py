"""The audit trail: events in a hash chain, appended in the transaction of what they tell.

The hash of an event is the SHA-256 of the hash before it, a line feed and the event's canonical
JSON: id, instant, kind, UIDs, job, detail and the digest of its patient data. Patient data itself
stands in `event_phi` with a random salt; erasing it leaves the chain whole, because the chain
holds the salted digest alone. The newest id and hash also stand in `meta`, so that a tail cut off
shows; against somebody who mends that too, keep a `checkpoint` where he cannot write.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    String,
    select,
    type_coerce,
    update,
)

from prescreen.errors import StoreError
from prescreen.store import schema as t
from prescreen.store.database import reading, writing
from prescreen.store.prepared import Prepared, inserting
from prescreen.study import Event

GENESIS = "0" * 64
_NAMES = tuple(column.name for column in t.event.columns)
_HEAD = "audit.head"
_READ_HEAD = Prepared(select(t.meta.c.value).where(t.meta.c.key == _HEAD))
_MOVE_HEAD = Prepared(update(t.meta).where(t.meta.c.key == _HEAD))
_KIND = re.compile(r"[a-z]+(?:_[a-z]+)*\.[a-z]+(?:_[a-z]+)*")
#: Keys that would put patient data into the chain, where it could never be erased.
_FORBIDDEN = frozenset(
    {
        "patient_id",
        "issuer_of_patient_id",
        "patient_name",
        "patient_birth_date",
        "accession_number",
        "issuer_of_accession_number",
        "study_date",
    }
)


@dataclass(frozen=True)
class Checkpoint:
    """A place in the chain to be remembered elsewhere: the newest event and its hash (hex)."""

    event_id: int
    hash: str


@dataclass(frozen=True)
class Verdict:
    """What `verify` found: how many events hold, and the first that does not."""

    events: int
    first_altered: int | None = None
    problem: str | None = None

    @property
    def whole(self) -> bool:
        return self.problem is None


def append(
    connection: Connection,
    kind: str,
    at: datetime.datetime,
    *,
    study_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    job_id: int | None = None,
    detail: Mapping[str, Any] | None = None,
    phi: Mapping[str, str] | None = None,
) -> int:
    """Append one event to the chain in the caller's transaction; returns its id.

    `kind` is noun.verb-past in lower case. `detail` holds codes and numbers; patient data goes
    into `phi`. Raises ValueError for a malformed kind or patient data in the detail.
    """
    if not _KIND.fullmatch(kind):
        raise ValueError(f"event kind {kind!r} is not of the form noun.verb")
    head = _head(connection)
    row: dict[str, Any] = {
        "event_id": head.event_id + 1,
        "at": at,
        "kind": kind,
        "study_instance_uid": study_instance_uid,
        "sop_instance_uid": sop_instance_uid,
        "job_id": job_id,
        "detail": _canonical(_clean(detail or {})),
        "phi_digest": None,
    }
    aside = _set_aside(row, phi)
    row["hash"] = _hash(head.hash, row)
    inserting(t.event).run(connection, row)
    if aside is not None:
        inserting(t.event_phi).run(connection, aside)
    _move_head(connection, Checkpoint(row["event_id"], row["hash"]))
    return int(row["event_id"])


def record(
    engine: Engine,
    kind: str,
    detail: Mapping[str, Any] | None = None,
    clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
) -> int:
    """Append one event that no other change of state goes with, durably; returns its id."""
    with writing(engine) as connection:
        return append(connection, kind, clock(), detail=detail)


def _set_aside(row: dict[str, Any], phi: Mapping[str, str] | None) -> dict[str, Any] | None:
    if not phi:
        return None
    salt, content = secrets.token_hex(16), _canonical(phi)
    row["phi_digest"] = _salted(salt, content)
    return {"event_id": row["event_id"], "salt": salt, "content": content}


def _salted(salt: str, content: str) -> str:
    return hashlib.sha256(f"{salt}\n{content}".encode()).hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _clean(detail: Mapping[str, Any]) -> Mapping[str, Any]:
    for key, value in detail.items():
        if key in _FORBIDDEN:
            raise ValueError(f"{key} is patient data and stays out of the audit chain")
        if isinstance(value, Mapping):
            _clean(value)
    return detail


def _hash(previous: str, row: Mapping[Any, Any]) -> str:
    content = {key: row[key] for key in _NAMES if key != "hash"}
    if isinstance(row["at"], datetime.datetime):
        content["at"] = t.instant_text(row["at"])
    return hashlib.sha256(f"{previous}\n{_canonical(content)}".encode()).hexdigest()


def follows(head: Checkpoint, row: Mapping[str, Any]) -> bool:
    """Whether an event, as stored, is the one that was written after `head`."""
    return bool(row["event_id"] == head.event_id + 1 and _hash(head.hash, row) == row["hash"])


def _head(connection: Connection) -> Checkpoint:
    value = _READ_HEAD.scalar(connection)
    if value is None:
        inserting(t.meta).run(connection, {"key": _HEAD, "value": f"0 {GENESIS}"})
        return Checkpoint(0, GENESIS)
    event_id, digest = str(value).split(" ")
    return Checkpoint(int(event_id), digest)


def _move_head(connection: Connection, head: Checkpoint) -> None:
    _MOVE_HEAD.run(connection, {"value": f"{head.event_id} {head.hash}"})


def checkpoint(engine: Engine) -> Checkpoint:
    """The newest event and its hash, to be kept where the database's owner cannot write."""
    with reading(engine) as connection:
        value = _READ_HEAD.scalar(connection)
    event_id, digest = str(value or f"0 {GENESIS}").split(" ")
    return Checkpoint(int(event_id), digest)


def holds(engine: Engine, point: Checkpoint) -> bool:
    """Whether the chain has a place that is remembered elsewhere; the empty one every chain has."""
    if point.event_id == 0:
        return True
    digest = select(t.event.c.hash).where(t.event.c.event_id == point.event_id)
    with reading(engine) as connection:
        return connection.scalar(digest) == point.hash


def verify(engine: Engine, checkpoints: Iterable[Checkpoint] = ()) -> Verdict:
    """Recompute the chain and name the first event that was altered, removed or moved.

    `checkpoints` are places remembered elsewhere: with them a chain that was cut off or written
    anew as a whole shows too.
    """
    remembered = {point.event_id: point.hash for point in checkpoints}
    with reading(engine) as connection:
        erased = _erased_studies(connection)
        last, digest = 0, GENESIS
        for row in connection.execute(_with_phi()).yield_per(1_000):
            problem = _problem(row, last, digest, erased, remembered)
            if problem is not None:
                return Verdict(last, *problem)
            last, digest = row.event_id, row.hash
        head = _READ_HEAD.scalar(connection)
    return _tail(last, digest, str(head or f"0 {GENESIS}"), remembered)


def _with_phi() -> Select[Any]:
    """Events as stored: `at` stays text, because what was altered may be no instant."""
    joined = t.event.outerjoin(t.event_phi, t.event.c.event_id == t.event_phi.c.event_id)
    stored = [column for column in t.event.columns if column.name != "at"]
    at = type_coerce(t.event.c.at, String).label("at")
    columns = (*stored, at, t.event_phi.c.salt, t.event_phi.c.content)
    return select(*columns).select_from(joined).order_by(t.event.c.event_id)


def _problem(
    row: Row[Any], last: int, digest: str, erased: set[str], remembered: Mapping[int, str]
) -> tuple[int, str] | None:
    if row.event_id != last + 1:
        missing = last + 1
        return missing, f"event {missing} is missing: the next one is {row.event_id}"
    if _hash_of_stored(digest, row) != row.hash:
        return row.event_id, f"event {row.event_id} is not what was written"
    if remembered.get(row.event_id, row.hash) != row.hash:
        return row.event_id, f"event {row.event_id} differs from its checkpoint"
    if row.phi_digest is not None and not _phi_holds(row, erased):
        return row.event_id, f"the patient data of event {row.event_id} are not what was written"
    return None


def _hash_of_stored(digest: str, row: Row[Any]) -> str | None:
    """The hash a stored row should have; None where its values are of no kind we write."""
    try:
        return _hash(digest, row._mapping)
    except (ValueError, TypeError, AttributeError):
        return None


def _phi_holds(row: Row[Any], erased: set[str]) -> bool:
    if row.content is None:
        return row.study_instance_uid in erased
    return bool(_salted(row.salt, row.content) == row.phi_digest)


def _erased_studies(connection: Connection) -> set[str]:
    statement = select(t.event.c.study_instance_uid).where(t.event.c.kind == "study.erased")
    return {uid for uid in connection.scalars(statement) if uid is not None}


def _tail(last: int, digest: str, head: str, remembered: Mapping[int, str]) -> Verdict:
    expected = max(int(head.partition(" ")[0]), *remembered, 0)
    if last < expected:
        return Verdict(last, last + 1, f"events {last + 1} to {expected} were cut off")
    if head != f"{last} {digest}":
        return Verdict(last, last, f"event {last} is not the newest that was written")
    return Verdict(last)


def events(
    engine: Engine,
    *,
    after: int = 0,
    limit: int | None = None,
    study_instance_uid: str | None = None,
    job_id: int | None = None,
    kind: str | None = None,
) -> tuple[Event, ...]:
    """Events with an id above `after`, oldest first, narrowed down as asked."""
    columns = t.event.c
    statement = select(t.event).where(columns.event_id > after).order_by(columns.event_id)
    if study_instance_uid is not None:
        statement = statement.where(columns.study_instance_uid == study_instance_uid)
    if job_id is not None:
        statement = statement.where(columns.job_id == job_id)
    if kind is not None:
        statement = statement.where(columns.kind == kind)
    with reading(engine) as connection:
        return tuple(_event(row) for row in connection.execute(statement.limit(limit)))


def _event(row: Row[Any]) -> Event:
    return Event(
        event_id=row.event_id,
        at=row.at,
        kind=row.kind,
        detail=json.loads(row.detail),
        study_instance_uid=row.study_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        job_id=row.job_id,
    )


def export(engine: Engine, form: Literal["json", "csv"], after: int = 0) -> Iterator[str]:
    """The chain as text without patient data, one line an event: JSON lines, or CSV with a head.

    Each line carries hash and phi_digest, so that the export can be verified by itself.
    """
    if form not in ("json", "csv"):
        raise StoreError(f"the audit cannot be exported as {form!r}: json or csv")
    if form == "csv":
        yield _csv_line(_NAMES)
    for page in _pages(engine, after):
        for row in page:
            values = {**row._mapping, "at": t.instant_text(row.at)}
            if form == "csv":
                yield _csv_line([values[name] for name in _NAMES])
            else:
                yield _canonical({**values, "detail": json.loads(row.detail)})


def _pages(engine: Engine, after: int, size: int = 1_000) -> Iterator[list[Row[Any]]]:
    """Pages of events; no transaction stays open while the reader is slow."""
    while True:
        statement = select(t.event).where(t.event.c.event_id > after)
        with reading(engine) as connection:
            ordered = statement.order_by(t.event.c.event_id).limit(size)
            page = list(connection.execute(ordered))
        if not page:
            return
        yield page
        after = page[-1].event_id


def _csv_line(values: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()
