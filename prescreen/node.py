"""The roles of a node, wired: receiver, screener, deliverer, and all of them together.

A role is one process. It holds its lock on the data directory for as long as it lives, works
until SIGTERM, and may be killed at any instruction. The supervisor starts the three, starts again
what dies, and does the housekeeping.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Engine

from prescreen import __version__, frontal, gate, pipeline
from prescreen.audience import attention_in_words
from prescreen.dicom.heap import keep_freed, keep_what_is_loaded
from prescreen.dicom.image import LEAST_SIDE, Decoder, read_image
from prescreen.dicom.language import face
from prescreen.dicom.send import Sender
from prescreen.errors import SettingsError, StoreError, WeightsError
from prescreen.line import Line
from prescreen.settings import Report, Settings
from prescreen.store import audit, reader
from prescreen.store.choice import Choice, Choices
from prescreen.store.commitments import Commitments
from prescreen.store.database import News, integrity, open_database
from prescreen.store.guard import Guard
from prescreen.store.outbox import Outbox
from prescreen.store.owner import hand_over
from prescreen.store.queue import Queue, utc_now
from prescreen.store.spool import Spool
from prescreen.study import Incoming, Job, Model, Unfinished
from prescreen.supervisor import GRACE, ROLES, Supervisor, heed_supervisor
from prescreen.worker import Worker, stop_on_signals

if TYPE_CHECKING:
    from prescreen.nets.compiled import Compiling
    from prescreen.nets.screener import Screener

logger = logging.getLogger(__name__)


def _nothing(point: str) -> None:
    """The crash point of a process that is to live."""


@dataclass(frozen=True)
class Store:
    """The state of one node, opened."""

    engine: Engine
    queue: Queue
    outbox: Outbox
    spool: Spool


#: Below the data directory: state and audit.
DATABASE = "prescreen.db"


def open_store(settings: Settings, crash: Callable[[str], None] = _nothing) -> Store:
    """Open data directory, database and spool. StoreError where they cannot be used.

    So it is where the spool has files and the database is gone: a new one would know of none of
    them, and what waited to be screened or sent would be forgotten.
    """
    spool = Spool(settings.data_dir, crash)
    is_new = not _is_there(settings.data_dir / DATABASE)
    if is_new and spool.is_used():
        raise StoreError(
            f"{settings.data_dir}: the spool has files and there is no {DATABASE}: `prescreen "
            "doctor --repair` makes it again from them, `prescreen restore` brings a backup back"
        )
    engine = open_database(settings.data_dir / DATABASE)
    if is_new:
        hand_over(settings.data_dir)
    return Store(engine, Queue(engine, crash=crash), Outbox(engine, crash=crash), spool)


def _is_there(database: Path) -> bool:
    """An empty file is a database that nothing was ever written to."""
    return database.exists() and database.stat().st_size > 0


def store_of_a_node(settings: Settings) -> Store:
    """The same, of a data directory that a node has used.

    StoreError where none has: a question about another node, or a switch that stops nothing, is
    most likely a `--config` that was forgotten.
    """
    try:
        (settings.data_dir / DATABASE).lstat()
    except FileNotFoundError:
        raise StoreError(
            f"{settings.data_dir}: no node has run here (there is no {DATABASE}); name the node's "
            "settings with --config"
        ) from None
    except OSError:
        pass  # opening it says what is wrong
    return open_store(settings)


#: Below the data directory: the weights that were chosen, a folder each, never changed.
WEIGHTS = "weights"
#: Below the data directory: networks compiled for this machine; may be removed at any time.
COMPILED = "compiled"
#: Seconds after its start that a node compiles its networks, where that is worth a try.
_COMPILE_AFTER = 600.0


def weights_dir(settings: Settings) -> Path:
    """The folder of weights in use: the settings', else the chosen, else the shipped ones.

    Raises WeightsError where what was chosen is no longer what it was.
    """
    if settings.weights_dir is not None:
        return settings.weights_dir
    choice = chosen_weights(settings)
    if choice is None or choice.folder is None:
        return shipped_weights()
    folder = settings.data_dir / WEIGHTS / choice.folder
    _require_unchanged(folder, choice)
    return folder


def chosen_weights(settings: Settings) -> Choice | None:
    """What `prescreen weights use` chose last; None where it never did."""
    database = settings.data_dir / "prescreen.db"
    if not os.path.isfile(database):  # noqa: PTH113 - False where it may not be looked at
        return None
    engine = open_database(database)
    try:
        return Choices(engine).current()
    finally:
        engine.dispose()


def _require_unchanged(folder: Path, choice: Choice) -> None:
    from prescreen.nets.weights import digests  # not for the receiver: it stays small

    told = {"findings": choice.findings, "lungs_heart": choice.lungs_heart}
    found = digests(folder)
    changed = [network for network in told if found[network] != told[network]]
    if changed:
        raise WeightsError(
            f"{folder}: {changed[0]}.json is not what {choice.who} chose on {choice.at:%Y-%m-%d}; "
            "choose again: prescreen weights use FOLDER, or prescreen weights use shipped"
        )


def shipped_weights() -> Path:
    """The weights that come with the package."""
    here = Path(__file__).resolve().parent
    inside = here / "weights"
    return inside if inside.is_dir() else here.parent / "weights"


def open_decoder(settings: Settings) -> Decoder:
    """The child processes that decode, with the settings' limits; to be closed.

    Of large images they hand on means of pixels, as many as a capture of that size shows.
    """
    limits, rows = settings.screen, settings.report.capture_rows
    least_side = max(LEAST_SIDE, rows * LEAST_SIDE // 1080)
    return Decoder(
        limits.decode_workers,
        limits.decode_seconds,
        limits.decode_memory_mb,
        limits.max_megapixels,
        partial(read_image, least_side=least_side),
    )


def device_of(settings: Settings) -> str | None:
    """The device named in the settings, None for the best there is."""
    return None if settings.screen.device == "auto" else settings.screen.device


# --- the three roles -------------------------------------------------------------------------


class Congestion:
    """Why no more can be taken in just now; the jobs that wait are counted once a second."""

    def __init__(self, store: Store, minimum_free: int, max_waiting: int) -> None:
        self._store = store
        self._minimum_free = minimum_free
        self._max_waiting = max_waiting
        self._counted, self._waiting = -math.inf, 0

    def rule(self) -> str | None:
        """`disk_full`, `queue_full`, or None."""
        if self._store.spool.free() < self._minimum_free:
            return "disk_full"
        if time.monotonic() - self._counted > 1:
            self._waiting = reader.waiting(self._store.engine)
            self._counted = time.monotonic()
        return "queue_full" if self._waiting >= self._max_waiting else None


def receive(
    settings: Settings, stop: threading.Event, crash: Callable[[str], None] = _nothing
) -> None:
    """Listen, and keep what comes, until `stop`."""
    from prescreen.dicom.receive import Receiver

    store = open_store(settings, crash)

    minimum_free = settings.housekeeping.minimum_free_mb * 1_000_000

    def begin() -> Unfinished:
        pipeline.require_room(store.spool, minimum_free)
        return store.spool.begin()

    def keep(incoming: Incoming) -> None:
        pipeline.keep(
            incoming,
            spool=store.spool,
            queue=store.queue,
            screen=settings.screen,
            minimum_free=minimum_free,
            may_reject=settings.receive.may_reject,
        )

    # the peer waits for its answer meanwhile: what a locked database keeps from being audited
    # soon stands in the log alone
    notes = open_database(settings.data_dir / DATABASE, busy_timeout=1.0)

    def note(kind: str, detail: dict[str, Any]) -> None:
        audit.record(notes, kind, detail)

    with _guard(settings, "receive"):
        keep_what_is_loaded()
        promised = Commitments(store.engine).answered
        congestion = Congestion(store, minimum_free, settings.receive.max_waiting)
        receiver = Receiver(
            settings.receive,
            keep,
            note,
            promised=promised,
            begin=begin,
            congestion=congestion.rule,
        )
        with receiver:
            logger.info("receiving as %s on port %d", settings.receive.ae_title, receiver.port)
            stop.wait()


def screen(
    settings: Settings, stop: threading.Event, crash: Callable[[str], None] = _nothing
) -> None:
    """Screen what is due until `stop`. Only this role imports torch.

    When other weights are chosen, what is in hand is finished with the old ones, and what is
    claimed afterwards goes through the new. A device that failed is not used again; its jobs are
    tried again on the CPU.
    """
    device = device_of(settings)
    with ExitStack() as stack:
        stack.enter_context(_guard(settings, "screen"))
        store = open_store(settings, crash)
        keep_freed()
        decoder = stack.enter_context(open_decoder(settings))
        choices = Choices(store.engine)
        while not stop.is_set():
            choice = choices.current()
            folder = weights_dir(settings)
            screener = _screener(settings, folder, device)
            worker = _worker(settings, store, decoder, screener)
            keep_what_is_loaded()
            compiling = _compiling(settings, folder, screener)
            with closing(compiling):
                is_over = partial(_is_over, settings, choices, choice, compiling, screener)
                _run_until([worker], stop, is_over)
            if screener.device_failed:
                device = "cpu"


def _is_over(
    settings: Settings,
    choices: Choices,
    choice: Choice | None,
    compiling: Compiling,
    screener: Screener,
) -> bool:
    if screener.device_failed:
        logger.error("the device of the networks failed; they go on on the CPU")
        return True
    if compiling.is_ready():
        logger.info("the networks have been compiled; loading them")
        return True
    return settings.weights_dir is None and _differs(choices, choice)


def _differs(choices: Choices, choice: Choice | None) -> bool:
    try:
        if choices.current() == choice:
            return False
    except StoreError:
        return False  # asked again in a second; the worker has its own words for it
    logger.info("other weights were chosen; loading them")
    return True


def _screener(settings: Settings, folder: Path, device: str | None) -> Screener:
    # torch takes seconds to load: what is wrong so far has been said by now
    from prescreen.nets.screener import Screener

    kept = settings.data_dir / COMPILED
    return Screener(folder, device, settings.screen.engine, kept)


def _compiling(settings: Settings, folder: Path, screener: Screener) -> Compiling:
    """What compiles the networks in a while, where they run on torch for want of the better.

    Where torch is what was asked for, or a GPU runs it, nothing was passed over.
    """
    from prescreen.nets.compiled import Compiling

    after = 0.0 if settings.screen.engine == "compiled" else _COMPILE_AFTER
    wanted = screener.engine == "torch" and screener.passed_over
    return Compiling(folder, settings.data_dir / COMPILED, after if wanted else math.inf)


def _worker(settings: Settings, store: Store, decoder: Decoder, screener: Screener) -> Worker[Job]:
    limits = settings.screen
    # what is missing shall be said at the start, not of every study
    frontal.shipped()
    face(settings.report.language, settings.report.font)
    model = screener.model
    tools = pipeline.Tools(settings, store.queue, store.spool, decoder, screener, model, utc_now)
    weights = {"lungs_heart": model.lungs_heart.sha256, "findings": model.findings.sha256}
    claim = partial(
        store.queue.claim,
        f"screen-{os.getpid()}",
        limits.lease,
        limits.batch,
        # one more than is tried: the last claim writes the notice that says so
        max_attempts=limits.max_attempts + 1,
        weights=weights,
        rules=gate.VERSION,
    )
    engine = {"engine": model.findings.engine, "passed_over": list(screener.passed_over)}
    shown = _attention_shown(model, settings.report)
    audit.record(store.engine, "weights.loaded", {"weights": weights, **engine, **shown})
    logger.info("screening with weights %s (%s)", model.findings.sha256[:12], model.findings.engine)
    return Worker(
        lambda: claim() if store.queue.is_due() else [],
        partial(pipeline.screen, tools=tools),
        partial(store.queue.renew, lease=limits.lease),
        renew_every=limits.lease / 3,
        longest=limits.stuck_seconds,
        news=News(store.engine),
    )


def _attention_shown(model: Model, report: Report) -> dict[str, Any]:
    """For the audit: of which findings attention is shown, where that is asked for.

    That it is shown for none is said loud; the node goes on without.
    """
    if report.attention == "off":
        return {}
    level = logging.INFO if model.pointing_proven else logging.WARNING
    logger.log(level, "%s", attention_in_words(model, report))
    return {"attention": list(model.pointing_proven)}


def deliver(
    settings: Settings, stop: threading.Event, crash: Callable[[str], None] = _nothing
) -> None:
    """Send what is due, each destination in a thread of its own, until `stop`."""
    with ExitStack() as stack:
        stack.enter_context(_guard(settings, "deliver"))
        store = open_store(settings, crash)
        workers = []
        for destination in settings.destinations:
            sender = stack.enter_context(Sender(destination, settings.receive.ae_title))
            line = Line(destination, sender, settings.receive.ae_title, store.engine, crash=crash)
            workers.append(line.worker())
        logger.info("delivering to %d destinations", len(workers))
        _run_until(workers, stop)


def _guard(settings: Settings, role: str) -> AbstractContextManager[Guard]:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"{settings.data_dir}: {error.strerror}; make it a folder this user may write"
        raise StoreError(text) from error
    return Guard(settings.data_dir, role)


class _Loop(Protocol):
    def run(self) -> None: ...

    def stop(self) -> None: ...


def _run_until(
    workers: Sequence[_Loop], stop: threading.Event, is_over: Callable[[], bool] | None = None
) -> None:
    """Run the workers until `stop`, or until `is_over`, which is asked once a second."""
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    while not stop.wait(1.0) and not (is_over and is_over()):
        if any(not thread.is_alive() for thread in threads):
            raise StoreError("a worker's loop died; its traceback is in the log")
    for worker in workers:
        worker.stop()
    for thread in threads:
        thread.join(GRACE)


RUN: dict[str, Callable[..., None]] = {"receive": receive, "screen": screen, "deliver": deliver}


def run_role(role: str, settings: Settings) -> None:
    """Run one role in this process until SIGTERM or SIGINT, or until its supervisor is gone."""
    if role not in RUN:
        raise SettingsError(f"role {role!r}: is one of {', '.join(ROLES)}")
    stop = threading.Event()
    stop_on_signals(stop.set)
    heed_supervisor(stop.set)
    RUN[role](settings, stop)


# --- all of them --------------------------------------------------------------------------


def role_command(config: Path | None) -> Callable[[str], list[str]]:
    """The command line of a role under the same interpreter and settings file."""
    tail = [] if config is None else ["--config", str(config)]
    return lambda role: [sys.executable, "-m", "prescreen", "serve", "--only", role, *tail]


def supervise(settings: Settings, config: Path | None) -> None:
    """Run all roles and the housekeeping until SIGTERM or SIGINT.

    `prescreen demo` gives a lifeline, as the roles have one: what it started ends with it.
    """
    # the roles need none of what these import
    from prescreen.housekeeping import Housekeeper, safely
    from prescreen.metrics import Endpoint, Sight
    from prescreen.syslog import Forwarder

    stop = threading.Event()
    stop_on_signals(stop.set)
    heed_supervisor(stop.set)
    with _guard(settings, "serve"):
        store = open_store(settings)
        if (damage := integrity(store.engine)) is not None:
            text = f"{settings.data_dir}: the database is damaged ({damage})"
            raise StoreError(f"{text}; `prescreen doctor --repair` makes it again")
        audit.record(store.engine, "node.started", {"version": __version__, "rules": gate.VERSION})
        supervisor = Supervisor(role_command(config))
        watching = settings.housekeeping.model_copy(update={"certificates": settings.certificates})
        keeper = Housekeeper(store.engine, store.spool, settings.data_dir, watching, utc_now)
        scheduler = keeper.schedule()
        if settings.syslog.host:
            ours = settings.receive.ae_title
            forwarder = Forwarder(store.engine, settings.syslog, ours, stop.is_set)
            seconds = settings.syslog.every_seconds
            scheduler.add_job(safely(forwarder.turn), "interval", seconds=seconds, coalesce=True)
        endpoint = None
        if settings.metrics.port:
            sight = Sight(store.engine, store.spool, settings, utc_now, supervisor.standing)
            endpoint = Endpoint(settings.metrics, sight)
            endpoint.start()
        scheduler.start()
        try:
            while not stop.is_set():
                supervisor.look()
                stop.wait(0.5)
        finally:
            if endpoint is not None:
                endpoint.stop()
            # the roles first: a turn of housekeeping may take longer than is waited for us
            supervisor.stop()
            scheduler.shutdown(wait=True)
            audit.record(store.engine, "node.stopped")
