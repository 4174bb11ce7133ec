"""Rows L4, L5, L7, L8: many associations, the same many times, many that say nothing, a burst."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID
from sqlalchemy import func, select

from prescreen.dicom.receive import Receiver
from prescreen.settings import Peer, Receive
from prescreen.store import reader
from prescreen.store import schema as t
from prescreen.store.queue import utc_now
from prescreen.study import Incoming, Outcome, generate_uid
from tests.e2e.house import House, house, receiving, wait_until
from tests.peers import wire
from tests.peers.dcmtk import data_set_of, eventually, free_port, write_radiograph
from tests.peers.door import Node
from tests.peers.wire import P_DATA, pdu, pdv

DATA_SET = bytes(4_000)


def send(connection: socket.socket, uid: str, data_set: bytes = DATA_SET) -> None:
    """A C-STORE request; its answer is not waited for."""
    command = pdu(P_DATA, pdv(wire.store_request(uid.encode()), 3))
    connection.sendall(command + pdu(P_DATA, pdv(data_set, 2)))


def release(connection: socket.socket) -> None:
    connection.sendall(pdu(wire.RELEASE_RQ, bytes(4)))
    assert wire.answer(connection) == wire.RELEASE_RP


# --- L4 -----------------------------------------------------------------------------------------

LIMIT, TOO_MANY = 64, 16


@pytest.mark.parametrize("each", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_l4_more_associations_than_the_limit_are_told_to_come_again(each: int) -> None:
    kept: list[str] = []

    def keep(incoming: Incoming) -> None:
        kept.append(incoming.sop_instance_uid)

    limits = {"max_associations": LIMIT, "max_associations_per_peer": LIMIT}
    peers = (Peer(ae_title="MODALITY"),)
    door = Receive(ae_title="NODE", port=free_port(), peers=peers, **limits)  # type: ignore[arg-type]
    with Receiver(door, keep, lambda kind, detail: None), ExitStack() as stack:
        asked = [stack.enter_context(wire.connected(door.port)) for _ in range(LIMIT + TOO_MANY)]
        for connection in asked:
            connection.sendall(wire.request(b"MODALITY"))
        answers = [wire.received(connection) for connection in asked]
        inside = [c for c, (kind, _) in zip(asked, answers, strict=True) if kind != 3]
        rejected = [content for kind, content in answers if kind == wire.ASSOCIATE_RJ]
        # transient, by the presentation provider: local limit exceeded (PS3.8 Table 9-21)
        assert rejected == [bytes([0, 2, 3, 2])] * TOO_MANY
        assert len(inside) == LIMIT
        _store(inside, each)
        for connection in inside:
            release(connection)
        again = [_associated(stack, door.port) for _ in range(TOO_MANY)]
        _store(again, each)
    assert len(set(kept)) == (LIMIT + TOO_MANY) * each


def _store(connections: Sequence[socket.socket], each: int) -> None:
    """All of them at once, so many times."""
    for _ in range(each):
        for connection in connections:
            send(connection, generate_uid())
        assert [wire.status(connection) for connection in connections] == [0] * len(connections)


def _associated(stack: ExitStack, port: int) -> socket.socket:
    """One that was told to come again does so until it is let in."""
    found: list[socket.socket] = []

    def is_let_in() -> bool:
        connection = wire.connected(port)
        connection.sendall(wire.request(b"MODALITY"))
        if wire.answer(connection) != wire.ASSOCIATE_AC:
            connection.close()
            return False
        found.append(stack.enter_context(connection))
        return True

    eventually(is_let_in)
    return found[0]


# --- L5 -----------------------------------------------------------------------------------------

SENDERS, TIMES, IMAGES = 20, 5, 2


def test_l5_one_study_from_twenty_senders_five_times_is_one_job(tmp_path: Path) -> None:
    images = [write_radiograph(tmp_path / f"{n}.dcm", size=128) for n in range(IMAGES)]
    sent = [_of_one_study(path, "1.2.5") for path in images]
    with house(tmp_path, live=False, listens=False) as home, receiving(home), ExitStack() as stack:
        senders = [stack.enter_context(_sender(home)) for _ in range(SENDERS)]
        for turn in range(TIMES * IMAGES):
            for number, sender in enumerate(senders):
                send(sender, *sent[(turn + number) % IMAGES])
            assert [wire.status(sender) for sender in senders] == [0] * SENDERS
        assert _rows(home, t.instance) == IMAGES
        assert _rows(home, t.job) == _rows(home, t.study) == 1
        spool = home.settings.data_dir / "spool"
        assert len([path for path in spool.rglob("*") if path.is_file()]) == IMAGES
        kinds = reader.kinds(home.store().engine)
        assert kinds["instance.kept"] == IMAGES
        assert kinds["instance.duplicate"] == SENDERS * TIMES * IMAGES - IMAGES


def _of_one_study(path: Path, study: str) -> tuple[str, bytes]:
    """UID and data set of a picture, moved into a study."""
    ds = pydicom.dcmread(path)
    ds.StudyInstanceUID = study
    ds.save_as(path)
    return str(ds.SOPInstanceUID), data_set_of(path.read_bytes())


def _sender(home: House) -> socket.socket:
    connection = wire.connected(home.settings.receive.port)
    connection.sendall(wire.request(b"MODALITY", b"PRESCREEN", syntax=wire.EXPLICIT))
    assert wire.answer(connection) == wire.ASSOCIATE_AC
    return connection


def _rows(home: House, table: object) -> int:
    with home.store().engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


# --- L7 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "echoes"), [(1_000, 200), pytest.param(10_000, 10_000, marks=pytest.mark.soak)]
)
def test_l7_health_checks_and_echoes_leave_nothing_behind(
    tmp_path: Path, checks: int, echoes: int
) -> None:
    node = Node(tmp_path)
    try:
        for _ in range(50):  # what is made when first needed
            with wire.connected(node.port) as connection:
                assert wire.echoed(connection, b"GOOD", b"NODE")
        eventually(node.is_at_rest, 60)
        begun = node.grown()
        for _ in range(checks):
            wire.connected(node.port).close()
        for _ in range(echoes):
            with wire.connected(node.port) as connection:
                assert wire.echoed(connection, b"GOOD", b"NODE")
        eventually(node.is_at_rest, 60)
        assert node.grown() - begun <= 5
    finally:
        node.close()


# --- L8 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("burst", [100, pytest.param(2_000, marks=pytest.mark.soak)])
def test_l8_a_burst_while_nobody_screens_waits_in_order(tmp_path: Path, burst: int) -> None:
    path = write_radiograph(tmp_path / "a.dcm")
    studies = [f"1.2.8.{number}" for number in range(burst)]
    with house(tmp_path, live=False, listens=False) as home, receiving(home):
        with _sender(home) as sender:
            for study in studies:
                send(sender, *_as_new(path, study))
                assert wire.status(sender) == 0
        assert reader.waiting(home.store().engine) == burst
        assert _drained(home) == studies
        assert reader.waiting(home.store().engine) == 0


def _as_new(path: Path, study: str) -> tuple[str, bytes]:
    ds = pydicom.dcmread(path)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{study}.1")
    ds.save_as(path)
    return _of_one_study(path, study)


def _drained(home: House) -> list[str]:
    """The studies as a worker claims them."""
    queue, studies = home.store().queue, []
    wait_until(lambda: reader.status(home.store().engine, utc_now()).waiting == 0, "all are due")
    while jobs := queue.claim("worker", 60, 8, weights={}, rules="1"):
        for job in jobs:
            studies.append(job.study_instance_uid)
            queue.settle(job, Outcome.OUT_OF_SCOPE, "test")
    return studies
