"""A Storage SCU that costs next to nothing: what goes over the wire is laid out beforehand.

A sender that parses and copies would be what a receiver's rate measures. This one negotiates one
presentation context, lays out the P-DATA-TF PDUs (PS3.8 9.3.5) of one object for the maximum
length the peer asks for, and then sends them again and again under fresh UIDs, put in place.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from pydicom.uid import UID

from prescreen.dicom.entity import IMPLEMENTATION_CLASS_UID

#: What stands for Study, Series and SOP Instance UID in an object; all fresh UIDs are as long.
PLACEHOLDERS = tuple(f"2.25.{10**38 + number}" for number in range(3))

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_CONTEXT_ID = 1
_COMMAND, _LAST = 0x01, 0x02
_ASSOCIATE_AC, _P_DATA, _RELEASE_RQ, _RELEASE_RP = 0x02, 0x04, 0x05, 0x06


@dataclass(frozen=True)
class Object:
    """A data set as it goes over the wire, its UIDs the PLACEHOLDERS."""

    sop_class_uid: UID
    transfer_syntax_uid: UID
    data_set: bytes


def fresh_uid() -> bytes:
    """A UID as long as the placeholders (44 characters)."""
    return f"2.25.{random.randrange(10**38 + 3, 2**128)}".encode()


def fresh_uids() -> tuple[bytes, bytes, bytes]:
    """UIDs of study, series and instance."""
    return fresh_uid(), fresh_uid(), fresh_uid()


class Association:
    """One association with a node on this machine that stores one object under ever new UIDs.

    ConnectionError where the peer rejects the association or the object's presentation context.
    """

    def __init__(self, port: int, called: str, sent: Object, calling: str = "MODALITY") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(_request(called, calling, sent))
        kind, answer = self._pdu()
        if kind != _ASSOCIATE_AC:
            raise ConnectionError(f"port {port}: association rejected (PDU type {kind})")
        self._wire = bytearray(_laid_out(sent, _accepted_length(answer)))
        self._places = [_places(self._wire, uid.encode()) for uid in PLACEHOLDERS]

    def store(self, uids: Sequence[bytes] = ()) -> float:
        """Send the object as a new study; when it is acknowledged, the time its last byte left.

        In seconds since 1970. `uids` are those of study, series and instance, as long as
        `fresh_uid` makes them: fresh ones, if none are given. ConnectionError where the status is
        not 0x0000.
        """
        for places, uid in zip(self._places, uids or fresh_uids(), strict=True):
            for place in places:
                self._wire[place : place + len(uid)] = uid
        self._socket.sendall(self._wire)
        left = time.time()
        status = _status(self._pdu()[1])
        if status != 0x0000:
            raise ConnectionError(f"stored with status 0x{status:04X}")
        return left

    def close(self) -> None:
        """Release the association."""
        self._socket.sendall(struct.pack(">BxI4x", _RELEASE_RQ, 4))
        while self._pdu()[0] != _RELEASE_RP:
            pass
        self._socket.close()

    def __enter__(self) -> Association:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        self._socket.close()

    def _pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part = self._socket.recv(length - len(parts))
            if not part:
                raise ConnectionError("the peer ended the association")
            parts += part
        return bytes(parts)


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _request(called: str, calling: str, sent: Object) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2) with one presentation context."""
    context = struct.pack(">Bxxx", _CONTEXT_ID)
    context += _item(0x30, sent.sop_class_uid.encode())
    context += _item(0x40, sent.transfer_syntax_uid.encode())
    user = _item(0x51, struct.pack(">I", 16_384)) + _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
    items = _item(0x10, _APPLICATION_CONTEXT.encode()) + _item(0x20, context) + _item(0x50, user)
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    content = struct.pack(">Hxx", 1) + titles + bytes(32) + items
    return struct.pack(">BxI", 0x01, len(content)) + content


def _accepted_length(answer: bytes) -> int:
    """The maximum PDU length of an A-ASSOCIATE-AC (PS3.8 9.3.3); ConnectionError if refused."""
    length, at = 16_384, 68
    while at < len(answer):
        kind, size = struct.unpack_from(">BxH", answer, at)
        if kind == 0x21 and answer[at + 6] != 0:
            raise ConnectionError("the presentation context was rejected")
        if kind == 0x51:
            length = struct.unpack_from(">I", answer, at + 4)[0] or 131_072
        at += 4 if kind == 0x50 else 4 + size  # the user information's items stand inside it
    return length


def _laid_out(sent: Object, length: int) -> bytes:
    """C-STORE-RQ and data set as P-DATA-TF PDUs of at most `length` bytes."""
    room = length - 6
    parts = [_p_data(_command(sent), _COMMAND | _LAST)]
    data_set = sent.data_set
    for begin in range(0, len(data_set), room):
        last = _LAST if begin + room >= len(data_set) else 0
        parts.append(_p_data(data_set[begin : begin + room], last))
    return b"".join(parts)


def _p_data(fragment: bytes, control: int) -> bytes:
    size = len(fragment)
    return struct.pack(">BxIIBB", _P_DATA, size + 6, size + 2, _CONTEXT_ID, control) + fragment


def _command(sent: Object) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    uid = sent.sop_class_uid.encode()
    elements = [
        (0x0002, uid + bytes(len(uid) % 2)),
        (0x0100, struct.pack("<H", 0x0001)),
        (0x0110, struct.pack("<H", 1)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 1)),
        (0x1000, PLACEHOLDERS[2].encode()),
    ]
    content = b"".join(struct.pack("<HHI", 0, tag, len(v)) + v for tag, v in elements)
    return struct.pack("<HHII", 0, 0, 4, len(content)) + content


def _places(wire: bytearray, uid: bytes) -> list[int]:
    """Where a UID stands on the wire; it must not lie across two fragments."""
    places, at = [], wire.find(uid)
    while at >= 0:
        places.append(at)
        at = wire.find(uid, at + len(uid))
    if not places:
        raise ValueError("a placeholder is not among the object's UIDs")
    return places


def _status(p_data: bytes) -> int:
    """Status (0000,0900) in the command set of a response."""
    at = 6
    while at < len(p_data):
        tag, size = struct.unpack_from("<xxHI", p_data, at)
        if tag == 0x0900:
            return int(struct.unpack_from("<H", p_data, at + 8)[0])
        at += 8 + size
    raise ConnectionError("the peer's answer holds no status")
