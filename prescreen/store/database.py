"""The SQLite database: how it is opened, and the two kinds of transaction.

Durable means WAL with synchronous=FULL: what is committed survives a loss of power. A transaction
that may write begins with BEGIN IMMEDIATE, so that two writers wait for each other at the start
and never fail in the middle. Alembic is imported only when there is something to migrate.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
)
from sqlalchemy import exc as sqlalchemy_errors
from sqlalchemy.pool import ConnectionPoolEntry

from prescreen.errors import OutOfResources, PrescreenError, StoreError

#: Revision of the newest migration; a test holds it to the migrations folder.
REVISION = "0006"
#: Revisions that can be brought up to REVISION.
KNOWN_REVISIONS = (None, "0001", "0002", "0003", "0004", "0005", "0006")

#: What the libraries below raise; sqlite3's own errors come from preparing a connection.
_FOREIGN = (sqlalchemy_errors.DBAPIError, sqlalchemy_errors.TimeoutError, sqlite3.Error)
_PASSING = (
    sqlalchemy_errors.OperationalError,
    sqlalchemy_errors.TimeoutError,
    sqlite3.OperationalError,
)
#: Neither locked nor misused, and so of the file.
_DAMAGED = (sqlalchemy_errors.DatabaseError, sqlite3.DatabaseError)
_MIGRATIONS = Path(__file__).with_name("migrations")


def open_database(path: Path, busy_timeout: float = 5.0) -> Engine:
    """The database at `path`, created or migrated to the newest schema as needed.

    `busy_timeout` is how many seconds a transaction waits for its turn. Raises StoreError where
    the file cannot be opened, is no database, or was written by a newer prescreen.
    """
    if sqlite3.sqlite_version_info < (3, 35):
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")
    path = Path(path).absolute()
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent}: is no folder; create the data directory first")
    engine = _engine(path, busy_timeout)
    try:
        _bring_up_to_date(engine, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


def data_dir(engine: Engine) -> Path:
    """The data directory: the folder in which the database lies."""
    return Path(str(engine.url.database)).parent


def _engine(path: Path, busy_timeout: float) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": busy_timeout},
        hide_parameters=True,  # no patient data in the text of an error
        pool_size=4,
        max_overflow=-1,
    )

    @event.listens_for(engine, "connect")
    def connect(connection: Any, entry: ConnectionPoolEntry) -> None:
        _prepare(connection, busy_timeout)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        driver = _driver(connection)
        if not driver.in_transaction:  # else `reading` has begun
            driver.execute("BEGIN IMMEDIATE")

    return engine


def _prepare(connection: sqlite3.Connection, busy_timeout: float) -> None:
    connection.isolation_level = None  # sqlite3 begins nothing by itself: see `begin`
    connection.execute(f"PRAGMA busy_timeout = {int(busy_timeout * 1000)}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten


class News:
    """Whether another connection has changed the database since it was asked last.

    For a tenth of what a query costs (PRAGMA data_version). What cannot be asked may be news.
    """

    def __init__(self, engine: Engine) -> None:
        self._path = str(engine.url.database)
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None

    def __call__(self) -> bool:
        before = self._version
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, check_same_thread=False)
            (self._version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return True
        return self._version != before


@contextmanager
def writing(engine: Engine, refuses: bool = False) -> Iterator[Connection]:
    """A transaction that may write: committed and durable on leaving, rolled back on any error.

    A database that is locked, full or failing is a StoreError, or with `refuses` an
    OutOfResources for the sender; both may be tried again.
    """
    with _mapped(engine, refuses), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads one consistent state and waits for nobody."""
    with _mapped(engine), engine.connect() as connection:
        _driver(connection).execute("BEGIN")
        yield connection


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


@contextmanager
def _mapped(engine: Engine, refuses: bool = False) -> Iterator[None]:
    try:
        yield
    except _FOREIGN as error:
        raise _ours(error, str(engine.url.database), refuses) from error


def _ours(error: Exception, path: str, refuses: bool) -> PrescreenError:
    said = getattr(error, "orig", None) or error
    passing = isinstance(error, _PASSING)
    if refuses and (passing or type(error) in _DAMAGED):
        return OutOfResources(f"{path}: {said}; free room or stop what holds it")
    ours = StoreError(f"{path}: {said}; see the room on its disk, its permissions, other users")
    ours.retryable = passing
    return ours


def _bring_up_to_date(engine: Engine, path: Path) -> None:
    with _mapped(engine):
        with reading(engine) as connection:
            if _revision(connection, path) == REVISION:
                return
        with engine.begin() as connection:  # two that open at once: the second finds it done
            if _revision(connection, path) != REVISION:
                _upgrade(connection)


def _revision(connection: Connection, path: Path) -> str | None:
    """The schema's revision, None in an empty database; StoreError where it is not ours."""
    names = {
        row[0]
        for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type='table'")
    }
    if not names:
        return None
    if "alembic_version" not in names:
        raise StoreError(f"{path}: is a database of something else; choose another data_dir")
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if revision not in KNOWN_REVISIONS:
        text = f"{path}: was written by a newer prescreen (schema {revision}, this one knows"
        raise StoreError(f"{text} {REVISION}); install that one again, or restore a backup")
    return revision


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def empty_log(engine: Engine) -> bool:
    """Put all of the log of writes into the database and cut it to nothing.

    What was erased stands in it until then, as it was. False where others read so long that it has
    to be done later.
    """
    with _mapped(engine), contextlib.closing(engine.raw_connection()) as connection:
        (is_held, *_) = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_held


def integrity(engine: Engine) -> str | None:
    """What SQLite's own check of every page finds wrong, in one line; None where nothing is."""
    try:
        with reading(engine) as connection:
            said = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    except StoreError as error:
        return str(error)
    return None if said == "ok" else str(said)
