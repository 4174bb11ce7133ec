"""The association server: it accepts, and leaves all else to lobby, admission and upper layer."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.transport import AssociationServer, RequestHandler

from prescreen.dicom.admission import Admission
from prescreen.dicom.lobby import Guest, Lobby, Negotiates, Turned
from prescreen.dicom.messages import Begin, Limits, Messages
from prescreen.dicom.throttle import Throttle
from prescreen.dicom.tls import certificate_names
from prescreen.dicom.upper_layer import Connection, Provider

logger = logging.getLogger(__name__)

#: What the system lacks when a connection cannot be accepted, and stays where it is.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Seconds until it is tried again; those who are inside need the processor meanwhile.
_BREATH = 0.2


@dataclass(frozen=True)
class House:
    """What an association needs of the node it comes to.

    `places` is how many may wait in the lobby, and `seconds_to_ask` for how long. `refused` is told
    address and rule; `tls` gives the context for the next connection.
    """

    limits: Limits
    begin: Begin
    admission: Admission
    refused: Callable[[str, str], None]
    seconds_to_ask: float
    places: int
    tls: Callable[[], ssl.SSLContext] | None = None


class Entrant(RequestHandler):
    """Makes an association of a guest that was let in."""

    server: Door

    def _create_association(self) -> Association:
        association = super()._create_association()
        house, (guest, request) = self.server.house, self.server.entering
        address = guest.address[0]

        def violated(rule: str) -> None:
            house.admission.offended(guest)
            house.refused(address, rule)

        association.dimse = messages = Messages(association, house.limits, house.begin, violated)
        association.dul = provider = Provider(
            association, messages, house.limits, request, violated
        )
        serve = messages.within_bounds(association._serve_request)
        association._serve_request = serve  # type: ignore[method-assign, assignment]
        association.run = provider.outliving(association.run)  # type: ignore[method-assign]
        provider.socket = Connection(association, client_socket=guest.connection)
        # these belong to the association, but are kept by its provider
        association.acse_timeout = self.ae.acse_timeout
        association.network_timeout = self.ae.network_timeout
        self.server.entered = association
        return association


class Door(AssociationServer):
    """Listens and accepts; who connects waits in the lobby until it has asked for an association.

    Only who is let in gets threads.
    """

    request_queue_size = 128
    entering: tuple[Guest, A_ASSOCIATE_RQ]
    entered: Association

    def __init__(self, *arguments: Any, house: House, **options: Any) -> None:
        self.house = house
        self._lobby = Lobby(
            self._admit, house.refused, seconds=house.seconds_to_ask, places=house.places
        )
        self._exhausted = Throttle()
        super().__init__(*arguments, **options)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection; under TLS its handshake is left to the lobby."""
        assert self.socket is not None
        try:
            connection, address = self.socket.accept()
        except OSError as error:
            self._wait_for_room(error)
            raise
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.house.tls is not None:
                connection = self.house.tls().wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
        except OSError:
            connection.close()
            raise
        return connection, address

    def _wait_for_room(self, error: OSError) -> None:
        """The connection is announced again at once: without a pause this would never rest."""
        if error.errno not in _EXHAUSTED:
            return
        if self._exhausted.admit(("accept",)) is not None:
            logger.error(
                "no connection can be accepted (%s); tried again all the time: "
                "end some connections or raise the limit of open files",
                error.strerror,
            )
        time.sleep(_BREATH)

    def service_actions(self) -> None:
        """Nothing: the library would collect garbage here; what it means by that is collected."""

    def process_request(self, request: Any, client_address: Any) -> None:
        """Let a connection into the lobby."""
        self._lobby.enter(request, client_address)

    def server_close(self) -> None:
        """Listen no more, and send away who waits."""
        super().server_close()
        self._lobby.close()

    def _admit(self, guest: Guest) -> Negotiates:
        """Make an association of a guest, or Turned; whether it still is negotiated."""
        names = certificate_names(guest.connection)
        with self.house.admission.judged(guest, names) as enter:
            self.entering = guest, _decoded(guest)
            self.finish_request(guest.connection, guest.address)
            association = self.entered
            enter(association)
        return lambda: association.is_alive() and _awaits_answer(association)


class _Request(A_ASSOCIATE_RQ):
    """A request that is looked at twice and translated once: that takes a third of its time."""

    _primitive: Any = None

    def to_primitive(self) -> Any:
        """The A-ASSOCIATE indication (PS3.8 7.1.1), each time the same."""
        self._primitive = self._primitive or super().to_primitive()
        return self._primitive


def _awaits_answer(association: Association) -> bool:
    """Whether neither acceptance nor rejection has left (PS3.8 9.2, Table 9-10)."""
    return association.dul.state_machine.current_state in ("Sta1", "Sta2", "Sta3")


def _decoded(guest: Guest) -> A_ASSOCIATE_RQ:
    """Turned where the request is not what a peer can mean."""
    request = _Request()
    try:
        request.decode(bytes(guest.content))
        request.to_primitive()
    except Exception:  # the library decodes: hostile content raises what it likes
        raise Turned("malformed_request") from None
    return request
