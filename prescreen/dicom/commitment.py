"""Storage commitment as SCU (PS3.4 Annex J): a peer is asked to keep what it was sent.

The answer, an N-EVENT-REPORT, comes on the association of the question or on one that the peer
opens to us, in which it proposes itself as SCP. We are never a provider: a peer that would be SCU
of this class finds it rejected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_context, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from prescreen.dicom.attributes import Attributes
from prescreen.dicom.entity import is_uid
from prescreen.dicom.send import UNCOMPRESSED, Link
from prescreen.errors import ContextRejected, PeerRefused
from prescreen.settings import Destination
from prescreen.study import Promise, Reference

#: Takes a promise down, durably; False where the node never asked for it.
Note = Callable[[Promise], bool]

PUSH_MODEL = str(StorageCommitmentPushModel)

#: Seconds that the association of a question stays open for its answer.
WAIT = 2.0

_SUCCESS, _PROCESSING_FAILURE, _INVALID_ARGUMENT = 0x0000, 0x0110, 0x0115
_NO_SUCH_EVENT = 0x0113
_ALL_KEPT, _SOME_FAILED = 1, 2  # Event Type ID (PS3.4 J.3.3)


def ask(
    destination: Destination,
    calling_ae_title: str,
    transaction_uid: str,
    references: Sequence[Reference],
    note: Note,
    wait: float = WAIT,
) -> bool:
    """Ask a peer by N-ACTION to keep objects; True if its answer came within `wait` seconds.

    ContextRejected where it offers no storage commitment, PeerRefused where it refuses the
    request, PeerUnavailable where it does not answer that.
    """
    promises: list[Promise] = []

    def answered(event: evt.Event) -> tuple[int, None]:
        status, promise = _status(event, note)
        if promise is not None:
            promises.append(promise)
        return status, None

    link = Link(destination, calling_ae_title, [(evt.EVT_N_EVENT_REPORT, answered)])
    link.open([build_context(PUSH_MODEL, list(UNCOMPRESSED))])
    try:
        _request(link, _action(transaction_uid, references))
        return _await(link, lambda: bool(promises), wait)
    finally:
        link.close()


def _request(link: Link, action: Dataset) -> None:
    if not link.accepted:
        raise ContextRejected(f"{link.who}: offers no storage commitment")
    status = link.exchange(
        "N-ACTION",
        lambda association: association.send_n_action(
            action, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )[0],
    )
    if status != _SUCCESS:
        raise PeerRefused(f"{link.who}: refused storage commitment with 0x{status:04X}", status)


def _action(transaction_uid: str, references: Sequence[Reference]) -> Dataset:
    """Action Information (PS3.4 Table J.3-1)."""
    action = Dataset()
    action.TransactionUID = transaction_uid
    action.ReferencedSOPSequence = [_item(reference) for reference in references]
    return action


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


def _await(link: Link, came: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not came() and link.is_open and time.monotonic() < deadline:
        time.sleep(0.02)
    return came()


def context() -> PresentationContext:
    """What a receiver supports: a peer may be SCP of this class towards us, never SCU."""
    supported = build_context(PUSH_MODEL, list(UNCOMPRESSED))
    supported.scu_role, supported.scp_role = False, True
    return supported


def only_from_providers(event: evt.Event) -> None:
    """Support the class for a requestor that proposes itself as SCP alone (PS3.7 D.3.3.4).

    Without a role item the requestor is SCU, and would take us for a provider. Bound to
    EVT_REQUESTED.
    """
    requestor, acceptor = event.assoc.requestor, event.assoc.acceptor
    role = requestor.role_selection.get(UID(PUSH_MODEL))
    asked = any(str(c.abstract_syntax) == PUSH_MODEL for c in requestor.requested_contexts)
    if not asked or (role is not None and role.scp_role):
        return
    acceptor.supported_contexts = [
        supported
        for supported in acceptor.supported_contexts
        if str(supported.abstract_syntax) != PUSH_MODEL
    ]


def answer(event: evt.Event, note: Note) -> tuple[int, None]:
    """Answer an N-EVENT-REPORT (PS3.4 J.3.3.1, PS3.7 10.1.1).

    0x0000  written down
    0x0110  could not be written down: the peer reports again, or we ask again
    0x0113  no such event type
    0x0115  the node never asked for that transaction, or the report does not parse
    """
    return _status(event, note)[0], None


def _status(event: evt.Event, note: Note) -> tuple[int, Promise | None]:
    if event.event_type not in (_ALL_KEPT, _SOME_FAILED):
        return _NO_SUCH_EVENT, None
    try:
        promise = _promise(event.event_information)
    except Exception:  # the library's decoder raises what it likes, with values in the text
        return _INVALID_ARGUMENT, None
    try:
        known = note(promise)
    except Exception:  # the seam to the peer: whatever went wrong, it gets a status it knows
        return _PROCESSING_FAILURE, None
    return (_SUCCESS, promise) if known else (_INVALID_ARGUMENT, None)


def _promise(information: Dataset) -> Promise:
    """Event Information (PS3.4 Table J.3-2)."""
    told = Attributes(information)
    uid = "ReferencedSOPInstanceUID"
    kept = [item.text(uid) for item in told.items("ReferencedSOPSequence")]
    failed = {item.text(uid): _reason(item) for item in told.items("FailedSOPSequence")}
    return Promise(
        transaction_uid=told.text("TransactionUID") or "",
        kept=frozenset(one for one in kept if one and is_uid(one)),
        failed={one: reason for one, reason in failed.items() if one and is_uid(one)},
    )


def _reason(item: Attributes) -> int:
    reason = item.integer("FailureReason")
    return _PROCESSING_FAILURE if reason is None else reason
