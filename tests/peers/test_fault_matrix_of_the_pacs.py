"""Rows P1 to P8 of the fault matrix: what a PACS may do to the node, each a test of its name.

P6 (acknowledged, then lost) stands with storage commitment, in
test_pacs_promises_to_keep_what_it_took.py.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless
from pynetdicom import AE, evt

from prescreen import pipeline
from prescreen.dicom.receive import Receiver
from prescreen.dicom.send import Sender
from prescreen.settings import Destination, Peer, Receive, Screen
from prescreen.store import audit
from prescreen.study import Audience, ResultObject, generate_uid
from prescreen.worker import Worker
from tests.line_bench import (
    COMPREHENSIVE_3D_SR,
    SECONDARY_CAPTURE,
    LineBench,
    capture,
    destination,
    eventually,
)
from tests.peers.dcmtk import free_port, storescp, wait_until_listening

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
VERIFICATION = "1.2.840.10008.1.1"
EIGHT_HOURS = 8 * 3600


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LineBench]:
    found = LineBench(tmp_path)
    yield found
    found.close()


class Archive:
    """A storage SCP that notes what it gets, in order, and answers with `status`."""

    def __init__(self, *sop_classes: str, syntaxes: Any = None, status: int = 0) -> None:
        self.status = status
        self.stored: list[tuple[str, str]] = []
        self.entity = AE("PACS")
        self.entity.add_supported_context(VERIFICATION)
        for sop_class in sop_classes:
            self.entity.add_supported_context(sop_class, syntaxes)

    @contextmanager
    def listening(self, port: int = 0) -> Iterator[int]:
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store)]
        server = self.entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        assert server is not None
        try:
            yield server.server_address[1]
        finally:
            self.entity.shutdown()

    def _store(self, event: evt.Event) -> int:
        request: Any = event.request
        if self.status in _KEPT:
            one = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
            self.stored.append(one)
        return self.status


_KEPT = (0x0000, 0xB000, 0xB006, 0xB007)


def report() -> ResultObject:
    """A Comprehensive 3D SR with its fallback; never written."""
    uids = [generate_uid() for _ in range(3)]
    return ResultObject(
        "sr", Audience.RELEASE, COMPREHENSIVE_3D_SR, uids[0], uids[1], "report.dcm", uids[2]
    )


def kinds(bench: LineBench) -> list[str]:
    return [event.kind for event in audit.events(bench.engine)]


# --- P1 ---------------------------------------------------------------------------------------


def test_p1_away_for_eight_hours_then_all_of_it_in_order_within_a_minute(
    bench: LineBench, tmp_path: Path
) -> None:
    port = free_port()
    pacs = destination(port, commitment="none", query="none")
    bench.line(pacs)
    studies = [f"1.2.{number}" for number in range(6)]
    begin = bench.now
    for study in studies[:4]:
        bench.reported(study, pacs, items=(capture(), capture()))
        bench.turn()
    while (bench.now - begin).total_seconds() < EIGHT_HOURS:
        bench.turn()
        bench.wait(301)  # a hundred turns: the breaker asks at each, and sends nothing
    for study, priority in zip(studies[4:], ("ROUTINE", "STAT"), strict=True):
        bench.reported(study, pacs, items=(capture(), capture()))
        _set_priority(bench, study, priority)
    assert {state for study in studies for state in bench.states(study)} == {"pending"}
    assert kinds(bench).count("object.retried") <= 4, "an open breaker tries nothing"
    bench.turn()  # asked in vain at the last moment: the next probe is a while off
    with storescp(tmp_path / "pacs", port=port) as server:
        returned = bench.now
        for _ in range(60):
            bench.turn()
            if all(bench.states(study) == ["delivered"] * 2 for study in studies):
                break
            bench.wait(1)
        took = (bench.now - returned).total_seconds()
        print(f"P1: {2 * len(studies)} objects delivered {took:g} s after eight hours away")
        assert took <= 60
        arrived = sorted(server.files, key=lambda path: path.stat().st_mtime_ns)
        found = [str(pydicom.dcmread(path).StudyInstanceUID) for path in arrived]
    assert found == [study for study in (studies[5], *studies[:5]) for _ in range(2)]
    assert kinds(bench).count("destination.away") == kinds(bench).count("destination.back") == 1


def _set_priority(bench: LineBench, study: str, priority: str) -> None:
    number = {"ROUTINE": 0, "STAT": 10}[priority]
    numbers = ", ".join(str(row["outbox_id"]) for row in bench.rows(study))
    with bench.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE outbox SET priority = {number} WHERE outbox_id IN ({numbers})"
        )


# --- P2 ---------------------------------------------------------------------------------------


def test_p2_one_that_never_answers_delays_no_other(bench: LineBench, tmp_path: Path) -> None:
    with (
        storescp(tmp_path / "silent", "--sleep-during", "20") as silent,
        storescp(tmp_path / "quick") as quick,
    ):
        slow = destination(silent.port, "slow", dimse_timeout=3, commitment="none", query="none")
        fast = destination(quick.port, "fast", commitment="none", query="none")
        lines = [bench.line(slow), bench.line(fast)]
        bench.reported("1.2.1", slow, fast)
        bench.reported("1.2.2", slow, fast)
        workers = [line.worker() for line in lines]
        with at_work(workers):
            eventually(lambda: _of(bench, "fast") == ["delivered"] * 2, "the quick one has both")
            assert _of(bench, "slow") == ["pending"] * 2, "the other is still being waited for"
            eventually(lambda: "object.retried" in kinds(bench), "the silent one was given up")
    errors = [row["error"] for study in ("1.2.1", "1.2.2") for row in bench.rows(study)]
    assert any("no answer to C-STORE within 3 s" in str(error) for error in errors)


def test_p2_a_kilobyte_a_second_ends_at_the_timeout(bench: LineBench, tmp_path: Path) -> None:
    with storescp(tmp_path / "pacs") as server, trickle(server.port, 1000) as port:
        pacs = destination(port, dimse_timeout=2, acse_timeout=10, commitment="none", query="none")
        bench.line(pacs)
        job = bench.reported("1.2.1", pacs)
        folder = bench.spool.results(job.job_id)
        assert folder is not None
        (path,) = folder.glob("*.dcm")
        ds = pydicom.dcmread(path)
        ds.PixelData = bytes(200_000)
        ds["PixelData"].VR = "OB"
        ds.save_as(path)
        begun = time.monotonic()
        bench.turn()
        assert time.monotonic() - begun < 30
        assert bench.states("1.2.1") == ["pending"]


def _of(bench: LineBench, name: str) -> list[str]:
    rows = [row for study in ("1.2.1", "1.2.2") for row in bench.rows(study)]
    return [row["state"] for row in rows if row["destination"] == name]


@contextmanager
def at_work(workers: list[Worker[Any]]) -> Iterator[None]:
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()


@contextmanager
def trickle(port: int, bytes_a_second: int) -> Iterator[int]:
    """A way to a port that lets so much through in a second."""
    stop, opened = threading.Event(), list[socket.socket]()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def pump(source: socket.socket, sink: socket.socket, size: int, pause: float) -> None:
        try:
            while not stop.is_set() and (piece := source.recv(size)):
                sink.sendall(piece)
                time.sleep(pause)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def serve() -> None:
        while not stop.is_set():
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            callee = socket.create_connection(("127.0.0.1", port))
            opened.extend((caller, callee))
            ways = ((caller, callee, bytes_a_second // 10, 0.1), (callee, caller, 4096, 0.0))
            for way in ways:
                threading.Thread(target=pump, args=way, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        for connection in (listener, *opened):
            connection.close()


# --- P3 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "states"),
    [
        ((COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, SECONDARY_CAPTURE), ["delivered", "delivered"]),
        ((COMPREHENSIVE_SR, SECONDARY_CAPTURE), ["delivered", "delivered"]),
        ((SECONDARY_CAPTURE,), ["parked", "delivered"]),
        ((COMPREHENSIVE_SR,), ["delivered", "parked"]),
    ],
)
def test_p3_refused_classes_fall_back_or_park_alone(
    bench: LineBench, taken: tuple[str, ...], states: list[str]
) -> None:
    archive = Archive(*taken)
    with archive.listening() as port:
        pacs = destination(port)
        bench.line(pacs)
        bench.reported("1.2.1", pacs, items=(report(), capture()))
        bench.turn()
    assert bench.states("1.2.1") == states
    sent = [sop_class for sop_class, _ in archive.stored]
    assert not {COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR} <= set(sent), "never both"
    for row in bench.rows("1.2.1"):
        assert row["state"] != "parked" or "let the peer accept it" in row["error"]


# --- P4 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "at_once", "after_a_day"),
    [
        (0x0000, "delivered", "delivered"),
        (0xB000, "delivered", "delivered"),
        (0xB006, "delivered", "delivered"),
        (0xB007, "delivered", "delivered"),
        (0xA700, "pending", "pending"),
        (0xA900, "pending", "parked"),
        (0xC000, "pending", "parked"),
        (0x0110, "pending", "parked"),
        (0x0122, "parked", "parked"),
        (0x0124, "parked", "parked"),
        (0x4711, "pending", "parked"),
        (0xFFFF, "pending", "parked"),
    ],
)
def test_p4_every_status_has_its_consequence(
    bench: LineBench, status: int, at_once: str, after_a_day: str
) -> None:
    archive = Archive(SECONDARY_CAPTURE, status=status)
    with archive.listening() as port:
        pacs = destination(port, commitment="none")
        bench.line(pacs)
        bench.reported("1.2.1", pacs)
        bench.turn()
        assert bench.states("1.2.1") == [at_once]
        bench.wait(25 * 3600)
        bench.turn()
        assert bench.states("1.2.1") == [after_a_day]
    if at_once == "delivered":
        assert len(archive.stored) == 1
    assert "destination.away" not in kinds(bench), "a peer that answers is not away"


# --- P5 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--abort-during", "--abort-after", "--refuse"])
def test_p5_what_breaks_off_is_tried_again_and_leaks_nothing(
    bench: LineBench, tmp_path: Path, option: str
) -> None:
    port = free_port()
    pacs = destination(port, commitment="none", query="none")
    bench.line(pacs)
    bench.reported("1.2.1", pacs)
    with storescp(tmp_path / "hostile", option, port=port):
        bench.turn()
        threads = threading.active_count()
        for _ in range(6):
            bench.wait(31)
            bench.turn()
        eventually(lambda: threading.active_count() <= threads, "no thread is left behind")
        (row,) = bench.rows("1.2.1")
        assert row["state"] == "pending"
        assert "PACS" in row["error"]
    with storescp(tmp_path / "pacs", port=port) as server:
        bench.wait(400)
        bench.turn()
        assert bench.states("1.2.1") == ["delivered"]
        assert len(server.files) == 1


def test_p5_a_reset_in_the_middle_is_tried_again(bench: LineBench, tmp_path: Path) -> None:
    port = free_port()
    pacs = destination(port, commitment="none", query="none")
    bench.line(pacs)
    bench.reported("1.2.1", pacs)
    with storescp(tmp_path / "dying", "--sleep-during", "5", port=port) as server:
        killer = threading.Timer(1.0, server.kill)
        killer.start()
        bench.turn()
        killer.join()
    assert bench.states("1.2.1") == ["pending"]
    with storescp(tmp_path / "pacs", port=port) as server:
        bench.wait(60)
        bench.turn()
        assert bench.states("1.2.1") == ["delivered"]
        assert len(server.files) == 1


def test_p5_the_wrong_ae_title_is_said_and_tried_again(bench: LineBench) -> None:
    archive = Archive(SECONDARY_CAPTURE)
    archive.entity.require_called_aet = True
    with archive.listening() as port:
        pacs = destination(port, ae_title="NOBODY", commitment="none", query="none")
        bench.line(pacs)
        bench.reported("1.2.1", pacs)
        bench.turn()
    (row,) = bench.rows("1.2.1")
    assert row["state"] == "pending"
    assert "must know our AE title PRESCREEN and call itself NOBODY" in row["error"]


# --- P7 ---------------------------------------------------------------------------------------


def test_p7_an_own_result_that_comes_back_is_known_by_its_uid(bench: LineBench) -> None:
    def keep(incoming: Any) -> None:
        pipeline.keep(
            incoming, spool=bench.spool, queue=bench.queue, screen=Screen(), minimum_free=0
        )

    port = free_port()
    pacs = destination(port)
    job = bench.reported("1.2.1", pacs)
    folder = bench.spool.results(job.job_id)
    assert folder is not None
    (path,) = folder.glob("*.dcm")
    coerced = pydicom.dcmread(path)  # by an archive, so that it looks like a radiograph
    coerced.Modality = "CR"
    coerced.save_as(path)
    door = Receive(port=port, peers=(Peer(ae_title="PACS"),))
    with Receiver(door, keep, lambda kind, detail: None):
        wait_until_listening(port)
        node = Destination(name="node", ae_title="PRESCREEN", host="127.0.0.1", port=port)
        with Sender(node, "PACS") as sender:
            assert sender.send(path) == 0x0000
    (back,) = [e for e in audit.events(bench.engine) if e.kind == "instance.ignored"]
    assert back.detail["reason"] == "own_result"
    assert bench.queue.claim("worker", 60) == []


# --- P8 ---------------------------------------------------------------------------------------


def test_p8_only_implicit_little_endian_is_taken(bench: LineBench) -> None:
    archive = Archive(SECONDARY_CAPTURE, syntaxes=[ImplicitVRLittleEndian])
    with archive.listening() as port:
        pacs = destination(port)
        bench.line(pacs)
        bench.reported("1.2.1", pacs)
        bench.turn()
    assert bench.states("1.2.1") == ["delivered"]
    assert len(archive.stored) == 1


def test_p8_what_takes_only_jpeg_ls_is_parked_with_words_and_mended(bench: LineBench) -> None:
    port = free_port()
    pacs = destination(port, query="none", commitment="none")
    bench.line(pacs)
    bench.reported("1.2.1", pacs)
    with Archive(SECONDARY_CAPTURE, syntaxes=[JPEGLSLossless]).listening(port):
        bench.turn()
    (row,) = bench.rows("1.2.1")
    assert row["state"] == "parked"
    assert ExplicitVRLittleEndian in row["error"]
    bench.lines["pacs"].close()
    with Archive(SECONDARY_CAPTURE).listening(port):
        bench.outbox.unpark("me", "it takes uncompressed objects now")
        bench.turn()
    assert bench.states("1.2.1") == ["delivered"]
