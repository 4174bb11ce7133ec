"""Who may associate: AE titles, network and certificate must agree with the settings, and when."""

from __future__ import annotations

import ipaddress
import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from prescreen import settings
from prescreen.dicom.entity import printable
from prescreen.dicom.lobby import Guest, Turned
from prescreen.dicom.refusals import Refusals
from prescreen.errors import trace_of

logger = logging.getLogger(__name__)

#: Result, source and reason of a rejection (PS3.8 Table 9-21).
_PERMANENT, _TRANSIENT = 0x01, 0x02
_BY_SERVICE_USER, _BY_PRESENTATION = 0x01, 0x03
_CALLING_NOT_RECOGNISED, _CALLED_NOT_RECOGNISED = 0x03, 0x07
_TEMPORARY_CONGESTION, _LOCAL_LIMIT_EXCEEDED = 0x01, 0x02

#: So many come in although the house is full: peers of whom nobody is inside. Or else two peers
#: that take all they may, and sit there, would keep all others out.
RESERVED = 16

#: A peer that broke the protocol so often in so many seconds is let in once in a while only, for an
#: association costs the node more than it costs those who do nothing but break it.
OFFENCES, _WITHIN, _PAUSE = 20, 10.0, 1.0

#: Calling AE title and address.
Who = tuple[str, str]
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
    """Who is inside, and who may join them. What it rejects it tells `refusals`.

    `congestion` is asked for each association that could bring objects; others (C-ECHO) come in
    all the same.
    """

    def __init__(
        self, receive: settings.Receive, refusals: Refusals, congestion: Congestion
    ) -> None:
        self._settings = receive
        self._refusals = refusals
        self._congestion = congestion
        self._inside: list[tuple[Association, Who]] = []
        self._offences: dict[Who, deque[float]] = {}
        self._judging = threading.Lock()

    @contextmanager
    def judged(
        self, guest: Guest, names: frozenset[str] | None
    ) -> Iterator[Callable[[Association], None]]:
        """Gives the function that counts a guest's association in; or raises Turned.

        One guest at a time, so that limits are exact. Only the fixed fields of its request were
        looked at so far. PS3.8 7.1.1.7 to 7.1.1.9 and Table 9-21: permanent, by the service user,
        calling (3) or called (7) AE title not recognised; an unknown network or certificate is
        answered like an unknown title. Transient, by the presentation service provider: local limit
        exceeded (2).
        """
        who = guest.calling, guest.address[0]
        with self._judging:
            rule = self._rule(guest, names)
            if rule is not None:
                called = rule == "called_ae_title"
                reason = _CALLED_NOT_RECOGNISED if called else _CALLING_NOT_RECOGNISED
                raise self._turned(guest, rule, _PERMANENT, _BY_SERVICE_USER, reason)
            rule = self._limit(who)
            if rule is not None:
                answer = (_TRANSIENT, _BY_PRESENTATION, _LOCAL_LIMIT_EXCEEDED)
                raise self._turned(guest, rule, *answer)
            yield lambda association: self._inside.append((association, who))

    def offended(self, guest: Guest) -> None:
        """Take down that a guest who was let in broke the protocol; from any thread."""
        now = time.monotonic()
        with self._judging:
            late = [who for who, times in self._offences.items() if now - times[-1] > _WITHIN]
            for who in late:
                del self._offences[who]
            who = guest.calling, guest.address[0]
            self._offences.setdefault(who, deque(maxlen=OFFENCES)).append(now)

    def look_at_contexts(self, event: evt.Event) -> None:
        """Reject who wants to send while nothing can be taken in. Bound to EVT_REQUESTED.

        Transient, by the presentation service provider: temporary congestion (1).
        """
        association = event.assoc
        rule = self._congestion() if _may_store(association) else None
        if rule is None:
            return
        association.acse.send_reject(_TRANSIENT, _BY_PRESENTATION, _TEMPORARY_CONGESTION)
        association.kill()  # returns when the rejection has left
        request: Any = association.requestor.primitive
        titles = printable(request.calling_ae_title), printable(request.called_ae_title)
        self._refusals.association(*titles, association.requestor.address, rule)

    def _rule(self, guest: Guest, names: frozenset[str] | None) -> str | None:
        """Anything unforeseen keeps out."""
        address = guest.address[0]
        try:
            return refusal_rule(self._settings, guest.called, guest.calling, address, names)
        except Exception as error:
            logger.error("association from %s could not be judged: %s", address, trace_of(error))
            return "undecided"

    def _limit(self, who: Who) -> str | None:
        """The limit that one more of this peer would exceed."""
        self._inside = [(other, its) for other, its in self._inside if other.is_alive()]
        if self._is_a_nuisance(who):
            return "too_many_violations"
        same = sum(its == who for _, its in self._inside)
        most = self._settings.max_associations + (0 if same else RESERVED)
        if len(self._inside) >= most:
            return "max_associations"
        if same >= self._settings.max_associations_per_peer:
            return "max_associations_per_peer"
        return None

    def _is_a_nuisance(self, who: Who) -> bool:
        times = self._offences.get(who)
        if times is None or len(times) < OFFENCES:
            return False
        now = time.monotonic()
        return now - times[0] < _WITHIN and now - times[-1] < _PAUSE

    def _turned(self, guest: Guest, rule: str, result: int, source: int, reason: int) -> Turned:
        titles = printable(guest.calling), printable(guest.called)
        self._refusals.association(*titles, guest.address[0], rule)
        return Turned(None, struct.pack(">BxIxBBB", 0x03, 4, result, source, reason))


def _may_store(association: Association) -> bool:
    asked = association.requestor.requested_contexts
    return any(context.abstract_syntax != Verification for context in asked)
