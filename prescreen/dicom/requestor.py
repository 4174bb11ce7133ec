"""One association as requestor that stores objects: bytes to the wire, and no more (PS3.8, PS3.7).

Of all that a requestor may do this does one thing: C-STORE requests, one at a time, their data sets
as they lie on the disk. The library beside it makes a primitive, a PDU and a handful of queue
entries of every 16 KB, polls in two threads while the peer writes an object down, and sets up
machinery for an association that costs more than an object. Here everything is one thread that
waits for its socket, and each wait has an end.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Collection, Iterator

from pynetdicom.pdu import A_ASSOCIATE_RJ

from prescreen.dicom.answers import SHORTEST_PDU
from prescreen.dicom.entity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from prescreen.dicom.tls import calling
from prescreen.errors import PeerUnavailable
from prescreen.settings import Destination

#: A SOP class and the transfer syntax an object of it is stored in (UIDs).
Context = tuple[str, str]

_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_REQUEST, _ACCEPT, _REJECT, _P_DATA, _RELEASE, _RELEASED, _ABORT = range(1, 8)
_COMMAND, _LAST = 0x01, 0x02  # bits of the message control header (PS3.8 E.2)
_C_STORE_RSP, _NO_DATA_SET = 0x8001, 0x0101
#: PDUs that are laid out for the wire; a peer that wants longer ones gets these.
_LONGEST_SENT = 1 << 20
#: The longest PDU asked for, and what is read of one all the same; of a negotiation.
_LONGEST_READ, _SLACK, _LONGEST_NEGOTIATION = 16_384, 64, 1 << 18
_LONGEST_COMMAND_SET = 1 << 16
_MOST_CONTEXTS = 128  # their ids are odd and one byte long (PS3.8 9.3.2.2)
_AT_ONCE = 256  # pieces handed to the kernel in one call
_SECONDS_TO_RELEASE = 2.0


def named(destination: Destination, calling_ae_title: str) -> str:
    """Who is called by whom, as error texts name it."""
    to = destination
    return f"{to.name} ({calling_ae_title} to {to.ae_title} at {to.host}:{to.port})"


def why_no_connection(error: OSError, seconds: float) -> str:
    """In words, what the system says of a connection that could not be had."""
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:g} s; is it switched on, and is a firewall between?"
    return f"{(error.strerror or str(error)).lower()}; is the peer running there?"


def why_no_handshake(error: OSError) -> str:
    """The same of a TLS handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = getattr(error, "verify_message", None) or error.args[-1]
        return f"its certificate is not accepted: {why}; see authorities and name of its tls"
    why = getattr(error, "reason", None) or error.strerror or str(error)
    return f"TLS failed ({why}); does the peer speak TLS 1.2 or newer at that port?"


class _Lost(Exception):
    """The peer left, or sent what nobody may send."""


class Requestor:
    """An association with one destination, for C-STORE. Used by one thread.

    SettingsError where the certificate for it cannot be used.
    """

    def __init__(self, destination: Destination, calling_ae_title: str) -> None:
        self._destination = destination
        self._calling = destination.calling_ae_title or calling_ae_title
        self._tls = None if destination.tls is None else calling(destination.tls, destination.host)
        self._connection: socket.socket | None = None
        self._deadline = 0.0
        self._contexts: dict[Context, int] = {}
        self._room = _LONGEST_READ
        self._message_id = 0
        #: The peer took the last association, with whatever contexts.
        self.answered = False

    @property
    def who(self) -> str:
        """The peer, as error texts name it."""
        return named(self._destination, self._calling)

    @property
    def accepted(self) -> Collection[Context]:
        """SOP class and transfer syntax of what the peer takes on the last association."""
        return self._contexts.keys()

    @property
    def is_open(self) -> bool:
        """Whether the association stands; one that the peer has left meanwhile is closed."""
        if self._connection is None:
            return False
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if poll.poll(0):  # nothing the peer may say unasked lets an association go on
            self._leave_with()
        return self._connection is not None

    def open(self, contexts: Collection[Context]) -> None:
        """Connect and negotiate; PeerUnavailable says in which of the two it failed.

        Each pair in a presentation context of its own, so that what the peer takes is known before
        anything is sent. Where it takes none of them the association ends at once.
        """
        self.close()
        self.answered, self._contexts = False, {}
        offered = list(contexts)[:_MOST_CONTEXTS]
        limit = self._destination.acse_timeout
        self._connect(limit)
        started = time.monotonic()
        try:
            self._deadline = started + limit
            self._write([_request(self._destination.ae_title, self._calling, offered)])
            kind, answer = self._pdu(_LONGEST_NEGOTIATION)
            if kind == _ACCEPT:
                self._room, taken = _accepted(answer)
        except (OSError, _Lost) as error:
            self._abandon()
            is_late = isinstance(error, TimeoutError) or time.monotonic() - started >= limit
            raise PeerUnavailable(f"{self.who}: {self._why_no_answer(is_late, limit)}") from None
        if kind != _ACCEPT:
            self._abandon()
            why = _why_rejected(answer) if kind == _REJECT else None
            raise PeerUnavailable(f"{self.who}: {self._not_associated(why)}")
        if self._room < SHORTEST_PDU:
            self._abandon()
            longest = f"takes PDUs of {self._room} bytes at most; let it take 16384"
            raise PeerUnavailable(f"{self.who}: {longest}")
        self.answered = True
        numbers = {context: 2 * place + 1 for place, context in enumerate(offered)}
        self._contexts = {c: number for c, number in numbers.items() if taken.get(number) == c[1]}
        if not self._contexts:
            self.close()

    def store(self, context: Context, sop_instance_uid: str, data_set: bytes | memoryview) -> int:
        """The status with which the peer answers; `context` is one that it accepted.

        PeerUnavailable where it does not answer, or not within the time for one request, writing
        included.
        """
        started, limit = time.monotonic(), self._destination.dimse_timeout
        self._deadline = started + limit
        self._message_id = self._message_id % 0xFFFF + 1
        command = _command(context[0], sop_instance_uid, self._message_id)
        number, room = self._contexts[context], min(self._room, _LONGEST_SENT) - 6 & ~1
        try:
            self._write(_pdus(number, command, _COMMAND, room), _pdus(number, data_set, 0, room))
            return self._status()
        except TimeoutError:
            self._abandon()
        except (OSError, _Lost):
            self._abandon()
            if time.monotonic() - started < limit:
                raise PeerUnavailable(
                    f"{self.who}: the association was lost during C-STORE: the peer aborted it or "
                    "closed the connection"
                ) from None
        raise PeerUnavailable(f"{self.who}: no answer to C-STORE within {limit:g} s")

    def close(self) -> None:
        """Release the association, if there is one, and close the connection (PS3.8 7.2)."""
        if self._connection is None:
            return
        with contextlib.suppress(OSError, _Lost):
            self._deadline = time.monotonic() + _SECONDS_TO_RELEASE
            self._write([struct.pack(">BxI4x", _RELEASE, 4)])
            while self._pdu(_LONGEST_READ + _SLACK)[0] != _RELEASED:
                pass
        self._drop()

    # --- connection --------------------------------------------------------------------------

    def _connect(self, seconds: float) -> None:
        to, context = self._destination, None if self._tls is None else self._tls()
        try:
            connection = socket.create_connection((to.host, to.port), timeout=seconds)
        except OSError as error:
            why = why_no_connection(error, seconds)
            raise PeerUnavailable(f"{self.who}: cannot connect: {why}") from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            try:
                connection = context.wrap_socket(connection, server_hostname=to.host)
            except OSError as error:
                connection.close()
                why = why_no_handshake(error)
                raise PeerUnavailable(f"{self.who}: cannot connect: {why}") from None
        self._connection = connection

    def _why_no_answer(self, is_late: bool, limit: float) -> str:
        if is_late:
            return f"no answer to the association request within {limit:g} s"
        return self._not_associated(None)

    def _not_associated(self, why: str | None) -> str:
        if why is not None:
            return (
                f"the association was rejected ({why}); the peer must know our AE title "
                f"{self._calling} and call itself {self._destination.ae_title}"
            )
        words = "the association request was aborted, or the connection closed, by the peer"
        return words if self._tls is None else f"{words}; does it accept our certificate?"

    def _leave_with(self) -> None:
        """The peer wants to leave, or has left: its release is answered (PS3.8 7.2)."""
        with contextlib.suppress(OSError, _Lost):
            self._deadline = time.monotonic() + _SECONDS_TO_RELEASE
            if self._pdu(_LONGEST_READ + _SLACK)[0] == _RELEASE:
                self._write([struct.pack(">BxI4x", _RELEASED, 4)])
        self._drop()

    def _abandon(self) -> None:
        """Abort (PS3.8 7.3): the peer shall not wait for the rest."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.settimeout(0)
                self._connection.send(struct.pack(">BxI4x", _ABORT, 4))
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # --- PDUs --------------------------------------------------------------------------------

    def _patient(self) -> socket.socket:
        """The connection, with no more patience than is left. TimeoutError, _Lost."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if self._connection is None:
            raise _Lost
        self._connection.settimeout(min(left, self._destination.network_timeout))
        return self._connection

    def _write(self, *pdus: Collection[bytes] | Iterator[bytes | memoryview]) -> None:
        """Write all of it, many pieces in one system call."""
        pieces = [memoryview(piece) for some in pdus for piece in some]
        at = 0
        while at < len(pieces):
            connection = self._patient()
            if isinstance(connection, ssl.SSLSocket):
                connection.sendall(b"".join(pieces[at : at + _AT_ONCE]))
                at += _AT_ONCE
                continue
            sent = connection.sendmsg(pieces[at : at + _AT_ONCE])
            while at < len(pieces) and sent >= len(pieces[at]):
                sent -= len(pieces[at])
                at += 1
            if sent:
                pieces[at] = pieces[at][sent:]

    def _pdu(self, longest: int) -> tuple[int, bytes]:
        """Type and content of the next PDU."""
        kind, length = struct.unpack(">BxI", self._exactly(6))
        if length > longest:
            raise _Lost
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        content = bytearray()
        while len(content) < length:
            part = self._patient().recv(length - len(content))
            if not part:
                raise _Lost
            content += part
        return bytes(content)

    def _status(self) -> int:
        """Status of the answer to the last request (PS3.7 9.3.1.2)."""
        command = bytearray()
        while True:
            kind, content = self._pdu(_LONGEST_READ + _SLACK)
            if kind == _RELEASE:  # not before it has answered: so it never will
                self._write([struct.pack(">BxI4x", _RELEASED, 4)])
            if kind != _P_DATA:
                raise _Lost
            for control, fragment in _values(content):
                command += fragment
                if not control & _COMMAND or len(command) > _LONGEST_COMMAND_SET:
                    raise _Lost
                if control & _LAST:
                    return _status_of(bytes(command), self._message_id)


# --- encoding ------------------------------------------------------------------------------------


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _request(called: str, calling_title: str, contexts: Collection[Context]) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2) with the contexts 1, 3, 5 … in order."""
    items = [_item(0x10, _APPLICATION_CONTEXT)]
    for number, (sop_class, syntax) in enumerate(contexts):
        names = _item(0x30, sop_class.encode()) + _item(0x40, syntax.encode())
        items.append(_item(0x20, struct.pack(">Bxxx", 2 * number + 1) + names))
    user = _item(0x51, struct.pack(">I", _LONGEST_READ))
    user += _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
    user += _item(0x55, IMPLEMENTATION_VERSION_NAME.encode())
    titles = called.ljust(16).encode() + calling_title.ljust(16).encode()
    content = struct.pack(">Hxx", 1) + titles + bytes(32) + b"".join((*items, _item(0x50, user)))
    return struct.pack(">BxI", _REQUEST, len(content)) + content


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def _command(sop_class: str, sop_instance_uid: str, message_id: int) -> bytes:
    """The command set of a C-STORE-RQ of low priority (PS3.7 9.3.1.1)."""
    uids = [uid.encode() + b"\0" * (len(uid) % 2) for uid in (sop_class, sop_instance_uid)]
    words = ((0x0100, 0x0001), (0x0110, message_id), (0x0700, 0x0002), (0x0800, 0x0001))
    elements = [_element(0x0002, uids[0])]
    elements += [_element(number, struct.pack("<H", word)) for number, word in words]
    elements.append(_element(0x1000, uids[1]))
    content = b"".join(elements)
    return _element(0x0000, struct.pack("<I", len(content))) + content


def _pdus(
    number: int, content: bytes | memoryview, control: int, room: int
) -> Iterator[bytes | memoryview]:
    """Heads and fragments of P-DATA-TF PDUs (PS3.8 9.3.5) that hold `content`."""
    view = memoryview(content)
    for begin in range(0, max(len(view), 1), room):
        fragment = view[begin : begin + room]
        last = _LAST if begin + room >= len(view) else 0
        size = len(fragment)
        yield struct.pack(">BxIIBB", _P_DATA, size + 6, size + 2, number, control | last)
        yield fragment


# --- decoding ------------------------------------------------------------------------------------


def _items(content: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Type and content of each item from `at` on. _Lost where one is cut short."""
    while at < len(content):
        if at + 4 > len(content):
            raise _Lost
        kind, size = struct.unpack_from(">BxH", content, at)
        if at + 4 + size > len(content):
            raise _Lost
        yield kind, content[at + 4 : at + 4 + size]
        at += 4 + size


def _accepted(answer: bytes) -> tuple[int, dict[int, str]]:
    """The longest PDU the peer takes, and the syntax of each context that it does (PS3.8 9.3.3)."""
    room, taken = _LONGEST_READ, {}
    for kind, content in _items(answer, 68):
        if kind == 0x21 and len(content) >= 4 and content[2] == 0:
            syntaxes = [value for item, value in _items(content, 4) if item == 0x40]
            taken[content[0]] = b"".join(syntaxes).decode("ascii", "replace").strip(" \0")
        elif kind == 0x50:
            lengths = [value for item, value in _items(content, 0) if item == 0x51]
            room = int.from_bytes(lengths[0], "big") if lengths else room
    return room or _LONGEST_SENT, taken


def _why_rejected(answer: bytes) -> str:
    """Result and reason of an A-ASSOCIATE-RJ (PS3.8 9.3.4) in words."""
    rejection = A_ASSOCIATE_RJ()
    try:
        rejection.decode(struct.pack(">BxI", _REJECT, 4) + answer[:4].ljust(4, b"\0"))
        return f"{rejection.result_str.lower()}: {rejection.reason_str.lower()}"
    except (ValueError, LookupError):
        return "for a reason the standard does not know"


def _values(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Control header and fragment of each presentation data value (PS3.8 9.3.5.1)."""
    at = 0
    while at < len(content):
        if at + 6 > len(content):
            raise _Lost
        size = int.from_bytes(content[at : at + 4], "big")
        if size < 2 or at + 4 + size > len(content):
            raise _Lost
        yield content[at + 5], content[at + 6 : at + 4 + size]
        at += 4 + size


def _status_of(command: bytes, message_id: int) -> int:
    """Status (0000,0900) of a C-STORE-RSP to that request, without a data set; else _Lost."""
    words: dict[int, int] = {}
    at = 0
    while at + 8 <= len(command):
        group, number, size = struct.unpack_from("<HHI", command, at)
        if group == 0 and size == 2:
            words[number] = int.from_bytes(command[at + 8 : at + 10], "little")
        at += 8 + size
    is_answer = words.get(0x0100) == _C_STORE_RSP and words.get(0x0120) == message_id
    if not is_answer or words.get(0x0800, _NO_DATA_SET) != _NO_DATA_SET or 0x0900 not in words:
        raise _Lost
    return words[0x0900]
