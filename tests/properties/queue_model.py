"""What the queue should do, in plain Python: the reference that the property test holds it to."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from prescreen.study import Disposition, OutboxState, Outcome, Priority, Stage

QUIET, CAP, LEASE, MAX_ATTEMPTS = 30, 100, 60, 3
START = datetime.datetime(2026, 1, 31, 8, tzinfo=datetime.UTC)


def seconds(number: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=number)


#: Rows that nobody has unless they were tried.
_UNSEEN = (OutboxState.CANCELLED, OutboxState.HELD)


@dataclass
class ModelJob:
    job_id: int
    study: str
    due: datetime.datetime
    cap: datetime.datetime
    priority: int
    open: bool = True
    stage: Stage = Stage.SCREEN
    attempts: int = 0
    until: datetime.datetime | None = None
    token: str | None = None
    outcome: Outcome | None = None
    instances: list[int] = field(default_factory=list)
    live: frozenset[str] | None = None
    predecessor: int | None = None
    has_objects: bool = False


@dataclass
class ModelRow:
    outbox_id: int
    job_id: int
    destination: str
    state: OutboxState
    due: datetime.datetime
    priority: int
    attempts: int = 0
    until: datetime.datetime | None = None
    token: str | None = None


@dataclass
class Model:
    """The whole state, and one method for each thing that may happen to it."""

    now: datetime.datetime = START
    instances: list[tuple[str, str, bytes, bool]] = field(default_factory=list)
    jobs: list[ModelJob] = field(default_factory=list)
    rows: list[ModelRow] = field(default_factory=list)
    answers: dict[str, dict[str, int]] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)

    def keep(
        self, study: str, sop: str, content: bytes, screenable: bool, priority: int
    ) -> Disposition:
        versions = [known for known in self.instances if known[1] == sop]
        if any(known[2] == content for known in versions):
            return Disposition.DUPLICATE
        self.instances.append((study, sop, content, screenable))
        if not screenable:
            return Disposition.IGNORED
        self._join(study, len(self.instances), priority)
        return Disposition.AGAIN if versions else Disposition.NEW

    def _join(self, study: str, instance_id: int, priority: int) -> None:
        job = next((job for job in self.jobs if job.study == study and job.open), None)
        if job is None:
            job = self._open(study, priority, self.now + seconds(CAP))
        job.priority = max(job.priority, priority)
        stat = job.priority >= Priority.STAT
        job.due = self.now if stat else min(self.now + seconds(QUIET), job.cap)
        job.instances.append(instance_id)

    def _open(self, study: str, priority: int, cap: datetime.datetime) -> ModelJob:
        self.jobs.append(ModelJob(len(self.jobs) + 1, study, self.now, cap, priority))
        return self.jobs[-1]

    def _claimable(self) -> list[ModelJob]:
        waiting = [job for job in self.jobs if job.stage is Stage.SCREEN]
        first = [
            job
            for job in waiting
            if not any(w.study == job.study and w.job_id < job.job_id for w in waiting)
        ]
        due = [job for job in first if job.due <= self.now]
        free = [job for job in due if job.until is None or job.until <= self.now]
        return sorted(free, key=lambda job: (-job.priority, job.due, job.job_id))

    def claim(self, limit: int) -> list[ModelJob]:
        for job in self._claimable():
            if job.attempts >= MAX_ATTEMPTS:
                job.outcome, job.stage, job.until, job.token = (
                    Outcome.FAILED,
                    Stage.DONE,
                    None,
                    None,
                )
        claimed: list[ModelJob] = []
        while len(claimed) < limit:
            free = [job for job in self._claimable() if not claimed or job.attempts == 0]
            if not free:
                break
            job = free[0]
            job.open, job.attempts = False, job.attempts + 1
            job.until = self.now + seconds(LEASE)
            if job.live is None:
                job.live, job.predecessor = frozenset(self.live), self._predecessor(job)
            claimed.append(job)
            if job.attempts > 1:
                break
        return claimed

    def _predecessor(self, job: ModelJob) -> int | None:
        for other in reversed(self.jobs[: job.job_id - 1]):
            rows = [row for row in self.rows if row.job_id == other.job_id]
            unseen = rows and all(row.state in _UNSEEN and not row.attempts for row in rows)
            if other.study == job.study and other.has_objects and not unseen:
                return other.job_id
        return None

    def settle(self, job: ModelJob, outcome: Outcome, destinations: tuple[str, ...]) -> None:
        job.outcome, job.until, job.token = outcome, None, None
        if outcome is Outcome.SCREENED:
            job.has_objects = True
            for instance_id in job.instances:
                sop = self.instances[instance_id - 1][1]
                self.answers.setdefault(job.study, {})[sop] = job.job_id
            for name in destinations:
                sends = name == "lab" or name in (job.live or ())
                state = OutboxState.PENDING if sends else OutboxState.HELD
                number = len(self.rows) + 1
                self.rows.append(ModelRow(number, job.job_id, name, state, self.now, job.priority))
        self.advance(job.job_id)

    def advance(self, job_id: int) -> None:
        states = [row.state for row in self.rows if row.job_id == job_id]
        pending = OutboxState.PENDING in states
        self.jobs[job_id - 1].stage = Stage.DELIVER if pending else Stage.DONE

    def rescreen(self, study: str) -> None:
        job = next((job for job in self.jobs if job.study == study and job.open), None)
        if job is None:
            job = self._open(study, Priority.ROUTINE, self.now)
        job.due = self.now
        wanted = [n for n, i in enumerate(self.instances, 1) if i[0] == study and i[3]]
        job.instances += [number for number in wanted if number not in job.instances]
        for old in [old for old in self.jobs if old.study == study]:
            rows = [row for row in self.rows if row.job_id == old.job_id]
            pending = [row for row in rows if row.state is OutboxState.PENDING]
            if pending and not any(row.attempts for row in rows):
                for row in pending:
                    row.state = OutboxState.CANCELLED
                self.advance(old.job_id)

    def claim_rows(self, destination: str, limit: int) -> list[ModelRow]:
        if destination in self.held or "*" in self.held:
            return []
        free = [
            row
            for row in self.rows
            if (row.destination, row.state) == (destination, OutboxState.PENDING)
            and row.due <= self.now
            and (row.until is None or row.until <= self.now)
        ]
        chosen = sorted(free, key=lambda row: (-row.priority, row.outbox_id))[:limit]
        for row in chosen:
            row.attempts, row.until = row.attempts + 1, self.now + seconds(LEASE)
        return chosen

    def settle_row(self, row: ModelRow, state: OutboxState) -> None:
        row.state, row.until, row.token = state, None, None
        self.advance(row.job_id)

    def unpark(self, destination: str) -> tuple[int, dict[str, int]]:
        """How many rows are due again, and the job that overtook the others, by study."""
        due, overtaken = 0, dict[str, int]()
        for row in [r for r in self.rows if r.destination == destination]:
            if row.state is OutboxState.PARKED:
                later, study = self._overtaken_by(row), self.jobs[row.job_id - 1].study
                row.state = OutboxState.CANCELLED if later else OutboxState.PENDING
                if later:
                    overtaken[study] = later
                else:
                    due, row.due = due + 1, self.now
                self.advance(row.job_id)
        return due, overtaken

    def _overtaken_by(self, row: ModelRow) -> int:
        """The newest job of the row's study of which the destination has the report, or 0."""
        study = self.jobs[row.job_id - 1].study
        there = [r for r in self.rows if r.destination == row.destination]
        delivered = [r.job_id for r in there if r.state is OutboxState.DELIVERED]
        later = [n for n in delivered if n > row.job_id and self.jobs[n - 1].study == study]
        return max(later, default=0)
