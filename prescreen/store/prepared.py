"""A statement of SQLAlchemy's that is compiled once and then given to the driver as it is.

What SQLAlchemy does around each execution costs several times what SQLite does for it. So what
runs for every study is prepared: built of the tables like all other statements, with the types of
their columns, run on the connection and in the transaction of the caller. Errors are the driver's
own; `reading` and `writing` map them like SQLAlchemy's.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    ClauseElement,
    Connection,
    Delete,
    Dialect,
    Insert,
    Select,
    Table,
    Update,
    insert,
)

Values = Mapping[str, Any]
_Convert = Callable[[Any], Any]
_NOTHING: Values = MappingProxyType({})


@dataclass(frozen=True)
class _Plan:
    """The text of a statement, what its parameters are given, and how its rows are told."""

    text: str
    #: of each place in the text: name, value where none is given, conversion for the driver
    places: tuple[tuple[str, Any, _Convert | None], ...]
    row: Callable[[Iterable[Any]], Any]
    #: of some columns: place, conversion of what the driver gives
    columns: tuple[tuple[int, _Convert], ...]

    def given(self, values: Values) -> list[Any]:
        """What the driver is given for these values."""
        return [
            _converted(values[name], convert) if name in values else fixed
            for name, fixed, convert in self.places
        ]

    def told(self, stored: tuple[Any, ...]) -> Any:
        """A row with its columns by name and of their types."""
        if not self.columns:
            return self.row(stored)
        values = list(stored)
        for place, convert in self.columns:
            values[place] = convert(values[place])
        return self.row(values)


class Prepared:
    """A statement that is run often, each time with values for its parameters and columns.

    Which columns an INSERT or UPDATE sets is told by the names of the values, as with SQLAlchemy.
    What depends on the number of values (`IN :ids`) cannot be prepared.
    """

    def __init__(self, statement: Select[Any] | Insert | Update | Delete) -> None:
        self._statement: Any = statement
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def run(self, connection: Connection, values: Values = _NOTHING) -> int:
        """Run it; how many rows it changed.

        Columns may be set to expressions of others, at the cost of what SQLAlchemy does.
        """
        computed = {name: v for name, v in values.items() if isinstance(v, ClauseElement)}
        if computed:
            given = {name: v for name, v in values.items() if name not in computed}
            return int(connection.execute(self._statement.values(computed), given).rowcount)
        return int(self._execute(connection, values)[1].rowcount)

    def add(self, connection: Connection, row: Values) -> int:
        """Insert one row; the id that the database gave it."""
        return int(self._execute(connection, row)[1].lastrowid)

    def add_all(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Insert rows, at least one, that all have the same columns in the same order."""
        plan = self._plan(connection.dialect, rows[0])
        cursor = connection.connection.cursor()
        cursor.executemany(plan.text, [plan.given(row) for row in rows])

    def all(self, connection: Connection, values: Values = _NOTHING) -> list[Any]:
        """Every row, its columns by name."""
        plan, cursor = self._execute(connection, values)
        return [plan.told(row) for row in cursor.fetchall()]

    def first(self, connection: Connection, values: Values = _NOTHING) -> Any:
        """The first row, its columns by name; None where there is none."""
        plan, cursor = self._execute(connection, values)
        row = cursor.fetchone()
        cursor.close()
        return None if row is None else plan.told(row)

    def scalar(self, connection: Connection, values: Values = _NOTHING) -> Any:
        """The first column of the first row; None where there is none."""
        row = self.first(connection, values)
        return None if row is None else row[0]

    def scalars(self, connection: Connection, values: Values = _NOTHING) -> list[Any]:
        """The first column of every row."""
        return [row[0] for row in self.all(connection, values)]

    def _execute(self, connection: Connection, values: Values) -> tuple[_Plan, Any]:
        plan = self._plan(connection.dialect, values)
        cursor = connection.connection.cursor()
        cursor.execute(plan.text, plan.given(values))
        return plan, cursor

    def _plan(self, dialect: Dialect, values: Values) -> _Plan:
        names = (dialect.name, *values)
        if names not in self._plans:
            self._plans[names] = self._compiled(dialect, values)
        return self._plans[names]

    def _compiled(self, dialect: Dialect, values: Values) -> _Plan:
        compiled = self._statement.compile(dialect=dialect, column_keys=list(values))
        # lists that stand in the statement itself become as many places
        state = compiled.construct_expanded_state(dict(values))
        if lists := [name for name in state.parameter_expansion if name in values]:
            raise TypeError(f"{', '.join(lists)}: lists of any length cannot be prepared")
        converts = dict(state.processors)
        for name, bound in compiled.binds.items():
            converts[name] = bound.type.dialect_impl(dialect).bind_processor(dialect)
        told = tuple(getattr(self._statement, "exported_columns", ()))
        kinds = [column.type.dialect_impl(dialect) for column in told]
        conversions = [kind.result_processor(dialect, None) for kind in kinds]
        named: Any = namedtuple
        return _Plan(
            state.statement,
            tuple(
                (name, None, converts.get(name))
                if name in values
                else (name, _converted(state.parameters[name], converts.get(name)), None)
                for name in state.positiontup or ()
            ),
            named("Row", [column.key for column in told], rename=True)._make,
            tuple((at, convert) for at, convert in enumerate(conversions) if convert),
        )


def _converted(value: Any, convert: _Convert | None) -> Any:
    return value if convert is None else convert(value)


def add(connection: Connection, table: Table, row: Values) -> int:
    """Insert one row; the id that the database gave it."""
    return inserting(table).add(connection, row)


@functools.cache
def inserting(table: Table) -> Prepared:
    """The statement that inserts into a table."""
    return Prepared(insert(table))
