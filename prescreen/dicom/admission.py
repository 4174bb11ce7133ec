"""Who may associate: called and calling AE title and the network must agree with the settings."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from prescreen import settings


def refusal_rule(receive: settings.Receive, called: str, calling: str, address: str) -> str | None:
    """The rule that keeps a peer out, or None where it may come in.

    `called_ae_title`: it asked for another node. `calling_ae_title`: no configured peer has that
    title. `network`: a peer has, but may not come from `address`. Nobody is configured in fresh
    settings, so nobody comes in.
    """
    if called.strip() != receive.ae_title:
        return "called_ae_title"
    peers = [peer for peer in receive.peers if peer.ae_title == calling.strip()]
    if not peers:
        return "calling_ae_title"
    if not any(_inside(address, peer.networks) for peer in peers):
        return "network"
    return None


def _inside(address: str, networks: Sequence[str]) -> bool:
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # a listener on :: sees IPv4 peers this way
    return any(ip in ipaddress.ip_network(network) for network in networks)
