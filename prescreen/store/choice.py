"""Which weights were chosen for the node, by whom and why: one row and one event, together."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select

from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.database import reading, writing
from prescreen.store.queue import utc_now


@dataclass(frozen=True)
class Choice:
    """One choice. `folder` is its name below the data directory's `weights`, None: as shipped.

    `findings` and `lungs_heart` are the SHA-256 of the manifests, so that weights, thresholds and
    calibration are all pinned.
    """

    folder: str | None
    findings: str
    lungs_heart: str
    who: str
    why: str
    at: datetime.datetime


class Choices:
    """The choices of one database. What is chosen is durable on return and counts at once."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime.datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def choose(self, folder: str | None, digests: Mapping[str, str], who: str, why: str) -> Choice:
        """Let studies claimed from now on be screened with these weights."""
        findings, lungs_heart = digests["findings"], digests["lungs_heart"]
        choice = Choice(folder, findings, lungs_heart, who, why, self._clock())
        with writing(self._engine) as connection:
            connection.execute(insert(t.weights_choice), vars(choice))
            detail = {k: v for k, v in vars(choice).items() if k != "at"}
            audit.append(connection, "weights.chosen", choice.at, detail=detail)
        return choice

    def newest_first(self, limit: int = 20) -> tuple[Choice, ...]:
        """The last choices; none where what was shipped was never exchanged."""
        columns = [column for column in t.weights_choice.c if column.name != "choice_id"]
        statement = select(*columns).order_by(t.weights_choice.c.choice_id.desc()).limit(limit)
        with reading(self._engine) as connection:
            return tuple(Choice(**row._mapping) for row in connection.execute(statement))

    def current(self) -> Choice | None:
        """The choice that counts."""
        return next(iter(self.newest_first(1)), None)
