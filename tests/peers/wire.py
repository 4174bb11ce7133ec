"""PDUs as bytes (PS3.8 9.3), to say on the wire what no library would."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
IMPLICIT = b"1.2.840.10008.1.2"
VERIFICATION = b"1.2.840.10008.1.1"
CR = b"1.2.840.10008.5.1.4.1.1.1"

ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, ABORT = 2, 3, 4, 7


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(content)) + content


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def request(
    calling: bytes,
    called: bytes = b"NODE",
    classes: Sequence[bytes] = (CR,),
    user: bytes = b"",
) -> bytes:
    """A-ASSOCIATE-RQ with a presentation context for each class, Implicit VR Little Endian."""
    contexts = b"".join(
        item(0x20, bytes([2 * number + 1, 0, 0, 0]) + item(0x30, uid) + item(0x40, IMPLICIT))
        for number, uid in enumerate(classes)
    )
    own = item(0x51, struct.pack(">I", 16_384)) + item(0x52, b"1.2.3.4") + user
    items = item(0x10, APPLICATION_CONTEXT) + contexts + item(0x50, own)
    titles = called.ljust(16)[:16] + calling.ljust(16)[:16]
    return pdu(1, struct.pack(">Hxx", 1) + titles + bytes(32) + items)


def pdv(fragment: bytes, control: int, context_id: int = 1) -> bytes:
    return struct.pack(">IBB", len(fragment) + 2, context_id, control) + fragment


def store_request(uid: bytes = b"1.2.3", sop_class: bytes = CR, data_set_type: int = 0) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    elements = [
        (0x0002, sop_class + bytes(len(sop_class) % 2)),
        (0x0100, struct.pack("<H", 0x0001)),
        (0x0110, struct.pack("<H", 1)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", data_set_type)),
        (0x1000, uid + bytes(len(uid) % 2)),
    ]
    content = b"".join(struct.pack("<HHI", 0, tag, len(v)) + v for tag, v in elements)
    return struct.pack("<HHII", 0, 0, 4, len(content)) + content


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def answer(connection: socket.socket) -> int:
    """The type of the PDU that comes next; 0 where the connection ends instead."""
    try:
        head = connection.recv(6, socket.MSG_WAITALL)
        if len(head) < 6:
            return 0
        connection.recv(struct.unpack(">I", head[2:])[0], socket.MSG_WAITALL)
    except ConnectionError:
        return 0
    return int(head[0])


def associated(port: int, calling: bytes) -> socket.socket:
    """A connection with an association for one class."""
    connection = connected(port)
    connection.sendall(request(calling))
    assert answer(connection) == ASSOCIATE_AC
    return connection
