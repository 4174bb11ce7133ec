"""The lobby lets long requests in one after the other, and short ones before them (row W6)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from prescreen.dicom import lobby
from prescreen.dicom.lobby import Guest, Lobby, Negotiates
from tests.peers import wire
from tests.peers.dcmtk import eventually


@dataclass
class Door:
    """Who was let in, in order; while `busy` is set, associations are being negotiated."""

    busy: threading.Event = field(default_factory=threading.Event)
    inside: list[str] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    def admit(self, guest: Guest) -> Negotiates:
        self.inside.append(guest.calling)
        return self.busy.is_set

    def come(self, lobby: Lobby, calling: str, contexts: int) -> socket.socket:
        here, there = socket.socketpair()
        self.sockets += [here, there]
        here.sendall(wire.request(calling.encode(), classes=[wire.CR] * contexts))
        lobby.enter(there, ("127.0.0.1", 1))
        return here


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    for connection in door.sockets:
        connection.close()


@pytest.fixture
def hall(door: Door) -> Iterator[Lobby]:
    hall = Lobby(door.admit, lambda address, rule: None, seconds=60, places=100)
    yield hall
    hall.close()


def test_short_requests_go_first(door: Door, hall: Lobby, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "_TURN", 1_000.0)
    door.busy.set()
    door.come(hall, "LONG", 128)
    eventually(lambda: door.inside == ["LONG"])
    door.come(hall, "NEXT", 128)
    door.come(hall, "SHORT", 1)
    eventually(lambda: door.inside == ["LONG", "SHORT"])
    door.busy.clear()
    eventually(lambda: door.inside == ["LONG", "SHORT", "NEXT"])


def test_nobody_waits_for_a_negotiation_without_end(door: Door, hall: Lobby) -> None:
    door.busy.set()
    for number in range(3):
        door.come(hall, f"LONG{number}", 128)
    eventually(lambda: len(door.inside) == 3)


def test_who_left_while_it_waited_is_not_let_in(
    door: Door, hall: Lobby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lobby, "_TURN", 1_000.0)
    door.busy.set()
    door.come(hall, "LONG", 128)
    eventually(lambda: door.inside == ["LONG"])
    door.come(hall, "GONE", 128).close()
    door.come(hall, "NEXT", 128)
    door.come(hall, "SHORT", 1)  # so that all of them were looked at
    eventually(lambda: len(door.inside) == 2)
    door.busy.clear()
    eventually(lambda: door.inside == ["LONG", "SHORT", "NEXT"])
