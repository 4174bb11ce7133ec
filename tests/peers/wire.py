"""PDUs as bytes (PS3.8 9.3), to say on the wire what no library would."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
IMPLICIT, EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"
VERIFICATION = b"1.2.840.10008.1.1"
CR = b"1.2.840.10008.5.1.4.1.1.1"

ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 2, 3, 4, 5, 6, 7


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(content)) + content


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def request(
    calling: bytes,
    called: bytes = b"NODE",
    classes: Sequence[bytes] = (CR,),
    user: bytes = b"",
    syntax: bytes = IMPLICIT,
) -> bytes:
    """A-ASSOCIATE-RQ with a presentation context for each class, in one transfer syntax."""
    contexts = b"".join(
        item(0x20, bytes([2 * number + 1, 0, 0, 0]) + item(0x30, uid) + item(0x40, syntax))
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
    return command(
        (0x0002, ui(sop_class)),
        (0x0100, us(0x0001)),
        (0x0110, us(1)),
        (0x0700, us(0)),
        (0x0800, us(data_set_type)),
        (0x1000, ui(uid)),
    )


def connected(port: int, timeout: float = 60) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def received(connection: socket.socket) -> tuple[int, bytes]:
    """Type and content of the PDU that comes next; (0, b"") where the connection ends instead."""
    try:
        head = _exactly(connection, 6)
        return head[0], _exactly(connection, struct.unpack(">I", head[2:])[0])
    except ConnectionError:
        return 0, b""


def _exactly(connection: socket.socket, length: int) -> bytes:
    """So many bytes: with a timeout, MSG_WAITALL does not wait for all."""
    content = b""
    while len(content) < length:
        part = connection.recv(length - len(content))
        if not part:
            raise ConnectionResetError
        content += part
    return content


def answer(connection: socket.socket) -> int:
    """The type of the PDU that comes next; 0 where the connection ends instead."""
    return received(connection)[0]


def associated(port: int, calling: bytes) -> socket.socket:
    """A connection with an association for one class."""
    connection = connected(port)
    connection.sendall(request(calling))
    assert answer(connection) == ASSOCIATE_AC
    return connection


def command(*elements: tuple[int, bytes]) -> bytes:
    """A command set (PS3.7 6.3.1) of elements of group 0000, its length in front."""
    content = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value for element, value in elements
    )
    return struct.pack("<HHII", 0, 0, 4, len(content)) + content


def us(number: int) -> bytes:
    """A value of VR US."""
    return struct.pack("<H", number)


def ui(uid: bytes) -> bytes:
    """A value of VR UI, padded."""
    return uid + bytes(len(uid) % 2)


def echo_request(message_id: int = 1) -> bytes:
    """The command set of a C-ECHO-RQ (PS3.7 9.3.5.1)."""
    return command(
        (0x0002, ui(VERIFICATION)),
        (0x0100, us(0x0030)),
        (0x0110, us(message_id)),
        (0x0800, us(0x0101)),
    )


def response(connection: socket.socket) -> dict[int, bytes]:
    """The command set of the response that comes next, by element; nothing where none comes."""
    kind, body = received(connection)
    if kind != P_DATA:
        return {}
    elements, at = {}, 6
    while at < len(body):
        element, size = struct.unpack_from("<xxHI", body, at)
        elements[element] = body[at + 8 : at + 8 + size]
        at += 8 + size
    return elements


def status(connection: socket.socket) -> int | None:
    """The status of the response that comes next; None where none comes."""
    found = response(connection).get(0x0900)
    return None if found is None else int(struct.unpack("<H", found)[0])


def echoed(connection: socket.socket, calling: bytes, called: bytes) -> bool:
    """Associate, C-ECHO, release; whether all of that was answered."""
    connection.sendall(request(calling, called, (VERIFICATION,)))
    if answer(connection) != ASSOCIATE_AC:
        return False
    connection.sendall(pdu(P_DATA, pdv(echo_request(), 3)))
    if status(connection) != 0:
        return False
    connection.sendall(pdu(RELEASE_RQ, bytes(4)))
    return answer(connection) == RELEASE_RP
