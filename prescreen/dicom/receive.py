"""The Storage and Verification SCP: what a peer sends is handed on as it came, or refused.

Nothing of a data set is decoded here. The UIDs of the command are checked, the bytes become a
Part 10 file (PS3.10 7.1), and `keep` decides: when it returns, the instance is durable and the
peer is told Success (PS3.4 B.2.2).
"""

from __future__ import annotations

import errno
import logging
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from prescreen import settings
from prescreen.dicom import commitment
from prescreen.dicom.admission import Admission, Congestion
from prescreen.dicom.door import Door, Entrant, House
from prescreen.dicom.entity import application_entity, cut, is_uid, printable
from prescreen.dicom.heap import give_back_freed, share_one_heap
from prescreen.dicom.identity import TRANSFER_SYNTAXES
from prescreen.dicom.messages import Begin, DataSet, InMemory, Limits
from prescreen.dicom.refusals import Audit, Refusals
from prescreen.dicom.throttle import Count
from prescreen.dicom.tls import Renewed, for_listening
from prescreen.errors import (
    DoesNotMatch,
    InvalidInstance,
    Refusal,
    SettingsError,
    StoreError,
    trace_of,
)
from prescreen.study import Incoming

Keep = Callable[[Incoming], None]

logger = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000

# What the peer reads in Error Comment (0000,0902): ours are fixed words, for the text of an error
# may name paths, which are no peer's business.
_COMMENTS = {
    0x0117: "SOP Instance UID is malformed",
    0xA700: "Out of resources, send again later",
    0xA900: "Data set does not match the command",
    0xC000: "Data set cannot be understood or was not kept",
}


class _Shared(list[PresentationContext]):
    """Contexts that all associations read: copying 170 of them for each costs more than its C-ECHO.

    The library copies what a server supports for each association, and only reads the copy.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class Receiver:
    """Listens, and hands every instance to `keep`; what is refused at the door goes to `audit`.

    `keep` returns once the instance is durable. A Refusal it raises becomes that DIMSE status. It
    is called from one thread per association, several at a time. `audit` is given the kind
    ("association.refused") and a detail of codes: ae titles, address, rule, and how many like it
    were left out since the last one.

    `begin` makes the unfinished file an object is written to while it comes in; without it, objects
    come in memory. `congestion` says why nothing can be taken in just now (a code), or None: new
    associations that could bring objects are then told to come again.

    `promised` takes down what a peer says of a storage commitment that it was asked for.
    """

    def __init__(
        self,
        receive: settings.Receive,
        keep: Keep,
        audit: Audit,
        *,
        promised: commitment.Note = lambda promise: False,
        begin: Begin = InMemory,
        congestion: Congestion = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = receive
        self._keep = keep
        self._refusals = Refusals(audit, clock)
        self._admission = Admission(receive, self._refusals, congestion)
        self._promised = promised
        self._begin = begin
        self._storing = Count()
        self._doors: list[Door] = []
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """The port listened on, in clear where there is one."""
        return self._doors[0].server_address[1] if self._doors else self._settings.port

    def start(self) -> None:
        """Listen and return. SettingsError where host, port or certificates cannot be used."""
        share_one_heap()
        entity = self._entity()
        receive = self._settings
        try:
            if receive.clear:
                self._doors.append(self._listen(entity, receive.port, None))
            if receive.tls is not None:
                certified = Renewed(receive.tls, for_listening)
                self._doors.append(self._listen(entity, receive.tls.port, certified))
        except SettingsError:
            self._shut()
            raise
        for door in self._doors:
            thread = threading.Thread(target=door.serve_forever, name="receive", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, grace: float = 10.0) -> None:
        """Let nobody in any more, give stores in progress `grace` seconds, then end the rest.

        An instance whose answer does not leave in time was kept and comes again: a duplicate.
        """
        for door in self._doors:
            # not AssociationServer.shutdown: that unregisters a server only start_server registers
            socketserver.BaseServer.shutdown(door)
        doors = self._shut()
        if doors:
            self._storing.wait_for_zero(grace)
            _end([association for door in doors for association in door.active_associations])
        while self._threads:
            self._threads.pop().join(grace)
        self._refusals.close()

    def _shut(self) -> list[Door]:
        doors, self._doors = self._doors, []
        for door in doors:
            door.server_close()
        return doors

    def __enter__(self) -> Receiver:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _entity(self) -> AE:
        entity = application_entity(
            self._settings.ae_title,
            acse_timeout=self._settings.acse_timeout,
            dimse_timeout=self._settings.dimse_timeout,
            network_timeout=self._settings.network_timeout,
        )
        entity.maximum_pdu_size = self._settings.max_pdu
        entity.maximum_associations = sys.maxsize  # they are counted in the admission
        entity.add_supported_context(Verification, [*TRANSFER_SYNTAXES[:2]])
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), [*TRANSFER_SYNTAXES])
        entity.supported_contexts = [*entity.supported_contexts, commitment.context()]
        return entity

    def _listen(self, entity: AE, port: int, tls: Renewed | None) -> Door:
        try:
            server = entity.make_server(
                (self._settings.host, port),
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._admission.look_at_contexts),
                    (evt.EVT_REQUESTED, commitment.only_from_providers),
                    (evt.EVT_C_STORE, self._store),
                    (evt.EVT_N_EVENT_REPORT, commitment.answer, [self._promised]),
                    (evt.EVT_CONN_CLOSE, lambda event: give_back_freed()),
                ],
                server_class=Door,
                request_handler=Entrant,
                house=self._house(tls),
            )
        except OSError as error:
            raise _cannot_listen(self._settings.host, port, error) from None
        assert isinstance(server, Door)
        server.contexts = _Shared(server.contexts)
        return server

    def _house(self, tls: Renewed | None) -> House:
        receive = self._settings
        return House(
            Limits(receive.pdu_timeout, receive.max_pdu, receive.max_object_mb * 1_000_000),
            self._begin,
            self._admission,
            self._refusals.stranger,
            receive.acse_timeout,
            receive.max_connections,
            tls,
        )

    def _store(self, event: evt.Event) -> int | Dataset:
        """Answer one C-STORE request (PS3.7 9.1.1, PS3.4 B.2.3).

        0x0000  kept, durable (PS3.4 B.2.2)
        0x0117  Affected SOP Instance UID malformed (PS3.7 C.5.12)
        0xA700  no room, store unusable or locked, out of memory (PS3.4 Table B.2-1)
        0xA900  the data set's or the context's UID differs from the command's (Table B.2-1)
        0xC000  does not parse, or a fault of ours (Table B.2-1); never the library's 0xC211
        """
        request: Any = event.request
        data_set: DataSet = request.DataSet
        with self._storing.one():
            try:
                status = self._status(event, data_set)
            finally:
                request.DataSet = None
                data_set.discard()
        return SUCCESS if status == SUCCESS else _answer(status)

    def _status(self, event: evt.Event, data_set: DataSet) -> int:
        try:
            self._keep(_incoming(event, data_set))
        except Refusal as refusal:
            self._say(event, refusal.status, f"{type(refusal).__name__}: {refusal}")
            return refusal.status
        except (OSError, MemoryError, StoreError) as error:
            self._say(event, OUT_OF_RESOURCES, trace_of(error))
            return OUT_OF_RESOURCES
        except Exception as error:
            # the seam to the peer: whatever else went wrong, it gets a status it knows
            self._say(event, CANNOT_UNDERSTAND, trace_of(error))
            return CANNOT_UNDERSTAND
        return SUCCESS

    def _say(self, event: evt.Event, status: int, why: str) -> None:
        self._refusals.instance(printable(event.assoc.requestor.ae_title), status, why)


def _end(associations: list[Association]) -> None:
    """Abort them, and cut off those whose peer keeps us blocked in the middle of a PDU."""
    for association in associations:
        association.abort(block=False)
    deadline = time.monotonic() + 1.0
    for association in associations:
        association.join(max(0.0, deadline - time.monotonic()))
        cut(association)


def _incoming(event: evt.Event, data_set: DataSet) -> Incoming:
    """The request as one Part 10 file.

    InvalidInstance, DoesNotMatch, CannotUnderstand, or what kept the data set from being written.
    """
    context, association = event.context, event.assoc
    request: Any = event.request
    asked: Any = association.requestor.primitive
    sop_class_uid, sop_instance_uid = request.AffectedSOPClassUID, request.AffectedSOPInstanceUID
    if not is_uid(sop_instance_uid):
        raise InvalidInstance("the command's SOP Instance UID is malformed")
    if sop_class_uid != context.abstract_syntax:
        raise DoesNotMatch("the command's SOP class is not that of its presentation context")
    file = data_set.file()
    return Incoming(
        sop_class_uid=str(sop_class_uid),
        sop_instance_uid=str(sop_instance_uid),
        transfer_syntax_uid=str(context.transfer_syntax),
        part10=file.content(),
        calling_ae_title=printable(asked.calling_ae_title),
        called_ae_title=printable(asked.called_ae_title),
        peer_address=association.requestor.address,
        file=file,
    )


def _answer(status: int) -> Dataset:
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = _COMMENTS.get(status, _COMMENTS[CANNOT_UNDERSTAND])
    if status == InvalidInstance.status:
        answer.AffectedSOPInstanceUID = ""  # what is malformed is not sent back
    return answer


def _cannot_listen(host: str, port: int, error: OSError) -> SettingsError:
    if error.errno == errno.EADDRINUSE:
        return SettingsError(
            f"receive.port = {port}: another program listens there on {host}; "
            f"stop it (ss -ltnp 'sport = :{port}' names it) or choose another port"
        )
    if error.errno == errno.EACCES:
        return SettingsError(
            f"receive.port = {port}: ports below 1024 need a privilege; choose 11112, or "
            "give the service AmbientCapabilities=CAP_NET_BIND_SERVICE"
        )
    return SettingsError(
        f"receive.host = {host!r}: cannot be listened on "
        f"({error.strerror or 'unknown'}); use an address of this machine, or 0.0.0.0 for all"
    )
