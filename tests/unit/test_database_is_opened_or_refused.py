"""Opening: an empty database becomes the newest, a foreign or newer one is refused by name."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from prescreen.errors import OutOfResources, StoreError
from prescreen.store import database
from prescreen.store.database import integrity, reading, writing
from prescreen.store.schema import metadata, open_database

VIEWS = ("v_study", "v_instance", "v_finding", "v_delivery", "v_event")


def test_new_database_is_durable_and_has_every_table_and_view(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "prescreen.db")
    with reading(engine) as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
        for view in VIEWS:
            assert connection.exec_driver_sql(f"SELECT * FROM {view}").all() == []
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
    assert pragmas == ["wal", 2, 1, 5000]
    assert integrity(engine) is None
    engine.dispose()


def test_revision_is_that_of_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    assert script.get_current_head() == database.REVISION
    known = {revision.revision for revision in script.walk_revisions()} | {None}
    assert known == set(database.KNOWN_REVISIONS)


def _made_by_an_earlier_version(path: Path, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


@pytest.mark.parametrize("revision", [r for r in database.KNOWN_REVISIONS[:-1] if r is not None])
def test_database_of_an_earlier_revision_is_brought_up_to_date(
    tmp_path: Path, revision: str
) -> None:
    path = tmp_path / "prescreen.db"
    _made_by_an_earlier_version(path, revision)
    engine = open_database(path)
    with reading(engine) as reader:
        assert reader.exec_driver_sql("SELECT * FROM v_study").all() == []
    engine.dispose()


def test_findings_of_an_earlier_revision_are_kept_and_may_lack_numbers_now(tmp_path: Path) -> None:
    path = tmp_path / "prescreen.db"
    _made_by_an_earlier_version(path, "0003")
    insert = "INSERT INTO finding VALUES (7, ?, ?, ?, ?, 'not_evaluated', NULL)"
    with sqlite3.connect(path) as connection:
        columns = "(result_id, job_id, instance_id, outcome)"
        connection.execute(f"INSERT INTO result {columns} VALUES (7, 1, 1, 'screened')")
        connection.execute(insert, ("Mass", 0.5, 0.25, 0.125))
    connection.close()
    open_database(path).dispose()
    with sqlite3.connect(path) as connection:
        connection.execute(insert, ("Hernia", None, None, None))
        rows = connection.execute("SELECT * FROM finding ORDER BY label DESC").fetchall()
        left = connection.execute("SELECT count(*) FROM v_finding").fetchall()
    connection.close()
    assert rows[0][:5] == (7, "Mass", 0.5, 0.25, 0.125) and rows[1][2:5] == (None, None, None)
    assert left == [(0,)]  # of no job: the view is there and answers


def test_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prescreen.db"
    open_database(path).dispose()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match="newer prescreen"):
        open_database(path)


def test_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prescreen.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    connection.close()
    with pytest.raises(StoreError, match="database of something else"):
        open_database(path)


def test_file_that_is_no_database_and_missing_folder_are_named(tmp_path: Path) -> None:
    path = tmp_path / "prescreen.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=re.escape(str(path))):
        open_database(path)
    with pytest.raises(StoreError, match="create the data directory"):
        open_database(tmp_path / "missing" / "prescreen.db")


def test_locked_database_refuses_an_instance_and_may_be_tried_again(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "prescreen.db", busy_timeout=0.05)
    other = sqlite3.connect(tmp_path / "prescreen.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutOfResources), writing(engine, refuses=True):
        pass
    with pytest.raises(StoreError, match="locked") as caught, writing(engine):
        pass
    assert caught.value.retryable
    other.execute("ROLLBACK")
    other.close()
    with writing(engine):
        pass
    engine.dispose()


def test_full_database_refuses_an_instance(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "prescreen.db")
    with pytest.raises(OutOfResources, match="full"), writing(engine, refuses=True) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        big = "INSERT INTO meta (key, value) VALUES ('x', hex(zeroblob(100000)))"
        connection.exec_driver_sql(big)
    engine.dispose()


def test_errors_hold_no_patient_data(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "prescreen.db")
    with pytest.raises(StoreError) as caught, writing(engine) as connection:
        connection.execute(metadata.tables["meta"].insert(), {"key": "CANARY", "value": None})
    assert "CANARY" not in f"{caught.value} {caught.value.__cause__}"
    engine.dispose()


def test_damaged_database_is_diagnosed(tmp_path: Path) -> None:
    path = tmp_path / "prescreen.db"
    open_database(path).dispose()
    content = bytearray(path.read_bytes())
    content[-4096 * 3 : -4096] = b"\xff" * (4096 * 2)
    path.write_bytes(content)
    engine = open_database(path)
    assert integrity(engine) is not None
    engine.dispose()


def test_opening_an_existing_database_imports_no_alembic(tmp_path: Path) -> None:
    open_database(tmp_path / "prescreen.db").dispose()
    program = (
        "import sys, pathlib; from prescreen.store.schema import open_database; "
        "open_database(pathlib.Path(sys.argv[1])).dispose(); "
        "sys.exit('alembic' in sys.modules)"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "prescreen.db")]
    assert subprocess.run(argv, timeout=60, check=False).returncode == 0
