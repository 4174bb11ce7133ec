"""`prescreen backup` of a running node, and `prescreen restore` onto an empty data directory.

The database is copied first, the files after it. A row is written only once its file is durable,
so every row of the copy has its file on the disk by then, and will have it in the backup; what
comes while files are copied is extra, and `restore` takes it in as `doctor --repair` does. The
other way round the copy of the database could name files that were not copied. (What retention
removes in between has a row that `restore` finds without a file: it was over anyway.)

A folder may be used again: files never change, so only new ones are copied, and what the node has
forgotten since is removed from it, patients who were erased among them. Forgotten is what the
database says is over: of a file that the disk lost, or cut short, the backup may have the only
whole copy. So it may of everything, where the node began anew: its audit log must go on from the
one in the folder.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Mapping, Set
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prescreen import __version__, doctor, housekeeping, mending, supervisor
from prescreen.errors import StoreError
from prescreen.settings import Settings
from prescreen.store import audit, recovery
from prescreen.store.database import REVISION, open_database, reading
from prescreen.store.guard import Guard
from prescreen.store.owner import hand_over
from prescreen.store.queue import utc_now
from prescreen.store.results import read_told
from prescreen.store.salvage import Facts
from prescreen.store.spool import make_durable

#: What is copied beside the database: the spool, and the weights that were chosen.
_FOLDERS = ("spool/received", "spool/results", "spool/quarantine", "weights")
_NOTE = "backup.json"


@dataclass(frozen=True)
class Backup:
    """What a backup holds: the last audit event in it, files in all, bytes copied this time.

    `only_here` are files that the data directory should have and has not.
    """

    folder: Path
    event_id: int
    files: int
    copied: int
    only_here: int


def make(settings: Settings, folder: Path) -> Backup:
    """Copy a node's state into `folder` while it runs; whole and durable on return.

    Killed in between, the backup that was there before stays usable. Raises StoreError where the
    folder or the data directory cannot be used.
    """
    folder = folder.absolute()
    data_dir = settings.data_dir.absolute()
    if folder == data_dir or data_dir in folder.parents or folder in data_dir.parents:
        raise StoreError(f"{folder}: a backup lies outside the data directory; choose another")
    if not (data_dir / doctor.DATABASE).is_file():
        raise StoreError(f"{data_dir / doctor.DATABASE}: is not there; correct data_dir")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Guard(folder, "backup"):
            made = _copied(data_dir, folder)
    except OSError as error:
        text = f"{folder}: {error.strerror}; choose a folder this user may write, with room"
        raise StoreError(text) from error
    engine = open_database(data_dir / doctor.DATABASE)
    detail = {"event_id": made.event_id, "files": made.files, "copied": made.copied}
    audit.record(engine, "backup.made", detail)
    engine.dispose()
    housekeeping.note_backup(data_dir, folder, utc_now())
    hand_over(data_dir)
    return made


def _copied(data_dir: Path, folder: Path) -> Backup:
    _require_same_log(data_dir, folder)
    part = folder / f"{doctor.DATABASE}.part"
    copy_database(data_dir / doctor.DATABASE, part)
    files, copied = _copy_files(data_dir, folder, _kept(data_dir)[0])
    engine = open_database(part)
    head = audit.checkpoint(engine)
    engine.dispose()
    _leave_one_file(part)
    make_durable(part)
    part.replace(folder / doctor.DATABASE)
    only_here = _forget(data_dir, folder)
    _note(folder, head, files)
    return Backup(folder, head.event_id, files, copied, only_here)


def _require_same_log(data_dir: Path, folder: Path) -> None:
    """StoreError where the folder holds a backup of another node, or of this one's former life."""
    if not (folder / _NOTE).exists():
        return
    note = _read_note(folder)
    point = audit.Checkpoint(int(note["event_id"]), str(note["hash"]))
    engine = open_database(data_dir / doctor.DATABASE)
    try:
        holds = audit.holds(engine, point)
    finally:
        engine.dispose()
    if not holds:
        text = f"{folder}: holds a backup that ends with audit event {point.event_id}"
        raise StoreError(f"{text}, which this node does not have: keep it, and choose another")


def _kept(data_dir: Path) -> tuple[Mapping[str, str], Set[str]]:
    """What is not over: relative path -> SHA-256 of files as received; results folders."""
    engine = open_database(data_dir / doctor.DATABASE)
    try:
        with reading(engine) as connection:
            return recovery.kept(connection), recovery.results_kept(connection)
    finally:
        engine.dispose()


def copy_database(source: Path, target: Path) -> None:
    """A consistent copy of a database that others write to meanwhile (SQLite's backup API)."""
    target.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(target)) as there:
            here.backup(there)
            if (said := there.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise StoreError(f"{source}: is damaged ({said}); run `prescreen doctor`")
    except sqlite3.Error as error:
        raise StoreError(f"{source} to {target}: {error}; run `prescreen doctor`") from error
    target.chmod(0o640)


def _leave_one_file(path: Path) -> None:
    """Let the file alone be the database: no log of writes, and nothing of what was deleted."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; see the room on its disk, its permissions") from error


def _copy_files(data_dir: Path, folder: Path, received: Mapping[str, str]) -> tuple[int, int]:
    """Copy what is not there yet; files in all, bytes copied.

    What is there in another size gives way to what is whole. `received`: SHA-256 by relative path.
    """
    files = copied = 0
    touched = {folder}
    for source in _files(data_dir):
        relative = source.relative_to(data_dir)
        target = folder / relative
        try:
            if not target.exists() or (
                target.stat().st_size != source.stat().st_size
                and _is_whole(source, received.get(relative.as_posix()))
            ):
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                copied += _copy(source, target)
                touched.add(target.parent)
            files += 1
        except FileNotFoundError:  # its retention ended, or a patient was erased, just now
            continue
    for parent in touched:
        make_durable(parent)
    return files, copied


def _is_whole(source: Path, sha256: str | None) -> bool:
    """Whether a file of the spool is what was written, as far as anything tells."""
    if source.parent.parent.name == "results":
        try:
            sha256 = read_told(source.parent).sha256.get(source.name)
        except StoreError:
            return False
    return sha256 is None or doctor.what_is_wrong(source, sha256) is None


def _files(data_dir: Path) -> list[Path]:
    found = (path for name in _FOLDERS for path in (data_dir / name).rglob("*"))
    return sorted(path for path in found if path.is_file() and not path.name.endswith(".tmp"))


def _copy(source: Path, target: Path) -> int:
    part = target.with_name(f".{target.name}.tmp")
    shutil.copy2(source, part)  # with its time: it says when the file came
    make_durable(part)
    part.replace(target)
    return target.stat().st_size


def _forget(data_dir: Path, folder: Path) -> int:
    """Remove copies of what is over; how many there are of what is not, and is gone."""
    files, results = _kept(data_dir)
    only_here = 0
    for copy in _files(folder):
        relative = copy.relative_to(folder)
        if (data_dir / relative).exists():
            continue
        if relative.as_posix() in files or relative.parent.as_posix() in results:
            only_here += 1
        else:
            copy.unlink()
    return only_here


def _note(folder: Path, head: audit.Checkpoint, files: int) -> None:
    note = {
        "prescreen": __version__,
        "schema": REVISION,
        "at": utc_now().isoformat(),
        "event_id": head.event_id,
        "hash": head.hash,
        "files": files,
    }
    part = folder / f".{_NOTE}.tmp"
    part.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    make_durable(part)
    part.replace(folder / _NOTE)
    make_durable(folder)


def restore(settings: Settings, folder: Path) -> mending.Mended:
    """Bring a backup back onto a data directory that has no database; then account for its files.

    Everything is on hold afterwards: what was held or silenced since the backup, it does not know.
    Raises StoreError where a node runs on the directory or its database is still there.
    """
    data_dir, folder = settings.data_dir.absolute(), folder.absolute()
    note = _read_note(folder)
    doctor.free_to_repair(settings)
    if (data_dir / doctor.DATABASE).exists():
        text = f"{data_dir / doctor.DATABASE}: is there; nothing is written over a node"
        raise StoreError(f"{text}. Move the data directory away first, or run `prescreen doctor`")
    done = mending.Mended()
    try:
        data_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        with ExitStack() as stack:
            for role in ("serve", *supervisor.ROLES):
                stack.enter_context(Guard(data_dir, role))
            stack.callback(hand_over, data_dir)
            _bring_back(folder, data_dir, note)
            mending.account(settings, Facts(), done)
            done.say(mending.HELD)
    except OSError as error:
        raise StoreError(f"{data_dir}: {error.strerror}; see its room and permissions") from error
    return done


def _bring_back(folder: Path, data_dir: Path, note: dict[str, Any]) -> None:
    """Files first and the database last: until it is there, nothing was restored."""
    _copy_files(folder, data_dir, {})
    part = data_dir / f"{doctor.DATABASE}.part"
    copy_database(folder / doctor.DATABASE, part)
    engine = open_database(part)
    verdict = audit.verify(engine, [audit.Checkpoint(int(note["event_id"]), str(note["hash"]))])
    engine.dispose()
    if not verdict.whole:
        raise StoreError(f"{folder}: audit event {verdict.first_altered}: {verdict.problem}")
    mending.hold_everything(part)
    _leave_one_file(part)
    make_durable(part)
    part.replace(data_dir / doctor.DATABASE)
    make_durable(data_dir)


def _read_note(folder: Path) -> dict[str, Any]:
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        return {"event_id": note["event_id"], "hash": note["hash"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{folder}: is no whole backup ({type(error).__name__}: {_NOTE})"
        raise StoreError(f"{text}; give the folder that `prescreen backup` wrote") from error
