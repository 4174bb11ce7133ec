"""The association server: it accepts, and leaves all else to the lobby and the upper layer."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynetdicom.association import Association
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler

from prescreen.dicom.lobby import Guest, Lobby
from prescreen.dicom.messages import Begin, Limits, Messages
from prescreen.dicom.upper_layer import Provider

#: Associations beyond the most there may be: they are there to be told so.
_TO_BE_TOLD = 8


@dataclass(frozen=True)
class House:
    """What an association needs of the node it comes to.

    `refused` is told address and rule; `tls` gives the context for the next connection.
    """

    limits: Limits
    begin: Begin
    refused: Callable[[str, str], None]
    seconds_to_ask: float
    places: int
    tls: Callable[[], ssl.SSLContext] | None = None


class Entrant(RequestHandler):
    """Makes an association of a guest that has asked for one."""

    server: Door

    def _create_association(self) -> Association:
        association = super()._create_association()
        house, guest = self.server.house, self.server.entering
        assert guest is not None
        address = guest.address[0]

        def violated(rule: str) -> None:
            house.refused(address, rule)

        association.dimse = messages = Messages(association, house.limits, house.begin, violated)
        association.dul = provider = Provider(
            association, messages, house.limits, bytes(guest.request), violated
        )
        provider.socket = AssociationSocket(association, client_socket=guest.connection)
        # these belong to the association, but are kept by its provider
        association.acse_timeout = self.ae.acse_timeout
        association.network_timeout = self.ae.network_timeout
        return association


class Door(AssociationServer):
    """Listens and accepts; who connects waits in the lobby until it has asked for an association.

    At most `maximum_associations` and a few that are told so have threads.
    """

    request_queue_size = 128

    def __init__(self, *arguments: Any, house: House, **options: Any) -> None:
        self.house = house
        self.entering: Guest | None = None
        self._lobby = Lobby(
            self._admit,
            self._has_room,
            house.refused,
            seconds=house.seconds_to_ask,
            places=house.places,
        )
        super().__init__(*arguments, **options)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection; under TLS its handshake is left to the lobby."""
        assert self.socket is not None
        connection, address = self.socket.accept()
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

    def service_actions(self) -> None:
        """Nothing: the library would collect garbage here; what it means by that is collected."""

    def process_request(self, request: Any, client_address: Any) -> None:
        """Let a connection into the lobby."""
        self._lobby.enter(request, client_address)

    def server_close(self) -> None:
        """Listen no more, and send away who waits."""
        super().server_close()
        self._lobby.close()

    def _has_room(self) -> bool:
        return len(self.active_associations) < self.ae.maximum_associations + _TO_BE_TOLD

    def _admit(self, guest: Guest) -> None:
        self.entering = guest  # the lobby's thread admits one at a time
        self.finish_request(guest.connection, guest.address)
