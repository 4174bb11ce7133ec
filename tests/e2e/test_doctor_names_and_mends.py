"""`prescreen doctor` names what is wrong; `--repair` brings back all that was acknowledged.

Each test damages a data directory that holds a delivered study, one that is answered and still to
be sent, and one that is received and still to be screened. In the end the PACS has one copy of
each object that was written, under the UIDs it was written with.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from prescreen import backup, doctor, mending, node
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.settings import load
from prescreen.store import audit, reader
from prescreen.store.destinations import Destinations
from prescreen.store.guard import Guard
from prescreen.store.results import read_told
from tests.e2e.blind import answer, answered, deliver, kept
from tests.e2e.house import UNCLOSED, House, Pacs, chest, house
from tests.e2e.test_results_are_taken_back import note as rejecting
from tests.run_folder import run_folder

pytestmark = pytest.mark.filterwarnings(UNCLOSED)


@dataclass
class Patients:
    """Three studies: with the PACS, on their way, waiting."""

    home: House
    delivered: str
    answered: str
    waiting: str
    written: frozenset[str]  # SOP Instance UIDs of all objects before the damage

    @property
    def data(self) -> Path:
        return self.home.settings.data_dir

    @property
    def database(self) -> Path:
        return self.data / "prescreen.db"

    def codes(self) -> set[str]:
        return {complaint.code for complaint in doctor.look(self.home.settings)}

    def repair(self, copy: Path | None = None) -> list[str]:
        self.home.close()
        return mending.repair(self.home.settings, copy).said

    def finish(self) -> None:
        """Release, answer what waits and deliver everything."""
        store = self.home.store()
        Destinations(store.engine).go_live("pacs", "test", "a new database knows nobody")
        Destinations(store.engine).release(None, "test", "looked at")
        answer(self.home)
        deliver(self.home)

    def one_copy_each(self) -> None:
        """Every object written before arrived in one content; one report more for the third."""
        copies = self.home.pacs.copies
        assert self.written <= set(copies)
        assert all(len(contents) == 1 for contents in copies.values())
        assert len(self.home.pacs.of_class(COMPREHENSIVE_3D_SR)) == 3
        assert audit.verify(self.home.store().engine).whole
        studies = reader.studies(self.home.store().engine)
        assert {row["study_instance_uid"] for row in studies} == {
            self.delivered,
            self.answered,
            self.waiting,
        }
        assert all(row["outcome"] == "not_screened" for row in studies)


@dataclass(frozen=True)
class Made:
    """The data directory to copy, what the PACS has by then, and the three studies."""

    data: Path
    pacs: Pacs
    studies: tuple[str, str, str]
    written: frozenset[str]


@functools.cache
def _made() -> Made:
    """Made once: answers and their captures take their time."""
    folder = run_folder()
    with house(folder) as home:
        first = answered(home, chest(folder))
        deliver(home)
        studies = first, answered(home, chest(folder)), kept(home, chest(folder))
        folders = doctor.results_folders(home.settings.data_dir)
        written = {item.sop_instance_uid for f in folders for item in read_told(f).objects}
    return Made(folder / "data", home.pacs, studies, frozenset(written))


@contextmanager
def patients(folder: Path) -> Iterator[Patients]:
    made = _made()
    with house(folder, live=False) as home:
        home.pacs.received.extend(made.pacs.received)
        shutil.copytree(made.data, home.settings.data_dir)
        _grow_old(home.settings.data_dir)
        yield Patients(home, *made.studies, made.written)


def _grow_old(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, times=(time.time() - 600, time.time() - 600))


def test_nothing_wrong_is_said_of_a_whole_directory(tmp_path: Path) -> None:
    with patients(tmp_path) as them:
        assert doctor.look(them.home.settings) == []
        result = them.home.command("doctor")
        assert (result.returncode, "nothing wrong" in result.stdout) == (0, True)
        them.repair()
        them.finish()
        them.one_copy_each()


def _deleted(them: Patients) -> None:
    them.database.unlink()


def _bad_page(them: Patients) -> None:
    """A page of the table of jobs is noise."""
    with closing(sqlite3.connect(them.database)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name='job'").fetchone()
    with them.database.open("r+b") as file:
        file.seek((page[0] - 1) * 4096)
        file.write(os.urandom(4096))


def _no_header(them: Patients) -> None:
    with them.database.open("r+b") as file:
        file.write(bytes(4096))


def _cut_in_half(them: Patients) -> None:
    os.truncate(them.database, them.database.stat().st_size // 2)


def _bad_index(them: Patients) -> None:
    with closing(sqlite3.connect(them.database)) as connection:
        found = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_event_kind'"
        page = connection.execute(found).fetchone()
    with them.database.open("r+b") as file:
        file.seek((page[0] - 1) * 4096)
        file.write(os.urandom(4096))


DAMAGE: list[tuple[Callable[[Patients], None], str]] = [
    (_deleted, "database_missing"),
    (_bad_page, "database_damaged"),
    (_no_header, "database_damaged"),
    (_cut_in_half, "database_damaged"),
]


@pytest.mark.parametrize(("damage", "code"), DAMAGE)
@pytest.mark.parametrize("with_backup", [False, True])
def test_f8_a_database_that_is_gone_is_made_again(
    tmp_path: Path, damage: Callable[[Patients], None], code: str, with_backup: bool
) -> None:
    with patients(tmp_path) as them:
        if with_backup:
            backup.make(them.home.settings, tmp_path / "backup")
        damage(them)
        assert them.codes() == {code}
        said = " ".join(them.repair())
        assert "on hold" in said
        assert ("backup" in said) == with_backup or "no backup" in said
        assert them.codes() == set()
        assert len(list(them.data.glob("prescreen.db.damaged-*"))) >= (damage is not _deleted)
        if not with_backup and damage in (_deleted, _no_header):
            # what no file tells: who was live when; nobody knows, and nothing goes out unasked
            assert not [s for s in them.home.store().outbox.claim("pacs", 5)]
        them.finish()
        them.one_copy_each()


@pytest.mark.parametrize("is_left", [False, True])
def test_f8_no_node_starts_beside_files_that_a_new_database_would_not_know(
    tmp_path: Path, is_left: bool
) -> None:
    with patients(tmp_path) as them:
        them.home.close()
        them.database.unlink()
        if is_left:
            them.database.touch()
        for command in (("serve",), ("status",)):
            said = them.home.command(*command)
            assert said.returncode == 3, said.stderr
            assert "the spool has files and there is no prescreen.db" in said.stderr
        assert them.codes() == {"database_missing"}
        them.repair()
        them.finish()
        them.one_copy_each()


def test_f8_a_broken_index_costs_nothing(tmp_path: Path) -> None:
    with patients(tmp_path) as them:
        before = _events(them)
        _bad_index(them)
        assert them.codes() == {"database_damaged"}
        said = them.repair()
        assert any("copied whole" in line for line in said)
        assert not any("on hold" in line for line in said)
        assert _events(them)[: len(before)] == before
        answer(them.home)
        deliver(them.home)
        them.one_copy_each()


def _events(them: Patients) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(them.database)) as connection:
        query = "SELECT event_id, hash FROM event NOT INDEXED ORDER BY event_id"
        return connection.execute(query).fetchall()


def test_f8_a_truncated_log_of_writes_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """The state of a killed node: the log of writes holds all; half of it is cut off."""
    with patients(tmp_path) as them:
        copy = tmp_path / "killed"
        engine = them.home.store().engine
        with closing(sqlite3.connect(them.database)) as held:  # a reader keeps the log alive
            held.execute("BEGIN").execute("SELECT count(*) FROM event").fetchone()
            fourth = answered(them.home, chest(tmp_path))
            point = audit.checkpoint(engine)
            shutil.copytree(them.data, copy)
        line = {"at": "2026-01-01", "event_id": point.event_id, "hash": point.hash}
        (copy / "checkpoints.jsonl").write_text(json.dumps(line) + "\n")
        wal = copy / "prescreen.db-wal"
        os.truncate(wal, wal.stat().st_size // 2 + 7)
        (copy / "prescreen.db-shm").unlink()
        _grow_old(copy)
        settings = them.home.settings.model_copy(update={"data_dir": copy})
        codes = {complaint.code for complaint in doctor.look(settings)}
        assert {"log_of_writes_torn", "audit_cut"} <= codes
        assert codes & {"results_without_rows", "file_without_row"}
        assert any("on hold" in line for line in mending.repair(settings).said)
        assert doctor.look(settings) == []
        with closing(sqlite3.connect(copy / "prescreen.db")) as connection:
            query = "SELECT count(*) FROM v_instance WHERE study_instance_uid = ?"
            assert connection.execute(query, (fourth,)).fetchone() == (1,)


def test_f8_a_file_that_is_missing_is_taken_from_the_backup(tmp_path: Path) -> None:
    with patients(tmp_path) as them:
        backup.make(them.home.settings, tmp_path / "backup")
        files = sorted(doctor.received_files(them.data))
        files[0].unlink()
        _flip_a_bit(files[1])
        (folder,) = list(doctor.results_folders(them.data))[1:]
        _flip_a_bit(folder / "evaluation-report.dcm")
        assert them.codes() == {"file_missing", "file_damaged", "result_damaged"}
        them.repair()
        assert them.codes() == set()
        them.finish()
        them.one_copy_each()


def test_f8_a_file_no_backup_has_is_kept_when_it_comes_again(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        path = chest(tmp_path)
        study = kept(home, path)
        (file,) = doctor.received_files(home.settings.data_dir)
        file.unlink()
        assert {c.code for c in doctor.look(home.settings)} == {"file_missing"}
        kept(home, path)
        assert doctor.look(home.settings) == []
        (file,) = doctor.received_files(home.settings.data_dir)
        assert file.stat().st_size == path.stat().st_size
        kinds = [event.kind for event in reader.show(home.store().engine, study).events]
        assert "instance.lost" in kinds


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o640)
    path.write_bytes(content)


def test_f8_a_flipped_bit_is_never_screened(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        study = kept(home, chest(tmp_path))
        (file,) = doctor.received_files(home.settings.data_dir)
        _flip_a_bit(file)
        answer(home)
        (instance,) = reader.show(home.store().engine, study).instances
        assert (instance["outcome"], instance["reason"]) == ("not_screened", "file_damaged")


def test_f8_a_damaged_result_is_parked_and_never_sent(tmp_path: Path) -> None:
    with patients(tmp_path) as them:
        (folder,) = list(doctor.results_folders(them.data))[1:]
        _flip_a_bit(folder / "evaluation-report.dcm")
        deliver(them.home)
        rows = reader.show(them.home.store().engine, them.answered).deliveries
        assert sorted(row["state"] for row in rows) == ["delivered", "parked"]
        (error,) = (row["error"] for row in rows if row["state"] == "parked")
        assert "is not what was written; see `prescreen doctor`" in error


def test_f8_a_rejection_note_is_obeyed_again_by_a_new_database(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        path = chest(tmp_path)
        study = answered(home, path)
        kept(home, rejecting(path, "113037"))
        home.close()
        _grow_old(home.settings.data_dir)
        (home.settings.data_dir / "prescreen.db").unlink()
        mending.repair(home.settings)
        assert doctor.look(home.settings) == []
        store = home.store()
        Destinations(store.engine).go_live("pacs", "test", "test")
        Destinations(store.engine).release(None, "test", "looked at")
        answer(home)
        deliver(home)
        assert home.pacs.of_study(study, COMPREHENSIVE_3D_SR) == []


def test_the_doctor_says_what_it_found_as_json(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        kept(home, chest(tmp_path))
        for file in doctor.received_files(home.settings.data_dir):
            file.unlink()
        result = home.command("doctor", "--json")
        assert result.returncode == 1
        told = json.loads(result.stdout)
        assert [complaint["code"] for complaint in told["complaints"]] == ["file_missing"]
        with Guard(home.settings.data_dir, "screen"):
            result = home.command("doctor", "--repair")
        assert result.returncode == 3
        assert "screen is running on it; stop the node first" in result.stderr


def test_a_data_directory_is_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    node.open_store(load(data_dir="däta dir")).engine.dispose()
    assert doctor.look(load(data_dir="däta dir")) == []
    Path("däta dir", "prescreen.db").write_bytes(b"no database")
    assert "made again" in " ".join(mending.repair(load(data_dir="däta dir")).said)


#: As nobody where the tests run as root, who may read and write everything.
_AS_NOBODY = """
import os, sys
from prescreen import checks, doctor, mending, node
from prescreen.errors import StoreError
from prescreen.settings import load
settings = load(data_dir=sys.argv[1])
node.open_store(settings).engine.dispose()
path = settings.data_dir / "prescreen.db"
other = load(data_dir=sys.argv[2])
checks.run(other, None), mending.repair(other)  # all that is imported on the way
if os.getuid() == 0:
    for folder in (settings.data_dir, *settings.data_dir.rglob("*")):
        os.chown(folder, 65534, 65534)
    os.setuid(65534)
for mode in (0o400, 0o000):
    path.chmod(mode)
    print([complaint.code for complaint in doctor.look(settings)])
    print("store" in [check.what for check in checks.run(settings, None) if not check.ok])
    try:
        mending.repair(settings)
    except StoreError as error:
        print(str(error).partition(": ")[2])
print(sorted(found.name for found in settings.data_dir.glob("prescreen.db.*")))
"""


def test_a_database_that_may_not_be_written_is_not_called_damaged(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.name.startswith(("popen-", "pytest-")):
            folder.chmod(0o755)
    folders = [tmp_path / "data", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, "-c", _AS_NOBODY, *map(str, folders)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    words = "this user may not read and write it; it belongs to whom the node runs as"
    each = ["['folder']", "True", words]
    assert told.stdout.splitlines() == [*each, *each, "[]"], told.stderr


def test_leftovers_folders_and_a_clock_that_was_ahead_are_named(tmp_path: Path) -> None:
    with patients(tmp_path) as them:
        draft = them.data / "spool" / "draft" / "7-x"
        draft.mkdir()
        os.utime(draft, times=(0, 0))
        with closing(sqlite3.connect(them.database)) as connection:
            connection.execute("UPDATE outbox SET due_at = '2999-01-01T00:00:00.000000Z'")
            connection.commit()
        assert them.codes() == {"leftover", "put_off"}
        them.repair()
        assert them.codes() == set()
        them.finish()
        them.one_copy_each()
        home = them.home
        broken = home.settings.model_copy(update={"data_dir": tmp_path / "nowhere"})
        assert [c.code for c in doctor.look(broken)] == ["folder"]


def test_f11_what_a_newer_version_wrote_is_not_touched(tmp_path: Path) -> None:
    with patients(tmp_path) as them:
        with closing(sqlite3.connect(them.database)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
            connection.commit()
        assert them.codes() == {"database_newer"}
        result = them.home.command("doctor", "--repair")
        assert result.returncode == 3
        assert "newer prescreen" in result.stderr


def _pending_folder(them: Patients) -> Path:
    (number,) = {
        row["job_id"]
        for row in reader.show(them.home.store().engine, them.answered).deliveries
        if row["state"] == "pending"
    }
    return them.data / "spool" / "results" / str(number)


def test_a_results_folder_that_was_renamed_goes_back_and_the_rest_is_mended(
    tmp_path: Path,
) -> None:
    with patients(tmp_path) as them:
        folder = _pending_folder(them)
        folder.rename(folder.with_name("999"))
        assert "results_missing" in them.codes()
        said = "\n".join(them.repair())
        assert f"results/999: are those of job {folder.name}" in said
        assert folder.is_dir()
        assert them.codes() == set()
        them.finish()
        them.one_copy_each()


def test_a_copy_of_a_results_folder_is_named_and_keeps_nothing_from_being_mended(
    tmp_path: Path,
) -> None:
    with patients(tmp_path) as them:
        folder = _pending_folder(them)
        shutil.copytree(folder, folder.with_name("999"))
        (orphan,) = list(doctor.received_files(them.data))[:1]
        shutil.copy(orphan, orphan.with_name(f"{'a' * 32}.dcm"))
        _grow_old(them.data)
        said = "\n".join(them.repair())
        assert f"results/999: has objects of results/{folder.name}; look at it" in said
        assert "taken in:" in said
        them.finish()
        them.one_copy_each()
