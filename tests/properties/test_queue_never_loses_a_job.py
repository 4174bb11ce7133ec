"""Whatever happens to the queue, in whatever order, it stays what the model says it is.

Images arrive (new, again with other bytes, the same again, not for screening, STAT), processes die
around the commit, workers claim, renew, die, come back late, hand back, retry and settle;
destinations go live, are held and released; rows are sent, refused, parked and sent again; studies
are screened again. After each step every job and outbox row is compared with the model
(`queue_model.py`), and at the end everything is worked off: each image acknowledged for screening
has its answer, each row that may be sent is sent, and the audit chain is whole.

The hand-made mutants below, each one fault in one place, must all be found by it:

====================================  ==========================================================
claim_forgets_to_count                the attempt is not counted when the job is claimed
claim_ignores_leases                  a job is handed out while its lease runs
claim_leaves_the_job_open             images may still join after the claim
claim_takes_two_of_a_study            two jobs of one study are out at once
claim_mixes_poison_with_others        a job tried before is handed out together with others
claim_never_gives_up                  a job tried too often is handed out again
claim_forgets_priority                due first goes first, STAT or not
claim_rereads_live_destinations       a later attempt finds other live destinations than the first
claim_forgets_the_predecessor         the report before is not named
claim_forgets_earlier_answers         nothing is carried over
settle_is_not_fenced                  whoever lost the lease can still settle
settle_loses_the_outbox               objects are written, outbox rows are not
settle_sends_what_is_silent           rows of a silent destination are pending
late_image_joins_a_closed_job         an image is added to a job that someone works on
quiet_cap_is_ignored                  a stream of images keeps a job waiting for ever
quiet_period_is_ignored               a job is due with its first image
stat_waits                            STAT waits for the quiet period
duplicate_is_taken                    the same bytes make a second row
again_is_a_duplicate                  other bytes under a known UID are thrown away
ignored_opens_a_job                   what is not for screening is screened
retry_forgets_the_delay               a failing job is due again at once
retry_keeps_the_lease                 a job put back waits for its lease to run out
hand_back_counts                      a job handed back has used up an attempt
rows_lease_is_ignored                 an object is handed out to two senders
row_is_not_fenced                     a sender that lost its lease can still settle the row
row_retry_forgets_the_delay           a row refused is due again at once
parked_row_is_sent                    a parked row is handed out without a person's word
hold_is_ignored                       a destination on hold gets rows
hold_all_is_ignored                   a hold on all destinations stops none
go_live_releases_held_rows            what silent mode held is sent after go-live
last_row_leaves_the_job               the job is not done when its last row is
unparked_row_stays_done               a row sent again leaves its job done
overtaken_row_is_sent                 a parked row is sent after a later report of its study
rescreen_keeps_unsent_rows            rows nobody tried are not cancelled
rescreen_cancels_attempted_rows       rows that may have been sent are cancelled
====================================  ==========================================================
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import and_, bindparam, event, exists, false, or_, select, update

from prescreen.errors import LeaseLost, StoreError
from prescreen.settings import Destination
from prescreen.store import arrival, audit, outbox, overtaken, queue, rebuild, settlement
from prescreen.store import schema as t
from prescreen.store.database import reading, writing
from prescreen.store.destinations import Destinations
from prescreen.store.intake import Kept
from prescreen.store.outbox import Outbox, Unparked
from prescreen.store.prepared import Prepared
from prescreen.store.queue import Queue
from prescreen.store.schema import open_database
from prescreen.study import (
    Audience,
    Delivery,
    Disposition,
    Header,
    Identity,
    ImageResult,
    Incoming,
    Job,
    OutboxState,
    Outcome,
    Priority,
    ResultObject,
    Stage,
    generate_uid,
)
from tests.properties.queue_model import CAP, LEASE, MAX_ATTEMPTS, QUIET, Model, seconds

DESTINATIONS = (
    Destination(name="pacs", ae_title="PACS", host="h", port=104),
    Destination(
        name="lab", ae_title="LAB", host="h", port=104, test=True, audience=Audience.EVALUATION
    ),
)
NAMES = tuple(destination.name for destination in DESTINATIONS)
#: In this order the rows of a job are in the order of DESTINATIONS, whoever is live.
AUDIENCES = (Audience.RELEASE, Audience.EVALUATION)
#: Seconds: none, within a lease and the quiet period, beyond one, beyond the other, the cap.
WAITS = (0, 0, 5, 31, 61, 101)
STUDIES = ("1.2.1", "1.2.2")


class Killed(BaseException):
    """The process ended at a crash point."""


@pytest.fixture(scope="module", autouse=True)
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One migrated database, copied for each example."""
    Machine.template = tmp_path_factory.mktemp("machine") / "prescreen.db"
    open_database(Machine.template).dispose()


def _steps() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """What may happen, with weights: one strategy, so that every example has all of it."""
    wait, number = st.sampled_from(WAITS), st.integers(0, 5)
    delay, study = st.sampled_from([0, 10, 90]), st.sampled_from(STUDIES)
    keep = {
        "study": study,
        "image": st.integers(1, 9),
        "content": st.sampled_from([b"a", b"a", b"b"]),
        "screenable": st.sampled_from([True, True, True, False]),
        "priority": st.sampled_from([Priority.ROUTINE, Priority.ROUTINE, Priority.STAT]),
        "killed": st.sampled_from([None, None, None, "keep.before_commit", "keep.committed"]),
    }
    on_job = ["settle", "settle", "fail", "retry", "retry", "hand_back", "renew"]
    on_row = ["deliver", "park", "retry", "retry", "hand_back"]
    act = {"number": number, "delay": delay, "wait": wait}
    places = st.sampled_from(["pacs", "pacs", "lab", None])
    switches = st.sampled_from(["go_live", "hold", "release", "release"])
    weighted: list[tuple[int, str, dict[str, Any]]] = [
        (4, "keep", keep),
        (3, "wait_and_claim", {"wait": wait, "limit": st.integers(1, 3)}),
        (6, "act_on_job", {**act, "action": st.sampled_from(on_job)}),
        (
            3,
            "wait_and_claim_rows",
            {"wait": wait, "name": st.sampled_from(NAMES), "limit": st.integers(1, 2)},
        ),
        (6, "act_on_row", {**act, "action": st.sampled_from(on_row)}),
        (2, "switch", {"name": places, "switch": switches}),
        (1, "rescreen", {"study": study}),
        (1, "unpark", {"name": st.sampled_from(NAMES)}),
    ]
    return st.one_of(
        [
            st.tuples(st.just(name), st.fixed_dictionaries(arguments))
            for weight, name, arguments in weighted
            for _ in range(weight)
        ]
    )


STEPS = _steps()


class Machine(RuleBasedStateMachine):
    """Real queue and model side by side."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.template.parent))
        shutil.copy(self.template, self.folder / "prescreen.db")
        self.engine = open_database(self.folder / "prescreen.db")
        self.engine.dispose()

        @event.listens_for(self.engine, "connect")
        def hurry(connection: Any, entry: Any) -> None:
            connection.execute("PRAGMA synchronous = OFF")

        self.model = Model()
        self.kill_at: str | None = None
        self.queue = Queue(self.engine, lambda: self.model.now, self.crash)
        self.outbox = Outbox(self.engine, lambda: self.model.now)
        self.destinations = Destinations(self.engine, lambda: self.model.now)
        self.jobs: list[Job] = []
        self.deliveries: list[Delivery] = []

    def crash(self, point: str) -> None:
        if point == self.kill_at:
            self.kill_at = None
            raise Killed

    def teardown(self) -> None:
        try:
            self.work_off()
        finally:
            self.engine.dispose()
            shutil.rmtree(self.folder)

    @initialize(live=st.booleans())
    def begin(self, live: bool) -> None:
        self.switch("pacs", "go_live" if live else "release")

    @rule(step=STEPS)
    def step(self, step: tuple[str, dict[str, Any]]) -> None:
        """One thing that happens; where nobody is there to act, somebody claims first."""
        name, arguments = step
        if name == "act_on_row" and not self.deliveries:
            self.claim_rows("pacs" if arguments["number"] % 2 else "lab", 2)
        if name == "act_on_row" and not self.deliveries:
            name, arguments = "act_on_job", {**arguments, "action": "settle"}
        if name == "act_on_job" and not self.jobs:
            self.wait_and_claim(wait=arguments["wait"], limit=2)
        if name != "act_on_job" or self.jobs:
            getattr(self, name)(**arguments)

    # -- arriving

    def keep(
        self,
        study: str,
        image: int,
        content: bytes,
        screenable: bool,
        priority: Priority,
        killed: str | None,
    ) -> None:
        sop = f"{study}.{image}"
        self.kill_at = killed
        try:
            disposition = self._keep(study, sop, content, screenable, priority)
        except Killed:  # the sender got no answer and sends again
            if killed == "keep.committed":
                self.model.keep(study, sop, content, screenable, priority)
            disposition = self._keep(study, sop, content, screenable, priority)
        assert disposition == self.model.keep(study, sop, content, screenable, priority)

    def _keep(
        self, study: str, sop: str, content: bytes, screenable: bool, priority: Priority
    ) -> Disposition:
        digest = hashlib.sha256(content).hexdigest()
        kept = Kept(self.folder / "spool" / f"{generate_uid()}.dcm", digest, len(content))
        identity = Identity("1.2.840.1", sop, "1.2.9", study, "1.2.840.2", patient_id="CANARY")
        incoming = Incoming("1.2.840.1", sop, "1.2.840.2", content, "CR", "NODE", "127.0.0.1")
        return self.queue.keep(
            identity,
            kept,
            incoming,
            quiet_period=QUIET,
            quiet_cap=CAP,
            screenable=screenable,
            priority=priority,
        )

    # -- screening

    def wait_and_claim(self, wait: int, limit: int) -> None:
        self.model.now += seconds(wait)
        self.claim(limit)

    def claim(self, limit: int) -> None:
        jobs = self.queue.claim("w", LEASE, limit, max_attempts=MAX_ATTEMPTS)
        expected = self.model.claim(limit)
        assert [job.job_id for job in jobs] == [job.job_id for job in expected]
        for job, model in zip(jobs, expected, strict=True):
            model.token = job.lease_token
            assert [i.instance_id for i in job.instances] == sorted(model.instances)
            assert (job.attempt, job.live_destinations) == (model.attempts, model.live)
            assert job.predecessor_job_id == model.predecessor
            tags = {r.header.sop_instance_uid: r.feature_distance for r in job.earlier}
            assert tags == self.model.answers.get(job.study_instance_uid, {})
            assert all(result.carried_over for result in job.earlier)
        self.jobs += jobs

    def _with(self, number: int, act: Callable[[Job], None]) -> Any:
        """Let the holder of a claimed job act; the model's job if it still was the holder."""
        job = self.jobs.pop(number % len(self.jobs))
        model = self.model.jobs[job.job_id - 1]
        if model.token == job.lease_token:
            act(job)
            return model
        _must_raise(LeaseLost, lambda: act(job))
        return None

    def act_on_job(self, number: int, action: str, delay: int, wait: int) -> None:
        actions: dict[str, Callable[[], None]] = {
            "settle": lambda: self.settle(number, Outcome.SCREENED),
            "fail": lambda: self.settle(number, Outcome.FAILED),
            "retry": lambda: self.retry(number, delay),
            "hand_back": lambda: self.hand_back(number),
            "renew": lambda: self.renew(number),
        }
        actions[action]()

    def settle(self, number: int, outcome: Outcome) -> None:
        def act(job: Job) -> None:
            done = outcome is Outcome.SCREENED
            answers = [(i, _answer(i.sop_instance_uid, job)) for i in job.instances] if done else []
            objects = [_object(audience) for audience in AUDIENCES] if done else []
            self.queue.settle(job, outcome, "code", answers, objects, DESTINATIONS)

        model = self._with(number, act)
        if model is not None:
            self.model.settle(model, outcome, NAMES)

    def retry(self, number: int, delay: int) -> None:
        model = self._with(number, lambda job: self.queue.retry(job, "text", delay))
        if model is not None:
            model.due, model.until, model.token = self.model.now + seconds(delay), None, None

    def hand_back(self, number: int) -> None:
        model = self._with(number, self.queue.hand_back)
        if model is not None:
            model.attempts, model.until, model.token = model.attempts - 1, None, None

    def renew(self, number: int) -> None:
        job = self.jobs[number % len(self.jobs)]
        model = self._with(number, lambda job: self.queue.renew(job, LEASE))
        if model is not None:
            model.until = self.model.now + seconds(LEASE)
            self.jobs.append(job)

    def rescreen(self, study: str) -> None:
        if any(known[0] == study and known[3] for known in self.model.instances):
            self.queue.rescreen(study, "me", "test")
            self.model.rescreen(study)
        else:
            _must_raise(StoreError, lambda: self.queue.rescreen(study, "me", "test"))

    # -- delivering

    def switch(self, name: str | None, switch: str) -> None:
        if switch == "go_live":
            self.destinations.go_live(name or "pacs", "me", "test")
            self.model.live.add(name or "pacs")
        elif switch == "hold":
            self.destinations.hold(name, "me", "test")
            self.model.held.add(name or "*")
        else:
            self.destinations.release(name, "me", "test")
            self.model.held.discard(name or "*")

    def wait_and_claim_rows(self, wait: int, name: str, limit: int) -> None:
        self.model.now += seconds(wait)
        self.claim_rows(name, limit)

    def claim_rows(self, name: str, limit: int) -> None:
        deliveries = self.outbox.claim(name, LEASE, limit)
        expected = self.model.claim_rows(name, limit)
        assert [d.outbox_id for d in deliveries] == [row.outbox_id for row in expected]
        for delivery, row in zip(deliveries, expected, strict=True):
            row.token = delivery.lease_token
            assert delivery.attempt == row.attempts
        self.deliveries += deliveries

    def _with_row(self, number: int, act: Callable[[Delivery], None]) -> Any:
        delivery = self.deliveries.pop(number % len(self.deliveries))
        row = self.model.rows[delivery.outbox_id - 1]
        if row.token == delivery.lease_token:
            act(delivery)
            return row
        _must_raise(LeaseLost, lambda: act(delivery))
        return None

    def act_on_row(self, number: int, action: str, delay: int, wait: int) -> None:
        if action in ("deliver", "park"):
            self.settle_row(number, parked=action == "park")
        else:
            self.retry_row(number, delay, sent=action == "retry")

    def settle_row(self, number: int, parked: bool) -> None:
        def act(delivery: Delivery) -> None:
            if parked:
                self.outbox.park(delivery, "no", 0x0122)
            else:
                self.outbox.delivered(delivery, 0)

        row = self._with_row(number, act)
        if row is not None:
            state = OutboxState.PARKED if parked else OutboxState.DELIVERED
            self.model.settle_row(row, state)

    def retry_row(self, number: int, delay: int, sent: bool) -> None:
        def act(delivery: Delivery) -> None:
            if sent:
                self.outbox.retry(delivery, delay, "away", 0xA700)
            else:
                self.outbox.hand_back(delivery, delay)

        row = self._with_row(number, act)
        if row is not None:
            row.due, row.until, row.token = self.model.now + seconds(delay), None, None
            row.attempts -= 0 if sent else 1

    def unpark(self, name: str) -> None:
        due, overtaken = self.model.unpark(name)
        if not due and not overtaken:
            _must_raise(StoreError, lambda: self.outbox.unpark("", "", destination=name))
            return
        assert self.outbox.unpark("me", "test", destination=name) == Unparked(due, overtaken)

    # -- what must hold

    @invariant()
    def rows_are_as_in_the_model(self) -> None:
        job, row = t.job.c, t.outbox.c
        jobs = (job.job_id, job.stage, job.open, job.due_at, job.attempts, job.outcome)
        rows = (row.outbox_id, row.destination, row.state, row.due_at, row.attempts)
        with reading(self.engine) as connection:
            real_jobs = [tuple(r) for r in connection.execute(select(*jobs).order_by(job.job_id))]
            real_rows = [
                tuple(r) for r in connection.execute(select(*rows).order_by(row.outbox_id))
            ]
            instances = len(connection.execute(select(t.instance.c.instance_id)).all())
        assert instances == len(self.model.instances)
        assert real_jobs == [
            (j.job_id, j.stage, j.open, j.due, j.attempts, j.outcome) for j in self.model.jobs
        ]
        assert real_rows == [
            (r.outbox_id, r.destination, r.state, r.due, r.attempts) for r in self.model.rows
        ]

    def work_off(self) -> None:
        """Everybody comes back and everything is let through: nothing may be left over."""
        for name in (*NAMES, None):
            self.switch(name, "release")
        for name in NAMES:
            self.unpark(name)
        while any(job.stage is Stage.SCREEN for job in self.model.jobs):
            self.model.now += seconds(1_000)
            self.jobs.clear()
            self.claim(3)  # exactly what the model says, so this ends
            while self.jobs:
                self.settle(0, Outcome.SCREENED)
        self.model.now += seconds(1_000)  # past every lease and delay of a row
        for name in NAMES:
            self.deliveries.clear()
            self.claim_rows(name, 1_000)
            while self.deliveries:
                self.settle_row(0, parked=False)
        self.rows_are_as_in_the_model()
        assert all(job.stage is Stage.DONE and job.outcome for job in self.model.jobs)
        answered = {number for job in self.model.jobs for number in job.instances}
        screenable = {n for n, i in enumerate(self.model.instances, 1) if i[3]}
        assert answered == screenable
        assert audit.verify(self.engine).whole


def _must_raise(error: type[Exception], act: Callable[[], Any]) -> None:
    try:
        act()
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")


def _answer(sop: str, job: Job) -> ImageResult:
    header = Header("1.2.840.1", sop, "1.2.9", job.study_instance_uid)
    return ImageResult(header, Outcome.SCREENED, None, feature_distance=float(job.job_id))


def _object(audience: Audience) -> ResultObject:
    return ResultObject("sr", audience, "1.2.3", generate_uid(), generate_uid(), f"{audience}.dcm")


def _settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def test_queue_is_what_the_model_says_it_is() -> None:
    run_state_machine_as_test(Machine, settings=_settings(25, 50))


# -- mutants


def _patched(name: str, target: object, attribute: str, replacement: object) -> Any:
    return _all_patched(name, target, {attribute: replacement})


def _all_patched(name: str, target: object, replacements: Mapping[str, object]) -> Any:
    def apply(patch: pytest.MonkeyPatch) -> None:
        for attribute, replacement in replacements.items():
            patch.setattr(target, attribute, replacement)

    return pytest.param(apply, id=name)


def _claiming(name: str, claim: Callable[[Any], Any], due: Any = None) -> Any:
    """A mutant of the statement that claims, and of the one for jobs never tried before."""
    due = queue._claimable() if due is None else due
    fresh = and_(due, t.job.c.attempts == 0)
    replacements = {"_CLAIM": Prepared(claim(due)), "_CLAIM_FRESH": Prepared(claim(fresh))}
    return _all_patched(name, queue, replacements)


_claim_one, _freeze, _due = queue._claim_one, settlement.freeze, arrival.due
_settle_values, _retry = queue._change, Queue.retry
_row_retry, _go_live, _hand_back = Outbox.retry, Destinations.go_live, Queue.hand_back
_arrive = arrival.arrive


def _claims_with(**values: Any) -> Callable[..., Any]:
    return lambda due: _claim_one(due).values(**values)


def _claimable_without(*, lease: bool = True, study: bool = True) -> Any:
    job, earlier, now = t.job.c, t.job.alias("earlier"), queue._NOW
    waits = exists().where(
        earlier.c.study_id == job.study_id,
        earlier.c.stage == Stage.SCREEN,
        earlier.c.job_id < job.job_id,
    )
    ahead = job.lease_until > queue._AHEAD
    free = or_(job.lease_until.is_(None), job.lease_until <= now, ahead if lease else ~ahead)
    conditions = [job.stage == Stage.SCREEN, job.due_at <= now, free]
    conditions += [~waits] if study else []
    return and_(*conditions)


def _mixes(self: Any, connection: Any, now: Any, limit: int, terms: Any) -> Any:
    jobs: list[Job] = []
    while len(jobs) < limit:
        row = queue._CLAIM.first(connection, {**terms, "lease_token": uuid.uuid4().hex})
        if row is None:
            break
        jobs.append(self._claimed(connection, row, now))
    return jobs


def _due_first(due: Any) -> Any:
    first = select(t.job.c.job_id).where(due).order_by(t.job.c.due_at, t.job.c.job_id).limit(1)
    statement = update(t.job).where(t.job.c.job_id == first.scalar_subquery(), due)
    values = {"open": False, "attempts": t.job.c.attempts + 1}
    return statement.values(values).returning(*t.job.c)


def _rereads(connection: Any, row: Any, now: Any) -> Any:
    frozen = _freeze(connection, row, now)
    live = connection.scalars(select(t.destination.c.name).where(t.destination.c.live))
    return dataclasses.replace(frozen, live_destinations=frozenset(live))


def _sends_silent(connection: Any, job: Job, *rest: Any) -> None:
    everything = dataclasses.replace(job, live_destinations=frozenset(NAMES))
    _write_objects(connection, everything, *rest)


_write_objects = settlement.write_objects


def _any_job_to_screen(connection: Any, study_id: int) -> Any:
    job = t.job.c
    statement = select(job.job_id, job.cap_at, job.priority).where(
        job.study_id == study_id, job.stage == Stage.SCREEN
    )
    return connection.execute(statement.order_by(job.job_id.desc()).limit(1)).one_or_none()


def _again_is_duplicate(connection: Any, arrival_: Any, now: Any) -> Disposition:
    if arrival._versions(connection, arrival_.identity.sop_instance_uid):
        return Disposition.DUPLICATE
    return _arrive(connection, arrival_, now)


def _screens_everything(connection: Any, arrival_: Any, now: Any) -> Disposition:
    return _arrive(connection, dataclasses.replace(arrival_, screenable=True), now)


def _keeps_lease(connection: Any, job: Job, values: Any) -> None:
    if "due_at" in values:
        values = {key: value for key, value in values.items() if not key.startswith("lease")}
    _settle_values(connection, job, values)


def _no_handing_back(connection: Any, job: Job, values: Any) -> None:
    kept = {key: value for key, value in values.items() if key != "attempts"}
    _settle_values(connection, job, kept)


def _rows_claimable(*states: OutboxState, lease: bool = True) -> Any:
    row, now = t.outbox.c, outbox._NOW
    conditions = [row.destination == outbox._TO, row.state.in_(states), row.due_at <= now]
    if lease:
        conditions.append(or_(row.lease_until.is_(None), row.lease_until <= now))
    return Prepared(outbox._claim_statement(and_(*conditions, ~outbox._held())))


def _held_by(condition: Any) -> Any:
    return Prepared(outbox._claim_statement(outbox._claimable(condition)))


def _not_fenced() -> Prepared:
    ours, token = t.outbox.c.outbox_id == outbox._ID, t.outbox.c.lease_token == outbox._TOKEN
    return Prepared(update(t.outbox).where(or_(ours, and_(ours, token))))


def _job_not_fenced() -> Prepared:
    ours = t.job.c.job_id == bindparam("the_job")
    token = t.job.c.lease_token == bindparam("the_token")
    return Prepared(update(t.job).where(or_(ours, and_(ours, token))))


_HELD_ALONE = exists().where(t.destination.c.name == outbox._TO, t.destination.c.held)


def _go_live_and_send(self: Any, name: str, who: str, why: str) -> None:
    _go_live(self, name, who, why)
    with writing(self._engine) as connection:
        held = and_(t.outbox.c.destination == name, t.outbox.c.state == OutboxState.HELD)
        connection.execute(update(t.outbox).where(held).values(state=OutboxState.PENDING))


def _cancels_all(connection: Any, study_id: int, uid: str, now: Any, **terms: Any) -> int:
    of_study = select(t.job.c.job_id).where(t.job.c.study_id == study_id)
    pending = and_(t.outbox.c.job_id.in_(of_study), t.outbox.c.state == OutboxState.PENDING)
    changed = update(t.outbox).where(pending).values(state=OutboxState.CANCELLED)
    return int(connection.execute(changed).rowcount)


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


PENDING = OutboxState.PENDING
MUTANTS = [
    _claiming("claim_forgets_to_count", _claims_with(attempts=t.job.c.attempts)),
    _claiming("claim_ignores_leases", _claim_one, _claimable_without(lease=False)),
    _claiming("claim_leaves_the_job_open", _claims_with(open=True)),
    _claiming("claim_takes_two_of_a_study", _claim_one, _claimable_without(study=False)),
    _patched("claim_mixes_poison_with_others", Queue, "_claim_up_to", _mixes),
    _patched("claim_never_gives_up", queue, "_give_up", _nothing),
    _claiming("claim_forgets_priority", _due_first),
    _patched("claim_rereads_live_destinations", settlement, "freeze", _rereads),
    _patched("claim_forgets_the_predecessor", settlement, "_predecessor", _nothing),
    _patched("claim_forgets_earlier_answers", queue, "earlier_results", lambda *a: ()),
    _patched("settle_is_not_fenced", queue, "_CHANGE", _job_not_fenced()),
    _patched("settle_loses_the_outbox", settlement, "_post", _nothing),
    _patched("settle_sends_what_is_silent", settlement, "write_objects", _sends_silent),
    _patched("late_image_joins_a_closed_job", arrival, "_open_job", _any_job_to_screen),
    _patched(
        "quiet_cap_is_ignored",
        arrival,
        "due",
        lambda now, quiet, cap, priority: _due(now, quiet, now + seconds(1e6), priority),
    ),
    _patched("quiet_period_is_ignored", arrival, "due", lambda now, *rest: now),
    _patched(
        "stat_waits", arrival, "due", lambda now, quiet, cap, priority: _due(now, quiet, cap, 0)
    ),
    _patched("duplicate_is_taken", arrival, "_versions", lambda *a: []),
    _patched("again_is_a_duplicate", queue, "arrive", _again_is_duplicate),
    _patched("ignored_opens_a_job", queue, "arrive", _screens_everything),
    _patched(
        "retry_forgets_the_delay",
        Queue,
        "retry",
        lambda self, job, error, delay: _retry(self, job, error, 0),
    ),
    _patched("retry_keeps_the_lease", queue, "_change", _keeps_lease),
    _patched("hand_back_counts", queue, "_change", _no_handing_back),
    _patched("rows_lease_is_ignored", outbox, "_CLAIM", _rows_claimable(PENDING, lease=False)),
    _patched("row_is_not_fenced", outbox, "_CHANGE", _not_fenced()),
    _patched(
        "row_retry_forgets_the_delay",
        Outbox,
        "retry",
        lambda self, d, delay, *rest: _row_retry(self, d, 0, *rest),
    ),
    _patched("parked_row_is_sent", outbox, "_CLAIM", _rows_claimable(PENDING, OutboxState.PARKED)),
    _patched("hold_is_ignored", outbox, "_CLAIM", _held_by(false())),
    _patched("hold_all_is_ignored", outbox, "_CLAIM", _held_by(_HELD_ALONE)),
    _patched("go_live_releases_held_rows", Destinations, "go_live", _go_live_and_send),
    _patched("last_row_leaves_the_job", outbox, "_advance", _nothing),
    _patched("unparked_row_stays_done", outbox, "_unparked", _nothing),
    _patched("overtaken_row_is_sent", overtaken, "later_report", _nothing),
    _patched("rescreen_keeps_unsent_rows", rebuild, "withdraw", _nothing),
    _patched("rescreen_cancels_attempted_rows", rebuild, "withdraw", _cancels_all),
]


@pytest.fixture(autouse=True)
def every_file_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine writes no files: what becomes of lost ones is tested with the doctor."""
    monkeypatch.setattr(arrival, "_lies_there", lambda row, arrival: True)


@pytest.mark.parametrize("mutate", MUTANTS)
def test_mutant_is_found(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    with pytest.raises((AssertionError, LeaseLost, StoreError)):
        run_state_machine_as_test(Machine, settings=_settings(400, 50))


def test_every_mutant_is_listed() -> None:
    assert __doc__ is not None
    missing = [str(mutant.id) for mutant in MUTANTS if str(mutant.id) not in __doc__]
    assert not missing
