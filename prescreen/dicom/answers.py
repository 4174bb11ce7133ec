"""What a peer may say when we call it: PDUs that end in time, and no more than an answer can need.

The library reads a PDU of whatever length the peer names, for as long as the peer takes over it,
and puts an answer together for as long as parts of it come.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from pynetdicom.association import Association
from pynetdicom.events import Event

#: Bytes of a PDU: what negotiates is the longest (256 KiB are allowed to those who call us), data
#: come in the 16 KiB that we ask for.
LONGEST_PDU = 1 << 18
#: Bytes in answer to one request: a C-FIND of one study, with room for a careless peer.
LONGEST_ANSWER = 32 << 20
#: A longest PDU of fewer bytes (PS3.8 D.1) would take an object apart into millions of pieces.
SHORTEST_PDU = 1024


class Bounds:
    """How much the peer may still say before we hang up. `begin` is called for each request."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._left = LONGEST_ANSWER

    def begin(self) -> None:
        """A new request: its answer may be as long as any."""
        self._left = LONGEST_ANSWER

    def apply(self, event: Event) -> None:
        """Read from the peer within these bounds. Bound to EVT_CONN_OPEN."""
        connection = event.assoc.dul.socket
        if connection is not None and connection.socket is not None:
            read = partial(self._read, connection.socket)
            connection.recv = read  # type: ignore[method-assign]

    def _read(self, connection: Any, number: int) -> bytearray:
        """So many bytes, fewer where the peer left; an OSError ends the association (Evt17)."""
        self._left -= number
        if number > LONGEST_PDU or self._left < 0:
            raise ConnectionAbortedError
        content, deadline = bytearray(), time.monotonic() + self._seconds
        while len(content) < number:
            if time.monotonic() > deadline:
                raise TimeoutError
            part = connection.recv(number - len(content))
            if not part:
                break
            content += part
        return content


def pass_over_cancels(event: Event) -> None:
    """Nothing is cancelled here: the library would ask the eleventh what it answers, and end there.

    Bound to EVT_DIMSE_RECV.
    """
    event.assoc.dimse.cancel_req = {}


def is_too_short(association: Association) -> bool:
    """Whether the peer takes PDUs so short that nothing can be sent in them."""
    longest = association.acceptor.maximum_length
    return longest is not None and 0 < longest < SHORTEST_PDU
