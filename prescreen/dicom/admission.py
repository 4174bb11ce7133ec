"""Who may associate: AE titles, network and certificate must agree with the settings, and when."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Sequence
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from prescreen import settings
from prescreen.dicom.entity import printable
from prescreen.dicom.refusals import Refusals, trace
from prescreen.dicom.tls import certificate_names

logger = logging.getLogger(__name__)

#: Result, source and reason of a rejection (PS3.8 Table 9-21).
_PERMANENT, _TRANSIENT = 0x01, 0x02
_BY_SERVICE_USER, _BY_PRESENTATION = 0x01, 0x03
_CALLING_NOT_RECOGNISED, _CALLED_NOT_RECOGNISED = 0x03, 0x07
_TEMPORARY_CONGESTION, _LOCAL_LIMIT_EXCEEDED = 0x01, 0x02

#: Why nothing can be taken in just now (a code), or None.
Congestion = Callable[[], str | None]


def refusal_rule(
    receive: settings.Receive,
    called: str,
    calling: str,
    address: str,
    names: frozenset[str] | None = None,
) -> str | None:
    """The rule that keeps a peer out, or None where it may come in.

    `called_ae_title`: it asked for another node. `calling_ae_title`: no configured peer has that
    title. `network`: a peer has, but may not come from `address`. `certificate`: it came in clear
    (`names` is None) and must come by TLS, or by TLS and its certificate carries another name than
    the one configured. Nobody is configured in fresh settings, so nobody comes in.
    """
    if called.strip() != receive.ae_title:
        return "called_ae_title"
    peers = [peer for peer in receive.peers if peer.ae_title == calling.strip()]
    if not peers:
        return "calling_ae_title"
    peers = [peer for peer in peers if _inside(address, peer.networks)]
    if not peers:
        return "network"
    if not any(_certified(peer, names) for peer in peers):
        return "certificate"
    return None


def _inside(address: str, networks: Sequence[str]) -> bool:
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # a listener on :: sees IPv4 peers this way
    return any(ip in ipaddress.ip_network(network) for network in networks)


def _certified(peer: settings.Peer, names: frozenset[str] | None) -> bool:
    if names is None or peer.certificate is None:
        return names is None and peer.certificate is None
    return peer.certificate.casefold() in names


class Admission:
    """Lets associations in, or rejects them and tells `refusals`.

    `congestion` is asked for each association that could bring objects; others (C-ECHO) come in
    all the same.
    """

    def __init__(
        self, receive: settings.Receive, refusals: Refusals, congestion: Congestion
    ) -> None:
        self._settings = receive
        self._refusals = refusals
        self._congestion = congestion

    def admit(self, event: evt.Event) -> None:
        """Reject the association unless all rules let it in. Bound to EVT_REQUESTED.

        PS3.8 7.1.1.7 to 7.1.1.9 and Table 9-21: permanent, by the service user, calling (3) or
        called (7) AE title not recognised; an unknown network or certificate is answered like an
        unknown title. Transient, by the presentation service provider: temporary congestion (1),
        local limit exceeded (2). Anything unforeseen rejects.
        """
        association = event.assoc
        rule = self._rule(association)
        if rule is not None:
            called = rule == "called_ae_title"
            reason = _CALLED_NOT_RECOGNISED if called else _CALLING_NOT_RECOGNISED
            self._reject(association, rule, _PERMANENT, _BY_SERVICE_USER, reason)
        elif self._is_crowded(association):
            rule = "max_associations_per_peer"
            self._reject(association, rule, _TRANSIENT, _BY_PRESENTATION, _LOCAL_LIMIT_EXCEEDED)
        elif _may_store(association) and (rule := self._congestion()) is not None:
            self._reject(association, rule, _TRANSIENT, _BY_PRESENTATION, _TEMPORARY_CONGESTION)

    def was_rejected(self, event: evt.Event) -> None:
        """Tell of those the library turned away: transient, local limit exceeded."""
        answer = event.assoc.acceptor.primitive
        if answer is not None and answer.result_source == _BY_PRESENTATION:
            self._tell(event.assoc, "max_associations")

    def _rule(self, association: Association) -> str | None:
        request: Any = association.requestor.primitive
        address = association.requestor.address
        connection = association.dul.socket.socket if association.dul.socket else None
        try:
            return refusal_rule(
                self._settings,
                request.called_ae_title,
                request.calling_ae_title,
                address,
                certificate_names(connection),
            )
        except Exception as error:
            logger.error("association from %s could not be judged: %s", address, trace(error))
            return "undecided"

    def _is_crowded(self, association: Association) -> bool:
        """Whether the same peer has as many associations as one may have."""
        who = _who(association)
        others = [
            other
            for other in association.ae.active_associations
            if other is not association and other.is_established and _who(other) == who
        ]
        return len(others) >= self._settings.max_associations_per_peer

    def _reject(
        self, association: Association, rule: str, result: int, source: int, reason: int
    ) -> None:
        association.acse.send_reject(result, source, reason)
        association.kill()  # returns when the rejection has left
        self._tell(association, rule)

    def _tell(self, association: Association, rule: str) -> None:
        request: Any = association.requestor.primitive
        self._refusals.association(
            printable(request.calling_ae_title),
            printable(request.called_ae_title),
            association.requestor.address,
            rule,
        )


def _who(association: Association) -> tuple[str, str]:
    request: Any = association.requestor.primitive
    return request.calling_ae_title.strip(), association.requestor.address


def _may_store(association: Association) -> bool:
    asked = association.requestor.requested_contexts
    return any(context.abstract_syntax != Verification for context in asked)
