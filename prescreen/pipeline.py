"""The verbs: keep, screen, report, deliver. Each is a function that reads as what happens.

What the verbs need (spool, queue, decoder, screener, sender) is handed in; nothing here imports a
third party, and nothing imports the networks.
"""

from __future__ import annotations

import datetime
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prescreen import gate, reporting, screening
from prescreen.dicom.image import identify
from prescreen.dicom.rejection import KEY_OBJECT_SELECTION, QUALITY
from prescreen.dicom.rejection import rejection as read_rejection
from prescreen.dicom.report import as_comprehensive_sr
from prescreen.dicom.send import Sender, judge
from prescreen.dicom.verdict import SLOW_RETRIES_END, Verdict
from prescreen.errors import (
    ContextRejected,
    DoesNotMatch,
    LeaseLost,
    OutOfResources,
    PeerRefused,
    PeerUnavailable,
    PrescreenError,
    StoreError,
    StudyDiffers,
    UnfitObject,
    trace_of,
)
from prescreen.lightbox import Decoder, Image
from prescreen.screening import Screener
from prescreen.settings import Destination, Screen, Settings
from prescreen.store.lately import done_with
from prescreen.store.outbox import Outbox
from prescreen.store.queue import Queue
from prescreen.store.results import Results, require_intact
from prescreen.store.spool import Spool
from prescreen.store.withdrawal import RECALLED
from prescreen.study import (
    Delivery,
    Disposition,
    Identity,
    Incoming,
    Job,
    Model,
    Outcome,
    Priority,
    Rejection,
)

logger = logging.getLogger(__name__)

#: Requested Procedure Priority (0040,1003) -> order of work; what is not listed is routine.
PRIORITIES = {"STAT": Priority.STAT, "HIGH": Priority.HIGH}


#: Why a rejection note is kept and not obeyed.
MAY_NOT_REJECT = "may_not_reject"

#: Seconds after which a study is tried again whose answer found no room on the disk.
PASSING = 30.0


# --- receive → keep --------------------------------------------------------------------------


def keep(
    incoming: Incoming,
    *,
    spool: Spool,
    queue: Queue,
    screen: Screen,
    minimum_free: int,
    may_reject: Callable[[str], bool] = lambda calling: True,
) -> None:
    """Make one received instance durable and account for it; only then may 0x0000 be answered.

    Raises the Refusal whose status the sender is told. `minimum_free` is in bytes. What is
    already kept byte for byte is a duplicate: nothing happens. `may_reject` says of an AE title
    whether its rejection notes are obeyed; others are kept and ignored.
    """
    identity = identify(incoming.part10)
    _require_match(incoming, identity)
    require_room(spool, minimum_free)
    kept = spool.keep(incoming.file or incoming.part10)
    reason = not_for_screening(identity)
    rejection = rejection_of(identity, incoming, screen)
    if rejection is not None and not may_reject(incoming.calling_ae_title):
        logger.warning("a rejection note was not obeyed: its sender may not reject")
        rejection, reason = None, MAY_NOT_REJECT
    disposition = queue.keep(
        identity,
        kept,
        incoming,
        quiet_period=screen.quiet_period,
        quiet_cap=screen.quiet_cap,
        screenable=reason is None,
        reason=reason,
        priority=PRIORITIES.get(identity.requested_priority, Priority.ROUTINE),
        rejection=rejection,
    )
    if disposition is Disposition.DUPLICATE:
        spool.remove(kept.path)
    elif reason is not None:  # nothing will look at its pixels
        spool.let_go(kept.path)


def require_room(spool: Spool, minimum_free: int) -> None:
    """OutOfResources unless `minimum_free` bytes are left on the disk."""
    if spool.free() < minimum_free:
        raise OutOfResources("the disk is full up to its watermark; free some room")


def _require_match(incoming: Incoming, identity: Identity) -> None:
    """PS3.4 B.2.3: the data set must be of the SOP class and instance the command names."""
    if identity.sop_instance_uid != incoming.sop_instance_uid:
        raise DoesNotMatch("the data set's SOP Instance UID differs from the command's")
    if identity.sop_class_uid != incoming.sop_class_uid:
        raise DoesNotMatch("the data set's SOP Class UID differs from the command's")


def rejection_of(identity: Identity, incoming: Incoming, screen: Screen) -> Rejection | None:
    """What an incoming object rejects, if it is a rejection note that is to be obeyed."""
    if identity.sop_class_uid != KEY_OBJECT_SELECTION:
        return None
    if identity.is_own_result:
        return None  # a note of ours, on its way around
    found = read_rejection(incoming.part10)
    if found is not None and found.code == QUALITY and screen.quality_rejections == "ignore":
        return None
    return found


def not_for_screening(identity: Identity) -> str | None:
    """The reason why an instance is kept and not screened, None where it is a radiograph."""
    if identity.is_own_result:
        return gate.Reason.OWN_RESULT
    if identity.sop_class_uid not in gate.RADIOGRAPH_CLASSES:
        return gate.Reason.SOP_CLASS
    if gate.is_other_modality(identity.modality, identity.sop_class_uid):
        return gate.Reason.MODALITY
    return None


# --- screen → report -------------------------------------------------------------------------


@dataclass(frozen=True)
class Tools:
    """What a screener works with."""

    settings: Settings
    queue: Queue
    spool: Spool
    decoder: Decoder
    screener: Screener
    model: Model
    clock: Callable[[], datetime.datetime]

    def desk(self) -> reporting.Desk:
        """What reports of this instant are written with."""
        return reporting.Desk(self.settings, self.queue, self.spool, self.model, self.clock())


def screen(jobs: Sequence[Job], tools: Tools) -> None:
    """Screen, report and settle claimed jobs; their images go through the networks together.

    A job whose results exist already (its worker died before it could say so) is settled with
    them. One that was tried too often is given up with a notice. An error of ours that will not
    pass settles the job; any other puts it back with growing delay.
    """
    work = [job for job in jobs if not _ended_without_screening(job, tools)]
    try:
        images = _screened(work, tools)
    except Exception as error:
        for job in work:
            _failed(job, tools, error)
        return
    for job in work:
        _reported(job, images[job.job_id], tools)


def _ended_without_screening(job: Job, tools: Tools) -> bool:
    """Settle what has its results already, and give up what was tried too often."""
    try:
        if (earlier := reporting.published(job, tools.spool)) is not None:
            _settle(job, earlier, tools)
        elif job.cause == RECALLED:
            _recalled(job, tools)
        elif job.attempt > tools.settings.screen.max_attempts:
            _give_up(job, tools, "too_many_attempts", None)
        else:
            return False
    except LeaseLost:
        logger.warning("job %d: the lease was lost; another worker settles it", job.job_id)
    except Exception as error:
        _failed(job, tools, error)
    return True


def _recalled(job: Job, tools: Tools) -> None:
    """A notice in place of what is taken back; the images are not looked at again."""
    scope, outcome = tools.settings.scope, Outcome.NOT_SCREENED
    images = [screening.given_up(i, RECALLED, scope, outcome) for i in job.instances]
    _settle(job, reporting.write(job, images, tools.desk()), tools)


def _screened(jobs: Sequence[Job], tools: Tools) -> dict[int, list[Image]]:
    instances = [instance for job in jobs for instance in job.instances]
    images = iter(
        screening.screen(
            instances,
            tools.decoder,
            tools.screener,
            scope=tools.settings.scope,
            spool=tools.spool,
            versions=tools.queue.versions,
        )
    )
    return {job.job_id: [next(images) for _ in job.instances] for job in jobs}


def _reported(job: Job, images: Sequence[Image], tools: Tools) -> None:
    try:
        _settle(job, reporting.write(job, images, tools.desk()), tools)
    except LeaseLost:
        logger.warning("job %d: the lease was lost; another worker settles it", job.job_id)
    except Exception as error:
        _failed(job, tools, error)


def _settle(job: Job, results: Results, tools: Tools, error: str | None = None) -> None:
    tools.queue.settle(
        job,
        results.outcome,
        results.reason,
        results.answers,
        results.objects,
        tools.settings.destinations,
        error,
    )
    for instance in job.instances:
        done_with(instance.path, instance.received_at)


def _failed(job: Job, tools: Tools, error: Exception) -> None:
    """Ours and final: a notice now. Anything else: again, later, with the traceback kept.

    A full disk or a locked database says nothing about the study: such an attempt does not count,
    so that no study is given up because of it, however long it lasts.
    """
    logger.error("job %d: attempt %d: %s", job.job_id, job.attempt, type(error).__name__)
    trace = trace_of(error)
    try:
        if isinstance(error, OutOfResources | StoreError) and error.retryable:
            tools.queue.retry(job, trace, delay=PASSING, reason="resources", counts=False)
        elif isinstance(error, PrescreenError) and not error.retryable:
            reason = "unfit_object" if isinstance(error, UnfitObject) else "error"
            _give_up(job, tools, reason, trace)
        else:
            tools.queue.retry(job, trace, delay=backoff(job.attempt, 5, 300), reason="error")
    except LeaseLost:
        logger.warning("job %d: the lease was lost; another worker settles it", job.job_id)
    except StoreError:
        logger.exception("job %d: cannot be settled; due again when its lease ends", job.job_id)


def _give_up(job: Job, tools: Tools, reason: str, error: str | None) -> None:
    """Settle as failed, with a notice; where not even that can be written, without."""
    images = [screening.given_up(i, reason, tools.settings.scope) for i in job.instances]
    try:
        results = reporting.write(job, images, tools.desk())
    except Exception as fault:
        logger.error("job %d: no notice could be written: %s", job.job_id, type(fault).__name__)
        answers = tuple(image.answer for image in images)
        results = Results(Outcome.FAILED, reason, answers, ())
    _settle(job, results, tools, error)


def backoff(attempt: int, first: float, cap: float) -> float:
    """Seconds before the next try: doubling from `first` up to `cap`, a fifth of it by chance."""
    delay = min(cap, first * 2.0 ** min(attempt - 1, 30))
    return delay * random.uniform(0.8, 1.0)


# --- deliver ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """One destination, the way to it, and the rows on their way."""

    destination: Destination
    outbox: Outbox
    sender: Sender
    clock: Callable[[], datetime.datetime]
    crash: Callable[[str], None] = lambda point: None
    #: False where the destination has the study otherwise, so that the report is made again;
    #: raises StudyDiffers where it has the study no more, or where that cannot be
    check: Callable[[Delivery], bool] = lambda delivery: True
    #: opens the association for what is to be sent, unless one stands
    ready: Callable[[Path | bytes], None] = lambda content: None
    #: whether the destination is to be asked afterwards if it keeps what it took
    prove: Callable[[], bool] = lambda: False
    #: whether something may be waiting for a peer that was away
    was_away: Callable[[], bool] = lambda: True
    #: told when the peer answered, and when it was away
    answered: Callable[[], None] = lambda: None
    lost: Callable[[], None] = lambda: None


def deliver(deliveries: Sequence[Delivery], route: Route) -> None:
    """Send claimed objects of one destination in order, over one association.

    Where the peer is away the first is put back with growing delay and the others untried:
    there is no last try. Once the peer takes an object, all that waited for it is due.
    """
    rest, taken = list(deliveries), False
    while rest:
        delivery = rest.pop(0)
        try:
            taken = _send(delivery, route) or taken
        except PeerUnavailable as error:
            delay = _delay(delivery, route.destination)
            logger.warning("%s; trying again in %.0f s", error, delay)
            route.lost()
            route.outbox.retry(delivery, delay, str(error))
            for other in rest:
                route.outbox.hand_back(other, delay)
            return
        route.answered()
        route.crash("deliver.between")
    if taken and route.was_away():
        route.outbox.due_now(route.destination.name)


def _send(delivery: Delivery, route: Route) -> bool:
    """Send one object and settle its row; True if the peer took it."""
    try:
        require_intact(delivery.path, delivery.created_at)
        content = delivery.path if not delivery.uses_fallback else _as_fallback(delivery)
        if route.outbox.let_go_overtaken(delivery) or not route.check(delivery):
            return False
        route.ready(content)
        # last, for what was asked of the peer, and opening the association, may have taken a minute
        if not route.outbox.may_send(delivery):
            with suppress(LeaseLost):  # cancelled meanwhile
                route.outbox.hand_back(delivery)
            return False
        route.crash("deliver.before_send")
        status = route.sender.send(content)
    except ContextRejected as error:
        if delivery.fallback_sop_instance_uid is not None and not delivery.uses_fallback:
            # decided before the send, so that never both classes reach one archive
            return _send(route.outbox.use_fallback(delivery), route)
        route.outbox.park(delivery, str(error), error.status)
        return False
    except PeerRefused as error:
        _refused(delivery, error, route)
        return False
    except StudyDiffers as error:
        _wait_for_study(delivery, error, route)
        return False
    except PeerUnavailable:
        raise
    except Exception as error:
        _unsendable(delivery, error, route)
        return False
    route.crash("deliver.sent")
    route.outbox.delivered(delivery, status, route.prove())
    done_with(delivery.path, delivery.created_at)
    return True


def _unsendable(delivery: Delivery, error: Exception, route: Route) -> None:
    """A file that is gone or damaged waits for a person; what may pass is tried again.

    Whatever it is, it shall not stand in the way of what comes after it.
    """
    # the text of a foreign error may quote the data set
    ours = isinstance(error, OSError | PrescreenError)
    why = str(error) if ours else type(error).__name__
    logger.error("outbox row %d: cannot be sent: %s", delivery.outbox_id, why)
    if isinstance(error, PrescreenError):
        passing = error.retryable
    else:
        passing = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    if passing:
        route.outbox.retry(delivery, _delay(delivery, route.destination), why)
    else:
        route.outbox.park(delivery, f"the object cannot be read: {why}")


def _as_fallback(delivery: Delivery) -> bytes:
    """The report as Comprehensive SR: the same bytes each time, under the UID minted for it."""
    return as_comprehensive_sr(delivery.path.read_bytes(), delivery.fallback_sop_instance_uid or "")


def _refused(delivery: Delivery, error: PeerRefused, route: Route) -> None:
    verdict = judge(error.status, delivery.refused_since, route.clock())
    logger.warning("%s: %s", error, verdict)
    if verdict is Verdict.RETRY_SOON:
        # no status: the day after which a refusal is parked does not begin with this
        route.outbox.retry(delivery, _delay(delivery, route.destination), str(error))
    elif verdict is Verdict.RETRY_SLOWLY:
        delay = _slow_delay(delivery, route)
        route.outbox.retry(delivery, delay, str(error), error.status)
    else:
        route.outbox.park(delivery, str(error), error.status)


def _wait_for_study(delivery: Delivery, error: StudyDiffers, route: Route) -> None:
    """Slowly again for a day: an archive may be behind, a correction on its way."""
    logger.warning("%s", error)
    since = delivery.refused_since
    if since is not None and route.clock() - since >= SLOW_RETRIES_END:
        route.outbox.park(delivery, str(error))
    else:
        route.outbox.retry(delivery, _slow_delay(delivery, route), str(error), refused=True)


def _slow_delay(delivery: Delivery, route: Route) -> float:
    return max(route.destination.retry_cap, 2 * _delay(delivery, route.destination))


def _delay(delivery: Delivery, destination: Destination) -> float:
    return backoff(delivery.attempt, destination.retry_first, destination.retry_cap)
