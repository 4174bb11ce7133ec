"""What can still be read of a damaged database, table by table, without trusting its indexes.

A table that reads to its end is whole. Where all are, the copy is as good as the original and
nothing is lost; else only facts with names of their own are taken (who sent a file, what a peer
has, the audit chain as far as it holds), and the work itself is made again from the spool.
"""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prescreen.errors import StoreError
from prescreen.store import audit
from prescreen.store import schema as t

_ORDER = [table.name for table in t.metadata.sorted_tables]


@dataclass(frozen=True)
class Facts:
    """Facts by names that a new database has as well; each as far as it could be read."""

    #: relative path -> calling AE title, address, when it came
    senders: dict[str, tuple[str, str, datetime.datetime]] = field(default_factory=dict)
    #: (SOP Instance UID, destination) -> state of delivery
    deliveries: dict[tuple[str, str], str] = field(default_factory=dict)
    destinations: list[dict[str, Any]] = field(default_factory=list)
    held_findings: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    phi: dict[int, dict[str, Any]] = field(default_factory=dict)


def copy_whole(damaged: Path, fresh: Path) -> list[str]:
    """Copy every table of a damaged database into a fresh one; the tables that do not read whole.

    Nothing is copied unless the list is empty. `fresh` has the newest schema.
    """
    broken = []
    with closing(_open(damaged)) as source, closing(sqlite3.connect(fresh)) as target:
        target.execute("PRAGMA foreign_keys = OFF")
        for name in _ORDER:
            try:
                _copy_table(source, target, name)
            except sqlite3.Error:
                broken.append(name)
        if not broken and target.execute("PRAGMA foreign_key_check").fetchone() is not None:
            broken.append("foreign keys")
        (target.rollback if broken else target.commit)()
    return broken


def _copy_table(source: sqlite3.Connection, target: sqlite3.Connection, name: str) -> None:
    columns = ", ".join(f'"{column}"' for column in _columns(source, name))
    if not columns:
        raise sqlite3.DatabaseError(f"{name} is not there")
    rows = source.execute(f'SELECT {columns} FROM "{name}" NOT INDEXED').fetchall()
    marks = ", ".join("?" * (columns.count(",") + 1))
    target.executemany(f'INSERT INTO "{name}" ({columns}) VALUES ({marks})', rows)


def _columns(source: sqlite3.Connection, name: str) -> list[str]:
    """The columns of a table that both schemas have."""
    there = {row[1] for row in source.execute(f'PRAGMA table_info("{name}")')}
    return [column.name for column in t.metadata.tables[name].columns if column.name in there]


def facts(damaged: Path) -> Facts:
    """Whatever of the facts can be read; never an error."""
    found = Facts()
    try:
        source = _open(damaged)
    except (sqlite3.Error, StoreError):
        return found
    with closing(source):
        for row in _rows(source, "instance"):
            came = datetime.datetime.fromisoformat(row["received_at"])
            found.senders[row["path"]] = (row["calling_ae_title"], row["peer_address"], came)
        uids = {row["object_id"]: row["sop_instance_uid"] for row in _rows(source, "result_object")}
        for row in _rows(source, "outbox"):
            if row["object_id"] in uids:
                found.deliveries[uids[row["object_id"]], row["destination"]] = row["state"]
        found.destinations.extend(_rows(source, "destination"))
        found.held_findings.extend(_rows(source, "finding_hold"))
        found.events.extend(_rows(source, "event", order="event_id"))
        found.phi.update({row["event_id"]: row for row in _rows(source, "event_phi")})
    return found


def _rows(source: sqlite3.Connection, name: str, order: str = "") -> Iterator[dict[str, Any]]:
    """Rows of a table until it does not read any further."""
    try:
        names = _columns(source, name)
        columns = ", ".join(f'"{column}"' for column in names)
        ordered = f" ORDER BY {order}" if order else ""
        for row in source.execute(f'SELECT {columns} FROM "{name}" NOT INDEXED{ordered}'):
            yield dict(zip(names, row, strict=True))
    except (sqlite3.Error, ValueError):
        return


def _open(path: Path) -> sqlite3.Connection:
    """The database as its files stand, the log of writes included; it is not changed."""
    if not path.is_file():
        raise StoreError(f"{path}: is not there")
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)


def continue_chain(fresh: Path, found: Facts) -> int:
    """Take the events that follow on those of a fresh database, as far as the chain holds.

    Returns the number of the last one.
    """
    with closing(sqlite3.connect(fresh)) as target:
        row = target.execute("SELECT value FROM meta WHERE key = 'audit.head'").fetchone()
        number, digest = (str(row[0]) if row else f"0 {audit.GENESIS}").split(" ")
        head = audit.Checkpoint(int(number), digest)
        for event in found.events:
            if event["event_id"] <= head.event_id:
                continue
            phi = found.phi.get(event["event_id"])
            if not audit.follows(head, event) or (event["phi_digest"] and phi is None):
                break
            _insert(target, "event", event)
            if phi is not None:
                _insert(target, "event_phi", phi)
            head = audit.Checkpoint(event["event_id"], event["hash"])
        target.execute("DELETE FROM meta WHERE key = 'audit.head'")
        _insert(target, "meta", {"key": "audit.head", "value": f"{head.event_id} {head.hash}"})
        target.commit()
    return head.event_id


def take_switches(fresh: Path, found: Facts) -> None:
    """Take over which destinations were open or held and which findings on hold."""
    with closing(sqlite3.connect(fresh)) as target:
        for name, rows in (
            ("destination", found.destinations),
            ("finding_hold", found.held_findings),
        ):
            for row in rows:
                _insert(target, name, row)
        target.commit()


def _insert(target: sqlite3.Connection, name: str, row: dict[str, Any]) -> None:
    columns = ", ".join(f'"{column}"' for column in row)
    marks = ", ".join("?" * len(row))
    target.execute(
        f'INSERT OR REPLACE INTO "{name}" ({columns}) VALUES ({marks})', list(row.values())
    )
