"""What receiving and sending share: one application entity, and the words for who is who."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import struct

from pydicom.uid import UID
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.events import Event

#: Ours, from a random UUID (PS3.5 B.2). It never changes: it stands in the file meta information of
#: what is kept, and the same data set sent twice must give the same file.
IMPLEMENTATION_CLASS_UID = UID("2.25.64170676541571461541103171310941986154")
IMPLEMENTATION_VERSION_NAME = "PRESCREEN"

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def _any_uid(value: str) -> tuple[bool, str]:
    return True, ""


# Three documented switches of the library below us, set once for the process:
# a UID that is too long must reach our handler, or the peer is aborted without a status;
_config.VALIDATORS["UI"] = _any_uid
# a file is sent as the bytes it holds, in pieces, never decoded and encoded again;
_config.STORE_SEND_CHUNKED_DATASET = True
# nothing is logged per PDU and message.
_config.LOG_HANDLER_LEVEL = "none"

# Its log lines carry what peers send, unfiltered and unlimited; ours say what matters. Who hunts a
# protocol fault sets the level of this logger first.
if logging.getLogger("pynetdicom").level == logging.NOTSET:
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


def application_entity(
    ae_title: str, *, acse_timeout: float, dimse_timeout: float, network_timeout: float
) -> AE:
    """An application entity with our implementation identity; timeouts in seconds."""
    entity = AE(ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.acse_timeout = acse_timeout
    entity.connection_timeout = acse_timeout
    entity.dimse_timeout = dimse_timeout
    entity.network_timeout = network_timeout
    return entity


def limit_blocking(event: Event, seconds: float) -> None:
    """Let the kernel end a read or write that makes no progress for `seconds`.

    The library's timers rest while its thread is blocked in the socket, so a peer that stops in
    the middle of a PDU would hold it for ever. Bound to EVT_CONN_OPEN.
    """
    connection = event.assoc.dul.socket
    if connection is None or connection.socket is None:
        return
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def look_less_often(event: Event) -> None:
    """Let the library look for what is to be done every 4 ms instead of every one.

    While a peer writes an object down there is nothing to be done: looking costs more than sending.
    Bound to EVT_CONN_OPEN.
    """
    event.assoc.dul._run_loop_delay = 0.004


def cut(association: Association) -> None:
    """Shut the connection down under the association, whoever is blocked in it."""
    connection = association.dul.socket
    if connection is not None and connection.socket is not None:
        with contextlib.suppress(OSError):  # closed already
            connection.socket.shutdown(socket.SHUT_RDWR)


def is_uid(value: str) -> bool:
    """True for digits and dots, at most 64 characters (PS3.5 9.1).

    Components with leading zeros are tolerated: modalities in use write them.
    """
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def printable(ae_title: str) -> str:
    """An AE title a peer sent, fit for logs and audit: printable ASCII, at most 16 characters."""
    stripped = ae_title.strip(" \0")[:16]
    return "".join(c if c.isascii() and c.isprintable() and c != "\\" else "?" for c in stripped)
