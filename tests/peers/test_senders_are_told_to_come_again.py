"""Back-pressure: no room or too many studies waiting, and senders are turned away for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prescreen import node as roles
from prescreen import settings
from prescreen.dicom.messages import InMemory
from prescreen.dicom.receive import Receiver
from prescreen.errors import OutOfResources
from prescreen.study import Unfinished
from tests.peers.dcmtk import (
    eventually,
    free_port,
    run,
    wait_until_listening,
    write_radiograph,
)


class Node:
    """A receiver that is told whether there is room."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.kept = 0
        self.audited: list[dict[str, Any]] = []
        receive = settings.Receive(
            ae_title="NODE", port=free_port(), peers=(settings.Peer(ae_title="STORESCU"),)
        )
        self.receiver = Receiver(
            receive,
            self._keep,
            lambda kind, detail: self.audited.append(detail),
            congestion=lambda: self.trouble,
        )

    def _keep(self, incoming: object) -> None:
        self.kept += 1

    def store(self, *paths: Path) -> str:
        there = ("-aec", "NODE", "127.0.0.1", str(self.receiver.port))
        return run("storescu", "-v", *there, *paths).stdout

    def echo(self) -> bool:
        there = ("-aet", "STORESCU", "-aec", "NODE", "127.0.0.1", str(self.receiver.port))
        return run("echoscu", *there).returncode == 0


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    with node.receiver:
        yield node


def test_while_there_is_no_room_senders_are_rejected_and_echo_is_answered(
    node: Node, tmp_path: Path
) -> None:
    sent = write_radiograph(tmp_path / "a.dcm")
    node.trouble = "disk_full"
    said = node.store(sent)
    assert "Rejected Transient" in said
    assert "Temporary Congestion" in said
    assert node.echo()
    eventually(lambda: [detail["rule"] for detail in node.audited] == ["disk_full"])
    node.trouble = None
    node.store(sent)
    assert node.kept == 1


def test_no_room_for_an_object_on_its_way_is_said_and_the_association_goes_on(
    tmp_path: Path,
) -> None:
    rooms = iter([OutOfResources("the disk is full"), None])
    kept: list[bytes] = []

    def begin() -> Unfinished:
        if (error := next(rooms)) is not None:
            raise error
        return InMemory()

    receive = settings.Receive(
        ae_title="NODE", port=free_port(), peers=(settings.Peer(ae_title="STORESCU"),)
    )
    paths = [write_radiograph(tmp_path / f"{n}.dcm", size=512) for n in range(2)]
    with Receiver(
        receive, lambda incoming: kept.append(incoming.part10[:]), lambda *_: None, begin=begin
    ) as receiver:
        there = ("-aec", "NODE", "127.0.0.1", str(receiver.port))
        said = run("storescu", "-v", "-nh", *there, *paths).stdout
    assert "0xa700" in said.lower() or "Out of Resources" in said or "OutOfResources" in said
    assert len(kept) == 1


@pytest.mark.parametrize(
    ("minimum_free_mb", "is_full_at_first"), [(1, False), (10**9, True)], ids=["queue", "disk"]
)
def test_the_receiver_of_a_node_knows_its_room_and_its_queue(
    tmp_path: Path, minimum_free_mb: int, is_full_at_first: bool
) -> None:
    peers = (settings.Peer(ae_title="STORESCU"),)
    configured = settings.Settings(
        data_dir=tmp_path / "node",
        receive=settings.Receive(ae_title="NODE", port=free_port(), peers=peers, max_waiting=1),
        housekeeping=settings.Housekeeping(minimum_free_mb=minimum_free_mb),
    )
    stop = threading.Event()
    role = threading.Thread(target=roles.receive, args=(configured, stop), daemon=True)
    role.start()
    try:
        wait_until_listening(configured.receive.port, 30)
        there = ("-aec", "NODE", "127.0.0.1", str(configured.receive.port))
        first = run("storescu", "-v", *there, write_radiograph(tmp_path / "a.dcm")).stdout

        def is_full() -> bool:
            said = run("storescu", "-v", *there, write_radiograph(tmp_path / "b.dcm")).stdout
            return "Temporary Congestion" in said

        assert ("Temporary Congestion" in first) is is_full_at_first
        eventually(is_full)
    finally:
        stop.set()
        role.join(120)
