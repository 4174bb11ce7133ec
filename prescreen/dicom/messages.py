"""DIMSE requests of one incoming association, put together from their fragments (PS3.7 6.3).

What belongs to a C-STORE request goes to an unfinished file as it comes, so that writing and
digesting overlap with receiving, and an object is never held in memory. Order and length of the
fragments are checked before anything is done with them.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from queue import Empty
from typing import Any

from pynetdicom import AllStoragePresentationContexts
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    Verification,
)

from prescreen.dicom.entity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_uid
from prescreen.errors import CannotUnderstand, InvalidInstance, OutOfResources, PrescreenError
from prescreen.study import Unfinished

Begin = Callable[[], Unfinished]

_COMMAND, _LAST = 0x01, 0x02  # bits of the message control header (PS3.8 E.2)
#: Command fields (PS3.7 E.1): the requests that are served, and what asks for no answer.
_C_STORE, _C_ECHO, _N_EVENT_REPORT, _C_CANCEL, _RESPONSE = 0x0001, 0x0030, 0x0100, 0x0FFF, 0x8000
#: The service of a presentation context that is none for storage: its only request.
_SERVED = {str(Verification): _C_ECHO, str(StorageCommitmentPushModel): _N_EVENT_REPORT}
_STORAGE = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
#: A command set, and the data set of a request that is no C-STORE, are not longer than this.
_LONGEST_COMMAND_SET, _LONGEST_OTHER_DATA_SET = 64 * 1024, 1 << 20
#: Requests that wait for an answer, before no more is read from their peer, and that are served at
#: once.
_MOST_WAITING = 4
#: Seconds after which a thread that waits looks at its timers.
LOOK = 0.25


class Violation(Exception):
    """The peer breaks a rule of the protocol; the text is a code of ours."""


@dataclass(frozen=True)
class Limits:
    """Seconds for one PDU; bytes of the longest P-DATA-TF PDU and of the longest data set."""

    pdu_seconds: float
    longest_pdu: int
    longest_data_set: int


class InMemory:
    """An unfinished file that is none: for a receiver whose objects nobody keeps."""

    def __init__(self) -> None:
        self._content = BytesIO()

    def write(self, content: bytes | memoryview) -> None:
        self._content.write(content)

    def content(self) -> bytes:
        return self._content.getvalue()

    def discard(self) -> None:
        self._content = BytesIO()


class DataSet(BytesIO):
    """Where the fragments of one message's data set go: of a C-STORE request, into a file.

    What cannot be kept is read to its end all the same, for the peer expects a status: `file`
    raises it.
    """

    def __init__(self, message: DIMSEMessage, association: Association, begin: Begin) -> None:
        super().__init__()
        self._message = message
        self._association = association
        self._begin = begin
        self._file: Unfinished | None = None
        self._error: PrescreenError | None = None
        self.size = 0

    def write(self, fragment: Any) -> int:
        """Append a fragment."""
        self.size += len(fragment)
        if not isinstance(self._message, C_STORE_RQ):
            return super().write(fragment)
        if self._error is None:
            try:
                if self._file is None:
                    self._file = self._opened()
                self._file.write(fragment)
            except PrescreenError as error:
                self.discard()
                self._error = error
            except MemoryError:
                self.discard()
                self._error = OutOfResources("out of memory")
        return len(fragment)

    def file(self) -> Unfinished:
        """The file with preamble, meta information and the data set; the error that kept it out."""
        if self._error is not None:
            raise self._error
        if self._file is None:
            raise CannotUnderstand("the request has no data set")
        return self._file

    def discard(self) -> None:
        """Let go of a file that nobody kept."""
        if self._file is not None:
            self._file.discard()

    def _opened(self) -> Unfinished:
        """An unfinished file that holds preamble and meta information (PS3.10 7.1).

        They hold nothing that changes from one sending to the next.
        """
        command = self._message.command_set
        context = self._association._accepted_cx[self._message.context_id or 0]
        if not is_uid(command.AffectedSOPInstanceUID or ""):
            raise InvalidInstance("the command's SOP Instance UID is malformed")
        meta = create_file_meta(
            sop_class_uid=command.AffectedSOPClassUID,
            sop_instance_uid=command.AffectedSOPInstanceUID,
            transfer_syntax=context.transfer_syntax[0],
            implementation_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version=IMPLEMENTATION_VERSION_NAME,
        )
        head = b"".join((bytes(128), b"DICM", encode_file_meta(meta)))
        file = self._begin()
        file.write(head)
        return file


class Messages(DIMSEServiceProvider):
    """Puts requests together from their fragments; whoever asks for the next one waits for it."""

    def __init__(
        self,
        association: Association,
        limits: Limits,
        begin: Begin,
        violated: Callable[[str], None],
    ) -> None:
        super().__init__(association)
        self._limits = limits
        self._begin = begin
        self._violated = violated
        self._places = threading.BoundedSemaphore(_MOST_WAITING)
        #: Called when there is room again for what the peer sends.
        self.drained: Callable[[], None] = lambda: None

    def within_bounds(self, serve: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
        """The library's way to serve one request, so that no request can be too much for it.

        It gives each N-EVENT-REPORT a thread of its own, however many come; and what it does not
        expect ends its thread alone, which would leave the connection to nobody.
        """

        def serve_one(request: Any, context_id: int) -> None:
            if not self._places.acquire(blocking=False):
                return self._end("too_many_requests")
            try:
                serve(request, context_id)
            except Exception:  # the library raises what it likes over a request it does not know
                self._end("unexpected_request")
            finally:
                self._places.release()

        return serve_one

    @property
    def is_full(self) -> bool:
        """So many requests wait that no more shall be read."""
        return self.msg_queue.qsize() >= _MOST_WAITING

    def get_msg(self, block: bool = False) -> Any:
        """The next request, or (None, None) if there is none for a while or the peer is leaving.

        The association asks all the time; here it sleeps until there is something to look at.
        """
        was_full = self.is_full
        try:
            return self.msg_queue.get(timeout=self.dimse_timeout if block else LOOK)
        except Empty:
            return None, None
        finally:
            if was_full:
                self.drained()

    def wake(self) -> None:
        """Let who waits for a request look at whether the association still is one."""
        self.msg_queue.put((None, None))

    @property
    def is_amid(self) -> bool:
        """Whether a message has begun that has not come to its end."""
        return self.message is not None

    def take(self, values: Iterable[tuple[int, Any]]) -> None:
        """Take context id and value of each fragment of one PDU (PS3.8 9.3.5.1).

        An impossible one ends the association (Evt19).
        """
        try:
            for context_id, value in values:
                self._take(context_id, value)
        except Violation as violation:
            self._end(str(violation))
        except Exception:  # the library decodes the command set, and raises what it likes
            self._end("malformed_command_set")

    def _end(self, rule: str) -> None:
        self._violated(rule)
        self.dul.event_queue.put("Evt19")

    def _take(self, context_id: int, value: Any) -> None:
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = DataSet(self.message, self._assoc, self._begin)
        self._check(self.message, context_id, value)
        if not value[0] & (_COMMAND | _LAST) and self.message.data_set is not None:
            self.message.data_set.write(value[1:])  # most fragments: nothing follows from them
            return
        one = P_DATA()
        one._presentation_data_value_list = [(context_id, value)]
        self.cancel_req = {}  # nothing here can be cancelled: the library would queue the 11th
        super().receive_primitive(one)

    def abandon(self) -> None:
        """Remove what was not received to its end, or is not looked at any more."""
        if self.message is not None and isinstance(self.message.data_set, DataSet):
            self.message.data_set.discard()
        while not self.msg_queue.empty():
            try:
                _, request = self.msg_queue.get(block=False)
            except Empty:
                return
            data_set = getattr(request, "DataSet", None)
            if isinstance(data_set, DataSet):
                data_set.discard()

    def _check(self, message: DIMSEMessage, context_id: int, value: bytes) -> None:
        data_set = message.data_set
        if value[0] & _COMMAND:
            if message.context_id is not None:
                raise Violation("command_after_data_set")
            if message.encoded_command_set.tell() + len(value) > _LONGEST_COMMAND_SET:
                raise Violation("command_set_too_long")
            if value[0] & _LAST:
                command = message.encoded_command_set.getvalue() + bytes(value[1:])
                context = self._assoc._accepted_cx[context_id]
                _require_served(_elements(command), str(context.abstract_syntax))
            return
        if message.context_id is None or not isinstance(data_set, DataSet):
            raise Violation("data_set_before_command")
        if message.context_id != context_id:
            raise Violation("data_set_in_another_context")
        is_stored = isinstance(message, C_STORE_RQ)
        longest = self._limits.longest_data_set if is_stored else _LONGEST_OTHER_DATA_SET
        if data_set.size + len(value) > longest:
            raise Violation("data_set_too_long")


def _elements(command: bytes) -> dict[int, bytes]:
    """The values of a command set by element number (PS3.7 6.3.1: Implicit VR Little Endian)."""
    elements, at = {}, 0
    while at < len(command):
        group, element, length = struct.unpack_from("<HHI", command, at)
        if group != 0 or length > len(command) - at - 8:
            raise Violation("malformed_command_set")
        elements[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return elements


def _require_served(command: dict[int, bytes], abstract_syntax: str) -> None:
    """Violation unless a request is the one that its presentation context is for.

    The library goes by the SOP class that the command names, whatever was negotiated, and answers
    an N-service in a storage context as if it were a C-STORE. Responses and C-CANCEL pass: they ask
    for no answer and get none. A C-STORE of another storage class passes: it is told 0xA900.
    """
    (field,) = struct.unpack("<H", command.get(0x0100, b""))
    if field & _RESPONSE or field == _C_CANCEL:
        return
    sop_class = command.get(0x0002, b"").rstrip(b" \0").decode("ascii")
    if not (command.get(0x0110) and sop_class):
        raise Violation("malformed_command_set")
    if abstract_syntax in _SERVED:
        is_served = (field, sop_class) == (_SERVED[abstract_syntax], abstract_syntax)
    else:
        is_served = field == _C_STORE and sop_class in _STORAGE
    if not is_served:
        raise Violation("unexpected_request")
    if field == _C_STORE and not command.get(0x1000, b"").strip(b" \0"):
        raise Violation("no_instance_named")
