"""Where a connection waits until it has asked for an association: one thread for all of them.

Whoever connects costs a socket and what it has sent so far, no thread, until its A-ASSOCIATE-RQ
(PS3.8 9.3.2) is here to its last byte. There is a deadline for that, a longest length, and a limit
to how many may wait; the TLS handshake happens here too, so that no peer keeps others from being
accepted.

A request of a hundred presentation contexts costs the node many times what a C-ECHO does: such are
let in one after the other, and whoever asks for less goes first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from prescreen.dicom.upper_layer import LONGEST_NEGOTIATION

logger = logging.getLogger(__name__)

_A_ASSOCIATE_RQ, _HEADER, _SHORTEST = 0x01, 6, 68
#: A-ABORT by the service provider: unexpected PDU (PS3.8 9.3.8).
_ABORT = struct.pack(">BxI2xBB", 0x07, 4, 2, 2)
#: Bytes of a request that is answered at once: about fifteen contexts of three transfer syntaxes.
_SHORT = 2_048
#: Seconds that a long request waits for the one before it, at most, and until it looks again.
_TURN, _GLANCE = 0.25, 0.005

#: Whether the association that a guest became is still being negotiated.
Negotiates = Callable[[], bool]


@dataclass(eq=False)
class Guest:
    """A connection that is no association yet."""

    connection: socket.socket
    address: tuple[str, int]
    deadline: float
    shakes_hands: bool
    content: bytearray = field(default_factory=bytearray)

    @property
    def called(self) -> str:
        """The AE title it calls, as it stands in the request (PS3.8 Table 9-11)."""
        return self.content[10:26].decode("ascii", "replace").strip(" \0")

    @property
    def calling(self) -> str:
        """The AE title it calls itself."""
        return self.content[26:42].decode("ascii", "replace").strip(" \0")


class Turned(Exception):
    """A guest that will not be an association: the rule, and the PDU that tells it.

    Without a rule nobody else needs to be told.
    """

    def __init__(self, rule: str | None, answer: bytes = _ABORT) -> None:
        super().__init__(rule)
        self.rule = rule
        self.answer = answer


class Lobby:
    """Reads what guests send until they have asked for an association, then hands them to `admit`.

    `admit` takes the connection over, or raises Turned; what it returns tells whether the guest's
    association is still being negotiated. `refused` is told address and rule of who
    broke one: that of Turned, `no_request` (nothing within `seconds`, or not all of it),
    `not_dicom`, `request_too_long`, `tls`, `lobby_full`. At most `places` wait; the oldest makes
    room for a new one.
    """

    def __init__(
        self,
        admit: Callable[[Guest], Negotiates],
        refused: Callable[[str, str], None],
        *,
        seconds: float,
        places: int,
    ) -> None:
        self._admit = admit
        self._refused = refused
        self._seconds = seconds
        self._places = places
        self._new: deque[Guest] = deque()
        self._guests: dict[Guest, None] = {}  # in order of arrival
        self._long: deque[Guest] = deque()  # those of them who have asked for much
        self._negotiates: Negotiates = lambda: False
        self._turn_ends = 0.0
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._open = True
        self._thread = threading.Thread(target=self._run, name="lobby", daemon=True)
        self._thread.start()

    def enter(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Take a connection in; from the thread that accepts."""
        connection.setblocking(False)
        deadline = time.monotonic() + self._seconds
        shakes_hands = isinstance(connection, ssl.SSLSocket)
        self._new.append(Guest(connection, address, deadline, shakes_hands))
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Send everybody away and end the thread."""
        self._open = False
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for guest in [*self._new, *self._guests]:
            guest.connection.close()
        self._selector.close()
        os.close(self._wake)

    def _run(self) -> None:
        while self._open:
            try:
                self._turn()
            except Exception:  # whatever one guest brought about, the others are still there
                logger.exception("lobby: a turn failed")

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.data is None:
                os.eventfd_read(self._wake)
            else:
                self._look_at(key.data)
        while self._new:
            self._seat(self._new.popleft())
        self._let_a_long_one_in()
        self._send_late_away()

    def _patience(self) -> float | None:
        if self._long:
            return _GLANCE
        oldest = next(iter(self._guests), None)
        return None if oldest is None else max(0.0, oldest.deadline - time.monotonic())

    def _seat(self, guest: Guest) -> None:
        if len(self._guests) >= self._places:
            self._send_away(next(iter(self._guests)), "lobby_full")
        self._guests[guest] = None
        self._selector.register(guest.connection, selectors.EVENT_READ, guest)
        self._look_at(guest)

    def _look_at(self, guest: Guest) -> None:
        try:
            if guest.shakes_hands:
                self._shake_hands(guest)
            if not guest.shakes_hands and _has_asked(guest):
                self._selector.unregister(guest.connection)
                if len(guest.content) > _SHORT:
                    self._long.append(guest)
                else:
                    self._hand_on(guest)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._selector.modify(guest.connection, selectors.EVENT_READ, guest)
        except ssl.SSLWantWriteError:
            self._selector.modify(guest.connection, selectors.EVENT_WRITE, guest)
        except ssl.SSLError:
            self._send_away(guest, "tls")
        except Turned as turned:
            self._send_away(guest, turned.rule, turned.answer)
        except OSError:
            self._send_away(guest, None)  # it left

    def _shake_hands(self, guest: Guest) -> None:
        assert isinstance(guest.connection, ssl.SSLSocket)
        guest.connection.do_handshake()
        guest.shakes_hands = False

    def _send_late_away(self) -> None:
        now = time.monotonic()
        for guest in [guest for guest in self._guests if guest.deadline <= now]:
            self._send_away(guest, "no_request")

    def _send_away(self, guest: Guest, rule: str | None, answer: bytes = _ABORT) -> None:
        """Close a connection, the reason told; nothing is waited for."""
        self._guests.pop(guest, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(guest.connection)
        if not guest.shakes_hands:
            with contextlib.suppress(OSError):
                guest.connection.send(answer)
        guest.connection.close()
        if rule is not None:
            self._refused(guest.address[0], rule)

    def _hand_on(self, guest: Guest) -> Negotiates:
        negotiates = self._admit(guest)
        del self._guests[guest]
        return negotiates

    def _let_a_long_one_in(self) -> None:
        """Hand on the next long request, unless the one before it is still being negotiated."""
        now = time.monotonic()
        if not self._long or (now < self._turn_ends and self._negotiates()):
            return
        guest = self._long.popleft()
        if guest not in self._guests:
            return  # it was sent away meanwhile
        try:
            _require_still_there(guest)
            self._negotiates, self._turn_ends = self._hand_on(guest), now + _TURN
        except Turned as turned:
            self._send_away(guest, turned.rule, turned.answer)
        except OSError:
            self._send_away(guest, None)


def _require_still_there(guest: Guest) -> None:
    """ConnectionResetError where a guest left; of one under TLS it cannot be told."""
    if isinstance(guest.connection, ssl.SSLSocket):
        return
    with contextlib.suppress(BlockingIOError):
        if not guest.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError


def _has_asked(guest: Guest) -> bool:
    """Read on; True when the whole A-ASSOCIATE-RQ is here. Turned where it is none."""
    while True:
        wanted = _wanted(guest.content) - len(guest.content)
        if not wanted:
            return True
        part = guest.connection.recv(min(wanted, 65_536))
        if not part:
            raise ConnectionResetError
        guest.content += part


def _wanted(content: bytearray) -> int:
    """How long the request is, as far as it has told; Turned where it is none, or too long."""
    if content and content[0] != _A_ASSOCIATE_RQ:
        raise Turned("not_dicom")
    if len(content) < _HEADER:
        return _HEADER
    length = int(struct.unpack_from(">I", content, 2)[0])
    if length < _SHORTEST:
        raise Turned("not_dicom")
    if length > LONGEST_NEGOTIATION:
        raise Turned("request_too_long")
    return _HEADER + length
