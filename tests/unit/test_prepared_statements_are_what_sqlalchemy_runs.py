"""What is compiled once gives and takes what SQLAlchemy does, in the same transaction."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, bindparam, insert, select, update

from prescreen.errors import OutOfResources, StoreError
from prescreen.store import schema as t
from prescreen.store.database import open_database, reading, writing
from prescreen.store.prepared import Prepared, add, inserting
from prescreen.study import Stage

NOW = datetime.datetime(2026, 1, 31, 9, 15, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
LATER = NOW + datetime.timedelta(hours=1)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(tmp_path / "prescreen.db", busy_timeout=0.1)
    with writing(engine) as connection:
        identity = dict.fromkeys((c.name for c in t.identity.c if not c.primary_key), "")
        identity_id = add(connection, t.identity, {**identity, "erased_at": None})
        row = {"study_instance_uid": "1.2", "identity_id": identity_id, "first_received_at": NOW}
        add(connection, t.study, row)
    yield engine
    engine.dispose()


def job(**values: Any) -> dict[str, Any]:
    row = {"study_id": 1, "stage": Stage.SCREEN, "open": False, "cause": "arrival", "priority": 0}
    return {**row, "opened_at": NOW, "due_at": NOW, "cap_at": LATER, **values}


STATEMENTS = {
    "values given": (select(t.job).where(t.job.c.due_at <= bindparam("now", type_=t.Instant)), NOW),
    "values that stand in it": (select(t.job).where(t.job.c.due_at <= NOW, t.job.c.open), None),
    "lists that stand in it": (select(t.job).where(t.job.c.stage.in_(list(Stage))), None),
    "columns by other names": (select(t.job.c.cap_at.label("end"), t.job.c.open), None),
    "names that come twice": (
        select(t.job.c.job_id, *t.study.c, t.job.c.study_id).join(t.study),
        None,
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_rows_are_those_of_sqlalchemy(engine: Engine, name: str) -> None:
    statement, now = STATEMENTS[name]
    given = {} if now is None else {"now": now}
    with writing(engine) as connection:
        for _ in range(2):
            add(connection, t.job, job())
        add(connection, t.job, job(open=True, due_at=NOW - datetime.timedelta(days=1)))
    with reading(engine) as connection:
        theirs = [tuple(row) for row in connection.execute(statement, given)]
        ours = Prepared(statement)
        assert [tuple(row) for row in ours.all(connection, given)] == theirs
        assert tuple(ours.first(connection, given)) == theirs[0]
        assert ours.scalar(connection, given) == theirs[0][0]
        assert ours.scalars(connection, given) == [row[0] for row in theirs]


def test_columns_are_told_by_name_and_of_their_types(engine: Engine) -> None:
    with writing(engine) as connection:
        job_id = add(connection, t.job, job(open=True, lease_until=None))
        row = Prepared(select(t.job)).first(connection)
    assert (row.job_id, row.stage, row.due_at) == (job_id, "screen", NOW)
    assert row.open is True
    assert row.lease_until is None
    assert row.due_at.tzinfo is datetime.UTC


def test_what_is_written_is_stored_as_sqlalchemy_stores_it(engine: Engine) -> None:
    with writing(engine) as connection:
        inserting(t.job).run(connection, job())
        connection.execute(insert(t.job), job())
    with reading(engine) as connection:
        asked = "SELECT stage, open, opened_at, due_at, cap_at, attempts FROM job"
        ours, theirs = connection.exec_driver_sql(asked).all()
    assert ours == theirs
    assert ours.due_at == "2026-01-31T08:15:00.000000Z"


def test_many_rows_are_inserted_at_once(engine: Engine) -> None:
    with writing(engine) as connection:
        inserting(t.job).add_all(connection, [job(priority=number) for number in range(3)])
        assert Prepared(select(t.job.c.priority)).scalars(connection) == [0, 1, 2]


def test_the_values_tell_which_columns_are_set(engine: Engine) -> None:
    change = Prepared(update(t.job).where(t.job.c.job_id == bindparam("the_job")))
    with writing(engine) as connection:
        job_id = add(connection, t.job, job())
        assert change.run(connection, {"the_job": job_id, "priority": 3}) == 1
        assert change.run(connection, {"the_job": job_id, "due_at": LATER, "open": True}) == 1
        assert change.run(connection, {"the_job": 99, "priority": 3}) == 0
        values = {"the_job": job_id, "attempts": t.job.c.attempts + 2, "cap_at": LATER}
        assert change.run(connection, values) == 1
        row = Prepared(select(t.job)).first(connection)
    assert (row.priority, row.due_at, row.open) == (3, LATER, True)
    assert (row.attempts, row.cap_at) == (2, LATER)


def test_nothing_found_is_none(engine: Engine) -> None:
    with reading(engine) as connection:
        nothing = Prepared(select(t.job))
        assert nothing.first(connection) is None
        assert nothing.scalar(connection) is None
        assert nothing.all(connection) == []


def test_a_list_of_any_length_is_refused(engine: Engine) -> None:
    listed = Prepared(select(t.job).where(t.job.c.job_id.in_(bindparam("ids", expanding=True))))
    with (
        reading(engine) as connection,
        pytest.raises(TypeError, match="ids: lists of any length cannot be"),
    ):
        listed.all(connection, {"ids": [1, 2]})


def test_reading_is_one_consistent_state(engine: Engine) -> None:
    jobs = Prepared(select(t.job.c.job_id))
    with reading(engine) as reader:
        assert jobs.scalars(reader) == []
        with writing(engine) as connection:
            add(connection, t.job, job())
        assert jobs.scalars(reader) == []
        assert reader.scalars(select(t.job.c.job_id)).all() == []
    with reading(engine) as reader:
        assert jobs.scalars(reader) == [1]


def test_what_fails_is_rolled_back_and_an_error_of_ours(engine: Engine) -> None:
    with pytest.raises(StoreError, match=r"prescreen\.db: FOREIGN KEY constraint failed"):  # noqa: SIM117
        with writing(engine) as connection:
            add(connection, t.job, job())
            add(connection, t.job_instance, {"job_id": 1, "instance_id": 99})
    with reading(engine) as connection:
        assert Prepared(select(t.job)).all(connection) == []


def test_a_locked_database_refuses_the_sender(engine: Engine) -> None:
    locked = pytest.raises(OutOfResources, match="database is locked")
    with writing(engine), locked, writing(engine, refuses=True):
        pass
