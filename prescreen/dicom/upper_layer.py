"""The upper layer of an incoming association, hardened (PS3.8 9).

The library reads a PDU for as long as the peer likes, makes room for any length it names, copies it
half a dozen times, and asks a thousand times a second whether there is something to do. Here a PDU
has a deadline and a longest length, each presentation data value is checked before it is taken, and
both threads of an association sleep until something happens.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.transport import AssociationSocket

from prescreen.dicom.messages import LOOK, Limits, Messages, Violation
from prescreen.errors import trace_of

logger = logging.getLogger(__name__)

_P_DATA, _HEADER = 0x04, 6
#: Lengths of the PDUs that have one only (PS3.8 9.3.4, 9.3.6 to 9.3.8), and of the negotiating.
_SHORT_PDUS = frozenset({0x03, 0x05, 0x06, 0x07})
LONGEST_NEGOTIATION = 256 * 1024
#: What a peer may add to the length we asked for: some count the header in.
_SLACK = 64


class Connection(AssociationSocket):
    """The connection of an association: when it is closed its descriptor is free.

    The library closes nothing that it cannot shut down first, and what the peer reset it cannot. It
    lets go of the socket then, but more than one of its objects knows it: the descriptor would be
    left to the garbage collector, which an idle receiver never calls.
    """

    def _shutdown_socket(self) -> None:
        if self.socket is None:
            return
        with contextlib.suppress(OSError):  # the peer reset it, or it was closed already
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class _Indications(Queue[Any]):
    """What the peer wants beside requests (release, abort); whoever waits for requests is woken."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__()
        self._wake = wake

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._wake()


class Provider(DULServiceProvider):
    """The upper layer of one association whose A-ASSOCIATE-RQ was read already.

    `violated` is told the rule that a peer broke, `pdu_deadline` among them.
    """

    def __init__(
        self,
        association: Association,
        messages: Messages,
        limits: Limits,
        request: A_ASSOCIATE_RQ,
        violated: Callable[[str], None],
    ) -> None:
        super().__init__(association)
        self._messages = messages
        self._limits = limits
        self._request: A_ASSOCIATE_RQ | None = request
        self._violated = violated
        self._run_loop_delay = 0.0  # it sleeps where it waits for the peer
        self._buffer = memoryview(bytearray(0))
        self._patience = 0.0
        self._wake = -1  # while the thread runs, and as it starts, what wakes it
        self._waking = threading.Lock()
        self.to_user_queue = _Indications(messages.wake)
        messages.drained = self.rouse

    def start(self) -> None:
        """Start the thread; where the system has none to give, the association ends."""
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            super().start()
        except Exception as error:
            logger.error("an association got no thread: %s", trace_of(error))
            self._let_go()
            raise

    def outliving(self, run: Callable[[], None]) -> Callable[[], None]:
        """The library's way to run the association, so that no connection is left to nobody.

        What it does not expect in a request ends its thread alone: this one would wait for the
        answer for as long as the peer does.
        """

        def run_to_the_end() -> None:
            try:
                run()
            except Exception:  # the library raises what it likes over a context without a syntax
                if self.is_alive():
                    self._violated("malformed_request")
                    self.event_queue.put("Evt19")
                    self.rouse()

        return run_to_the_end

    def rouse(self) -> None:
        """Let the thread look at what there is to do; from any thread, at any time."""
        with self._waking:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def run_reactor(self) -> None:
        """Run until the association ends, and let go of what it leaves behind."""
        try:
            super().run_reactor()
        except Exception:  # the library's state machine knows no way on: the association ends
            self._violated("unexpected_pdu")
        finally:
            self._let_go()

    def _let_go(self) -> None:
        with self._waking:
            if self._wake >= 0:
                os.close(self._wake)
            self._wake = -1
        if self.socket is not None:
            self.socket._shutdown_socket()
        self._messages.abandon()
        self._messages.wake()
        self._buffer = memoryview(bytearray(0))

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> Any:
        """What the peer wants beside requests, or None; waited for while the thread runs.

        The association waits for its own request alone, which was read already. After `timeout` it
        would still come, to nobody; and of a thread that has rejected it nothing comes any more.
        """
        while True:
            lives = self.is_alive()
            primitive = super().receive_pdu(wait and lives, LOOK)
            if primitive is not None or not (wait and lives):
                return primitive

    def _send(self, pdu: Any) -> None:
        """Write a PDU, for no longer than one may take."""
        self._be_patient(self._limits.pdu_seconds)
        super()._send(pdu)

    def send_pdu(self, primitive: Any) -> None:
        """Queue a primitive for the peer, and rouse the thread that sends it."""
        super().send_pdu(primitive)
        self.rouse()

    def kill_dul(self) -> None:
        """End the thread soon."""
        super().kill_dul()
        self.rouse()

    def stop_dul(self) -> bool:
        """End the thread if it is idle; True when it has ended."""
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        if threading.current_thread() is not self:
            self.join()
        return True

    def _is_transport_event(self) -> bool:
        """Wait a while for the peer, and take what it sent; True if that made an event.

        Nothing is read while an event waits: what was read before lies in the same buffer.
        """
        if not self.event_queue.empty():
            return False
        if self.state_machine.current_state == "Sta13" and self.socket is not None:
            self.socket.close()  # nothing the peer may still send is worth waiting for
            return True
        if self._request is None and not self._something_came():
            return False
        self._read_pdu_data()
        return True

    def _something_came(self) -> bool:
        """Sleep until the peer sent something (True), somebody rouses us, or it is time to look."""
        connection = self.socket.socket if self.socket is not None else None
        listens = connection is not None and not self._messages.is_full
        pending = getattr(connection, "pending", None)
        if listens and pending is not None and pending():
            return True  # TLS has unpacked more than was asked for
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if listens and connection is not None:
            if connection.fileno() < 0:
                return True  # closed by another thread: reading says so
            poll.register(connection, select.POLLIN)
        ready = dict(poll.poll(1000 * LOOK))
        if ready.pop(self._wake, None):
            os.eventfd_read(self._wake)
        return bool(ready)

    def _be_patient(self, seconds: float) -> None:
        """Let no read and no write take longer than this."""
        if self.socket is not None and self.socket.socket is not None:
            self.socket.socket.settimeout(seconds)
            self._patience = seconds

    def _read_pdu_data(self) -> None:
        """Read one PDU and queue its event (PS3.8 9.2): 17 connection lost, 19 invalid PDU.

        Fragments make none (DT-2 of an established association), and are read for as long as more
        of their message is here already.
        """
        event = None
        try:
            while event is None:
                event = self._read()
                if event is None and not self._more_has_come():
                    return
        except TimeoutError:
            self._violated("pdu_deadline")
            event = "Evt17"
        except OSError:
            event = "Evt17"
        except Violation as violation:
            self._violated(str(violation))
            event = "Evt19"
        except Exception:  # the library decodes: hostile content raises what it likes
            self._violated("malformed_pdu")
            event = "Evt19"
        self.event_queue.put(event)

    def _more_has_come(self) -> bool:
        """Whether the rest of a message, or some of it, can be read now, and shall be."""
        connection = self.socket.socket if self.socket is not None else None
        if connection is None or not self._messages.is_amid or not self.event_queue.empty():
            return False
        if self._kill_thread or not self.to_provider_queue.empty():
            return False
        pending = getattr(connection, "pending", None)
        if pending is not None and pending():
            return True
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0))

    def _read(self) -> str | None:
        if self._request is not None:
            self._recv_pdu.put(self._request)
            self._request = None
            return "Evt6"
        kind, body = self._pdu()
        if kind == _P_DATA and self.state_machine.current_state == "Sta6":
            self._messages.take(list(self._values(body)))
            return None
        pdu, event = self._decode_pdu(bytearray(struct.pack(">BxI", kind, len(body)) + body))
        self._recv_pdu.put(pdu)
        return event

    def _pdu(self) -> tuple[int, memoryview]:
        """Type and content of the next PDU; the content counts until the next one is read."""
        deadline = time.monotonic() + self._limits.pdu_seconds
        header = bytearray(_HEADER)
        self._fill(memoryview(header), deadline)
        kind, length = struct.unpack(">BxI", header)
        if length > self._longest(kind):
            raise Violation("pdu_too_long")
        if len(self._buffer) < length:
            self._buffer = memoryview(bytearray(max(length, self._limits.longest_pdu)))
        body = self._buffer[:length]
        self._fill(body, deadline)
        return kind, body

    def _longest(self, kind: int) -> int:
        if kind == _P_DATA:
            return self._limits.longest_pdu + _SLACK
        if kind in _SHORT_PDUS:
            return 4
        if kind in (0x01, 0x02):
            return LONGEST_NEGOTIATION
        raise Violation("unknown_pdu")

    def _fill(self, room: memoryview, deadline: float) -> None:
        """Read until `room` is full. TimeoutError at the deadline, OSError where the peer left."""
        connection = self.socket.socket if self.socket is not None else None
        while room:
            left = deadline - time.monotonic()
            if connection is None:
                raise ConnectionResetError
            if left <= 0:
                raise TimeoutError
            if not left <= self._patience <= 1.1 * left:  # most of the time: a system call less
                self._be_patient(left)
            count = connection.recv_into(room)
            if not count:
                raise ConnectionResetError
            room = room[count:]

    def _values(self, body: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Context id and value (message control header first) of each PDV (PS3.8 9.3.5.1)."""
        at, end = 0, len(body)
        if not end:
            raise Violation("empty_pdu")
        while at < end:
            if end - at < _HEADER:
                raise Violation("malformed_pdv")
            length, context_id = struct.unpack_from(">IB", body, at)
            if not 2 <= length <= end - at - 4:
                raise Violation("malformed_pdv")
            if context_id not in self.assoc._accepted_cx:
                raise Violation("context_not_accepted")
            yield context_id, body[at + 5 : at + 4 + length]
            at += 4 + length
