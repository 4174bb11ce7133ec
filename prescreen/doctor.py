"""`prescreen doctor`: what is wrong with a data directory, by name, without changing anything.

It may look while the node runs: what is in work then (a file not a minute old, a draft) is not
called wrong. What it finds is mended by `prescreen.mending`.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from prescreen import housekeeping, supervisor
from prescreen.errors import StoreError
from prescreen.settings import Settings
from prescreen.store import audit, recovery
from prescreen.store.database import KNOWN_REVISIONS, open_database, reading
from prescreen.store.guard import running
from prescreen.store.queue import utc_now
from prescreen.store.results import NAME, Told, read_told

DATABASE = "prescreen.db"
FOLDERS = ("received", "results", "quarantine", "draft")
#: Seconds for which a file without a row may still be on its way into the database.
YOUNG = 60.0
#: What is put off, or leased, for longer than this was so by a clock that was ahead.
FAR = datetime.timedelta(days=1)
#: A clock may be behind the newest event by this much before it is called wrong.
SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong: a code, what it is about, and what `--repair` does about it.

    `repair` is empty where a person must act; the text says how.
    """

    code: str
    said: str
    repair: str = ""


def look(settings: Settings) -> list[Complaint]:
    """Everything that is wrong with the data directory; empty where nothing is."""
    found = list(_folders(settings.data_dir))
    if found:
        return found
    trouble = database_trouble(settings.data_dir)
    found += list(_log_of_writes(settings.data_dir))
    if trouble is not None:
        return [*found, trouble, *_leftovers(settings.data_dir)]
    if not (settings.data_dir / DATABASE).exists():
        return found
    engine = open_database(settings.data_dir / DATABASE)
    try:
        found += list(_chain(engine, settings.data_dir))
        found += list(_files(engine, settings.data_dir))
        found += list(_results(engine, settings.data_dir))
        found += list(_clock(engine))
    finally:
        engine.dispose()
    return [*found, *_leftovers(settings.data_dir)]


def roles_running(settings: Settings) -> list[str]:
    """The roles that run on the data directory now."""
    return running(settings.data_dir, ("serve", *supervisor.ROLES))


# --- folders ---------------------------------------------------------------------------------


def _folders(data_dir: Path) -> Iterator[Complaint]:
    wanted = [data_dir, *(data_dir / "spool" / name for name in FOLDERS)]
    for folder in wanted:
        if folder.exists() and not folder.is_dir():
            yield Complaint("folder", f"{folder}: is a file; move it away")
        elif folder.is_dir() and (why := _unwritable(folder)):
            yield Complaint("folder", f"{folder}: {why}; make it a folder this user may write")
    if not data_dir.exists():
        yield Complaint("folder", f"{data_dir}: is not there; correct data_dir or create it")


def _unwritable(folder: Path) -> str:
    """Why no file can be made there: permissions alone do not tell (read-only mounts, root)."""
    path = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        path.touch(mode=0o640)
        path.unlink()
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


# --- the database ----------------------------------------------------------------------------

_REBUILD = "makes the database again from what can be read of it, the last backup and the spool"


def database_trouble(data_dir: Path) -> Complaint | None:
    """What keeps the database from being used; None where nothing does, or all is new."""
    path = data_dir / DATABASE
    if not path.exists():
        if _spool_has_content(data_dir):
            return Complaint("database_missing", f"{path}: is not there, the spool is", _REBUILD)
        return None
    if not os.access(path, os.R_OK | os.W_OK):
        said = "this user may not read and write it; it belongs to whom the node runs as"
        return Complaint("folder", f"{path}: {said}")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return _examined(connection, path)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return Complaint("database_locked", f"{path}: {error}; stop what holds it")
        return Complaint("database_damaged", f"{path}: {error}", _REBUILD)
    except sqlite3.Error as error:
        return Complaint("database_damaged", f"{path}: {error}", _REBUILD)


def _examined(connection: sqlite3.Connection, path: Path) -> Complaint | None:
    said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        return Complaint("database_damaged", f"{path}: {said}".replace("\n", " "), _REBUILD)
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if not names:
        if _spool_has_content(path.parent):
            return Complaint("database_missing", f"{path}: is empty, the spool is not", _REBUILD)
        return None
    if "alembic_version" not in names:
        said = "is a database of something else; choose another data_dir"
        return Complaint("database_foreign", f"{path}: {said}")
    revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    if revision is None or revision[0] not in KNOWN_REVISIONS:
        said = "was written by a newer prescreen; install that one again, or restore a backup"
        return Complaint("database_newer", f"{path}: {said}")
    wrong = connection.execute("PRAGMA foreign_key_check").fetchone()
    if wrong is not None:
        said = f"a row of {wrong[0]} refers to one of {wrong[2]} that is not there"
        return Complaint("database_damaged", f"{path}: {said}", _REBUILD)
    return None


def _spool_has_content(data_dir: Path) -> bool:
    return any(received_files(data_dir)) or any(results_folders(data_dir))


def _log_of_writes(data_dir: Path) -> Iterator[Complaint]:
    """A write-ahead log that is no whole number of frames ends where something cut it off.

    By itself that loses nothing committed: a process that was killed leaves such a log as well.
    """
    path = data_dir / f"{DATABASE}-wal"
    try:
        with path.open("rb") as file:
            size, head = path.stat().st_size, file.read(12)
    except OSError:
        return
    if size == 0:
        return
    page = int.from_bytes(head[8:12], "big") if len(head) == 12 else 0
    if head[:3] != b"\x37\x7f\x06" or page < 512 or (size - 32) % (page + 24):
        said = "ends inside a frame: it was cut off, or a process was killed while writing"
        repair = "what the database lacks is made again from the spool"
        yield Complaint("log_of_writes_torn", f"{path}: {said}", repair)


# --- the audit chain -------------------------------------------------------------------------


def _chain(engine: Engine, data_dir: Path) -> Iterator[Complaint]:
    try:
        points = housekeeping.read_checkpoints(data_dir / housekeeping.CHECKPOINTS)
    except StoreError as error:
        yield Complaint("checkpoints", f"{error}; move the file away")
        points = []
    alone = audit.verify(engine)
    if not alone.whole:
        said = f"audit event {alone.first_altered}: {alone.problem}"
        yield Complaint("audit_broken", f"{said}; find out who wrote to {DATABASE}")
        return
    newest = max((point.event_id for point in points), default=0)
    if newest > alone.events:
        said = f"the audit ends at event {alone.events}, a checkpoint names event {newest}"
        text = f"{said}: newer rows were lost, or an older copy was put in place"
        yield Complaint("audit_cut", text, "accounts for what is in the spool, and holds sending")
    elif not (verdict := audit.verify(engine, points)).whole:
        yield Complaint("audit_broken", f"audit event {verdict.first_altered}: {verdict.problem}")


# --- files and rows --------------------------------------------------------------------------


def received_files(data_dir: Path) -> Iterator[Path]:
    """Files as received that lie whole in the spool."""
    return (data_dir / "spool" / "received").glob("*/*.dcm")


def results_folders(data_dir: Path) -> Iterator[Path]:
    """The results folders, by number."""
    folders = (data_dir / "spool" / "results").glob("*")
    return iter(sorted((f for f in folders if f.name.isdigit()), key=lambda f: int(f.name)))


def manifests(data_dir: Path) -> tuple[dict[int, Told], list[Path]]:
    """What each results folder says of itself, and the folders whose manifest cannot be read."""
    told, unreadable = {}, []
    for folder in results_folders(data_dir):
        try:
            told[int(folder.name)] = read_told(folder)
        except StoreError:
            unreadable.append(folder)
    return told, unreadable


def _files(engine: Engine, data_dir: Path) -> Iterator[Complaint]:
    with reading(engine) as connection:
        rows, known = recovery.kept(connection), recovery.paths(connection)
    for path, sha256 in rows.items():
        if (code := what_is_wrong(data_dir / path, sha256)) is not None:
            said = "is missing" if code == "file_missing" else "is not what was received"
            repair = "takes it from the last backup, or lets the sender send it again"
            yield Complaint(code, f"{data_dir / path}: {said}", repair)
    for file in received_files(data_dir):
        if file.relative_to(data_dir).as_posix() not in known and _is_old(file):
            yield Complaint("file_without_row", f"{file}: has no row", "takes it into the database")


def what_is_wrong(path: Path, sha256: str) -> str | None:
    """`file_missing` or `file_damaged`, None where the bytes are those of the digest."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "file_missing"
    return None if digest == sha256 else "file_damaged"


def _results(engine: Engine, data_dir: Path) -> Iterator[Complaint]:
    told, unreadable = manifests(data_dir)
    for folder in unreadable:
        if _is_old(folder):
            yield Complaint("results_unreadable", f"{folder / NAME}: cannot be read; look at it")
    with reading(engine) as connection:
        lacking = recovery.unaccounted(connection, (), told).results
        gone = recovery.results_gone(connection, set(told))
    for number in lacking:
        folder = data_dir / "spool" / "results" / str(number)
        if _is_old(folder):
            said = f"{folder}: the database does not know these results"
            yield Complaint("results_without_rows", said, "takes them in under the same UIDs")
    for number in gone:
        said = f"spool/results/{number}: is missing and has objects still to be sent"
        yield Complaint("results_missing", said, "takes it from the last backup")
    for number, of_folder in told.items():
        folder = data_dir / "spool" / "results" / str(number)
        for name, sha256 in of_folder.sha256.items():
            if what_is_wrong(folder / name, sha256) is not None:
                said = f"{folder / name}: is missing or not what was written"
                yield Complaint("result_damaged", said, "takes it from the last backup")


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > YOUNG
    except OSError:
        return False


def _leftovers(data_dir: Path) -> Iterator[Complaint]:
    spool = data_dir / "spool"
    for path in [*(spool / "draft").glob("*"), *(spool / "received").glob("*/.*.tmp")]:
        if time.time() - _modified(path) > 3_600:
            said = "is what a killed process left"
            yield Complaint("leftover", f"{path}: {said}; the node removes it", "removes it")


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


# --- the clock -------------------------------------------------------------------------------


def _clock(engine: Engine) -> Iterator[Complaint]:
    """Time that does not fit: a clock behind its own log, work put off by one that was ahead."""
    now = utc_now()
    with reading(engine) as connection:
        newest = recovery.newest_event(connection)
        late = recovery.put_off(connection, now + FAR)
    if newest is not None and newest > now + SKEW:
        ahead = int((newest - now).total_seconds())
        said = f"the clock is {ahead} s behind the newest audit event"
        yield Complaint("clock", f"{said}; set it right (timedatectl, chrony)")
    if late:
        said = f"{late} jobs or deliveries wait for more than a day: the clock was ahead once"
        yield Complaint("put_off", said, "makes them due")


def free_to_repair(settings: Settings) -> None:
    """StoreError where a role runs: what it works on must not be changed under it."""
    if roles := roles_running(settings):
        text = f"{settings.data_dir}: {', '.join(roles)} is running on it"
        raise StoreError(f"{text}; stop the node first (systemctl stop prescreen)")
