"""`prescreen doctor --repair`: what the spool knows is brought back into the database.

The order of trust: the database itself as far as it reads, the last backup of it, then the files.
Nothing acknowledged is given up: each file as received and each results folder is durable before
its sender, or the PACS, hears of it. What is unknown afterwards (whether a peer has an object) is
done again under the same UIDs. Where switches may have been lost, everything is put on hold.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import Connection, Engine

from prescreen import doctor, housekeeping, pipeline, supervisor
from prescreen.dicom.image import identify
from prescreen.errors import PrescreenError, Refusal, StoreError
from prescreen.settings import Settings
from prescreen.store import audit, recovery, rejections, salvage
from prescreen.store.arrival import Arrival, arrive
from prescreen.store.database import open_database, reading, writing
from prescreen.store.destinations import Destinations
from prescreen.store.guard import Guard
from prescreen.store.intake import Kept
from prescreen.store.owner import hand_over
from prescreen.store.queue import utc_now
from prescreen.store.results import Told
from prescreen.store.salvage import Facts
from prescreen.store.spool import Spool, make_durable
from prescreen.study import Disposition, Identity, Incoming, Priority, Rejection

WHO = "prescreen doctor"
HELD = "everything is on hold: look at `prescreen status`, then `prescreen release --why …`"


@dataclass
class Mended:
    """What a repair did, in sentences, and how much of it."""

    said: list[str] = field(default_factory=list)
    files: int = 0
    results: int = 0
    #: rejection notes that were taken in, by when they came
    notes: list[tuple[datetime.datetime, Rejection]] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)


def repair(settings: Settings, backup: Path | None = None) -> Mended:
    """Mend what `doctor.look` names and can be mended; StoreError while a role runs.

    `backup` is a folder that `prescreen backup` wrote; else the last one that is known is used.
    May be killed at any instruction and run again.
    """
    doctor.free_to_repair(settings)
    done = Mended()
    with ExitStack() as stack:
        for role in ("serve", *supervisor.ROLES):
            stack.enter_context(Guard(settings.data_dir, role))
        stack.callback(hand_over, settings.data_dir)
        backup = backup or housekeeping.last_backup(settings.data_dir)
        found = {complaint.code for complaint in doctor.look(settings)}
        facts = _database(settings.data_dir, backup, done)
        if facts is not None or "audit_cut" in found:
            hold_everything(settings.data_dir / doctor.DATABASE)
            _set_checkpoints_aside(settings.data_dir)
            done.say(HELD)
        account(settings, facts or Facts(), done, backup)
    return done


def account(settings: Settings, facts: Facts, done: Mended, backup: Path | None = None) -> None:
    """Account for what lies in the spool; the caller holds every role.

    What is missing or damaged in the spool is taken from `backup`.
    """
    with _opened(settings) as (engine, spool):
        if backup is not None:
            _files_from(backup, settings.data_dir, engine, done)
        reconcile(engine, spool, settings, facts, done)
        if swept := spool.sweep(lambda path: True, min_age=0).unfinished:
            done.say(f"removed {swept} unfinished files and drafts")


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Engine, Spool]]:
    """Spool and database, for a while."""
    spool = Spool(settings.data_dir)
    engine = open_database(settings.data_dir / doctor.DATABASE)
    try:
        yield engine, spool
    finally:
        engine.dispose()


# --- the database ----------------------------------------------------------------------------


def _database(data_dir: Path, backup: Path | None, done: Mended) -> Facts | None:
    """Put a usable database in place; None where the rows of the old one are all there.

    Else the facts that could be read of the old one: the new one has those that have a place.
    """
    trouble = doctor.database_trouble(data_dir)
    if trouble is None:
        return None
    if trouble.code not in ("database_missing", "database_damaged"):
        raise StoreError(trouble.said)
    path, fresh = data_dir / doctor.DATABASE, data_dir / f"{doctor.DATABASE}.new"
    for tail in ("", "-wal", "-shm"):  # what a repair that was killed left
        fresh.with_name(fresh.name + tail).unlink(missing_ok=True)
    open_database(fresh).dispose()
    if trouble.code == "database_damaged" and not _copied(path, fresh):
        facts: Facts | None = None
        done.say("every table could be read: the database is copied whole")
    else:
        facts = salvage.facts(path)
        _found(fresh, backup, facts, done)
    _put_in_place(path, fresh)
    done.say(f"{path}: made again; the old one lies beside it as {path.name}.damaged-…")
    return facts


def _copied(path: Path, fresh: Path) -> list[str]:
    try:
        return salvage.copy_whole(path, fresh)
    except StoreError as error:
        return [str(error)]


def _found(fresh: Path, backup: Path | None, facts: Facts, done: Mended) -> None:
    """A new database on the last backup, or on nothing, with what is known besides."""
    if backup is not None and (copy := backup / doctor.DATABASE).is_file():
        fresh.unlink()
        shutil.copyfile(copy, fresh)
        open_database(fresh).dispose()
        done.say(f"the database of the backup {backup} is the base")
    else:
        salvage.take_switches(fresh, facts)
        done.say("there is no backup: the database is made from the spool alone")
    last = salvage.continue_chain(fresh, facts)
    hold_everything(fresh)
    done.say(f"the audit chain goes on from event {last}")


def _put_in_place(path: Path, fresh: Path) -> None:
    """Set the damaged files aside and rename the new one into place.

    The old log of writes goes before the new database comes: it must never be applied to it.
    """
    make_durable(fresh)
    aside = f"{path.name}.damaged-{utc_now():%Y%m%dT%H%M%S%f}"
    for tail in ("", "-wal", "-shm"):
        old = path.with_name(path.name + tail)
        if old.exists():
            os.link(old, path.with_name(aside + tail))
    for tail in ("-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    fresh.replace(path)
    make_durable(path.parent)


def hold_everything(database: Path) -> None:
    """Stop sending until a person has looked: a hold or a silence may have been lost."""
    engine = open_database(database)
    Destinations(engine).hold(None, WHO, "the database was made again or restored")
    engine.dispose()


def _set_checkpoints_aside(data_dir: Path) -> None:
    """Those of the chain as it was name what is lost; new ones begin a new file."""
    path = data_dir / housekeeping.CHECKPOINTS
    if path.exists():
        path.rename(path.with_name(f"{path.stem}-before-{utc_now():%Y%m%dT%H%M%S%f}.jsonl"))


# --- the spool -------------------------------------------------------------------------------


def _files_from(backup: Path, data_dir: Path, engine: Engine, done: Mended) -> None:
    """Take from the backup what is missing or damaged in the spool: files never change there."""
    with reading(engine) as connection:
        wanted = recovery.kept(connection)
    for path, sha256 in wanted.items():
        if doctor.what_is_wrong(data_dir / path, sha256) is None:
            continue
        if doctor.what_is_wrong(backup / path, sha256) is None:
            _take(backup / path, data_dir / path)
            done.say(f"{path}: taken from the backup")
    told, _ = doctor.manifests(backup)
    for number, of_folder in told.items():
        _results_from(backup, data_dir, number, of_folder, engine, done)


def _results_from(
    backup: Path, data_dir: Path, number: int, told: Told, engine: Engine, done: Mended
) -> None:
    folder = Path("spool", "results", str(number))
    if not (data_dir / folder).exists():
        if _wants(engine, number):
            shutil.copytree(backup / folder, data_dir / folder)
            done.say(f"{folder}: taken from the backup")
        return
    for name, sha256 in told.sha256.items():
        is_damaged = doctor.what_is_wrong(data_dir / folder / name, sha256) is not None
        if is_damaged and doctor.what_is_wrong(backup / folder / name, sha256) is None:
            _take(backup / folder / name, data_dir / folder / name)
            done.say(f"{folder / name}: taken from the backup")


def _wants(engine: Engine, number: int) -> bool:
    with reading(engine) as connection:
        return number in recovery.results_gone(connection, set())


def _take(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, part)
    make_durable(part)
    part.replace(target)
    make_durable(target.parent)


def reconcile(engine: Engine, spool: Spool, settings: Settings, facts: Facts, done: Mended) -> None:
    """Account for everything that lies in the spool, in one transaction; sentences go to `done`."""
    told = _folders(settings.data_dir, done)
    lying = doctor.received_files(spool.data_dir)
    files = {file.relative_to(spool.data_dir).as_posix(): file for file in lying}
    removable: list[Path] = []
    with writing(engine) as connection:
        now = utc_now()
        lacking = recovery.unaccounted(connection, files, told)
        for path in lacking.files:
            _adopt(connection, files[path], path, settings, facts, done, removable)
        numbers: set[int] = set()
        for number in lacking.results:
            if not _has_rows_elsewhere(connection, told[number], spool, done):
                told[number] = _restore(connection, told[number], settings, spool, done)
                numbers.add(told[number].job_id)
        recovery.cancel(connection, recovery.unseen(told) & numbers, now)
        recovery.mark(connection, facts.deliveries, now)
        for _, note in sorted(done.notes, key=lambda note: note[0]):
            rejections.reject(connection, note, now)
        _lost(connection, spool.data_dir, done, now)
        waiting = recovery.open_waiting(connection, now)
        late = recovery.make_due(connection, now + doctor.FAR, now)
        detail = {"files": done.files, "results": done.results, "to_screen": waiting}
        audit.append(connection, "database.reconciled", now, detail=detail)
    for file in removable:
        spool.remove(file)
    _summed_up(done, waiting, late)


def _summed_up(done: Mended, waiting: int, late: int) -> None:
    done.say(f"taken in: {done.files} files, {done.results} results folders")
    if waiting:
        done.say(f"{waiting} images are to be screened")
    if late:
        done.say(f"{late} jobs and deliveries that waited for a wrong clock are due")


def _folders(data_dir: Path, done: Mended) -> dict[int, Told]:
    told, unreadable = doctor.manifests(data_dir)
    for folder in unreadable:
        done.say(f"{folder}: its manifest cannot be read; look at it")
    return {number: replace(of, job_id=number) for number, of in told.items()}


def _adopt(
    connection: Connection,
    file: Path,
    path: str,
    settings: Settings,
    facts: Facts,
    done: Mended,
    removable: list[Path],
) -> None:
    """A row for a file that has none."""
    part10 = file.read_bytes()
    try:
        identity = identify(part10)
    except Refusal as error:
        done.say(f"{file}: {error}; look at it")
        return
    now = utc_now()
    scope = settings.scope.calling_ae_titles
    # a sender that nobody remembers is taken as one whose studies are screened
    unknown = (scope[0] if scope else "", "", _modified(file))
    sender, address, came = facts.senders.get(path, unknown)
    reason = pipeline.not_for_screening(identity)
    kept = Kept(file, hashlib.sha256(part10).hexdigest(), len(part10))
    incoming = Incoming(
        identity.sop_class_uid,
        identity.sop_instance_uid,
        identity.transfer_syntax_uid,
        part10,
        sender,
        "",
        address,
    )
    priority = pipeline.PRIORITIES.get(identity.requested_priority, Priority.ROUTINE)
    note = pipeline.rejection_of(identity, incoming, settings.screen)
    if note is not None and not settings.receive.may_reject(sender):
        note, reason = None, pipeline.MAY_NOT_REJECT
    found = Arrival(identity, kept, path, incoming, 0, 0, reason is None, reason, priority)
    if arrive(connection, found, now, recovered=came) is Disposition.DUPLICATE:
        removable.append(file)
    else:
        done.files += 1
        if note is not None:
            done.notes.append((came, note))


def _modified(file: Path) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC)


def _has_rows_elsewhere(connection: Connection, told: Told, spool: Spool, done: Mended) -> bool:
    """Whether a results folder is another job's, renamed or copied; renamed, it goes back."""
    owner = recovery.owner(connection, told)
    if owner is None:
        return False
    if spool.results(owner) is None:
        spool.renumber(told.job_id, owner)
        done.say(f"results/{told.job_id}: are those of job {owner}, and lie under its number again")
    else:
        done.say(f"results/{told.job_id}: has objects of results/{owner}; look at it")
    return True


def _restore(
    connection: Connection, told: Told, settings: Settings, spool: Spool, done: Mended
) -> Told:
    """Rows for a results folder that has none, under a new number where its own is taken."""
    if not recovery.knows_study(connection, told.study_instance_uid):
        folder = spool.results(told.job_id)
        identity = _identity_in(folder) if folder is not None else None
        if identity is None:
            done.say(f"results/{told.job_id}: no file tells whose study it is; look at it")
            return told
        recovery.add_study(connection, identity, utc_now())
    if recovery.is_taken(connection, told):
        number = max(recovery.last_job(connection), *_numbers(spool.data_dir)) + 1
        spool.renumber(told.job_id, number)
        told = replace(told, job_id=number)
    if told.live is None:
        done.say(f"results/{told.job_id}: does not say who was live; its objects are held")
    recovery.restore(connection, told, settings.destinations, utc_now())
    done.results += 1
    return told


def _numbers(data_dir: Path) -> Iterator[int]:
    return (int(folder.name) for folder in doctor.results_folders(data_dir))


def _identity_in(folder: Path) -> Identity | None:
    """Who the patient is, from the objects we wrote."""
    for file in sorted(folder.glob("*.dcm")):
        try:
            return identify(file.read_bytes())
        except (PrescreenError, OSError):
            continue
    return None


def _lost(connection: Connection, data_dir: Path, done: Mended, now: datetime.datetime) -> None:
    """Files that no backup has: said to be gone, so that they are kept when they come again."""
    for path, sha256 in recovery.kept(connection).items():
        code = doctor.what_is_wrong(data_dir / path, sha256)
        if code is None:
            continue
        if code == "file_damaged":
            _set_aside(data_dir / path)
        recovery.lose(connection, path, now)
        done.say(f"{path}: {code} and in no backup: let the sender send it again")


def _set_aside(path: Path) -> None:
    target = path.parents[2] / "quarantine" / path.name
    target.with_suffix(".reason").write_text("file_damaged\n", encoding="ascii")
    path.rename(target)
