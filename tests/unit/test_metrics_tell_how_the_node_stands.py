"""/metrics, /healthz and /readyz: what Prometheus reads, for nobody to read a patient in."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prescreen.errors import SettingsError
from prescreen.metrics import PATIENCE, PLACES, Endpoint, Sight
from prescreen.settings import Metrics, Settings, load
from tests.peers.dcmtk import eventually, free_port
from tests.peers.hostile import Act, Crowd, Line, Target
from tests.store_bench import PACS, StoreBench

#: A line of the text format 0.0.4.
SAMPLE = re.compile(r'prescreen_[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [-+0-9.e]+')


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StoreBench]:
    bench = StoreBench(tmp_path)
    bench.destinations.go_live("pacs", "me", "test")
    bench.screened("1.2.1", PACS)
    bench.keep("1.2.2", 1)
    yield bench
    bench.engine.dispose()


def _sight(bench: StoreBench, settings: Settings | None = None, up: bool = True) -> Sight:
    settings = settings or load(None, housekeeping={"minimum_free_mb": 0})
    roles = {"receive": True, "screen": up, "deliver": True}
    return Sight(bench.engine, bench.spool, settings, lambda: bench.now, lambda: roles)


def _numbers(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines)}


@contextmanager
def answering(sight: Sight) -> Iterator[int]:
    port = free_port()
    endpoint = Endpoint(Metrics(port=port), sight)
    endpoint.start()
    try:
        yield port
    finally:
        endpoint.stop()


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_figures_are_those_of_the_store(bench: StoreBench) -> None:
    found = _numbers(_sight(bench).exposition())
    assert found["prescreen_studies_total"] == 2
    assert found["prescreen_instances_total"] == 2
    assert found['prescreen_jobs_total{outcome="screened"}'] == 1
    assert found['prescreen_deliveries{destination="pacs",state="pending"}'] == 1
    assert found['prescreen_destination_live{destination="pacs"}'] == 1
    assert found['prescreen_queue_depth{state="waiting"}'] == 1
    assert found['prescreen_role_up{role="screen"}'] == 1
    bench.wait(40)
    found = _numbers(_sight(bench).exposition())
    assert found['prescreen_queue_depth{state="due"}'] == 1
    assert found["prescreen_queue_oldest_age_seconds"] == pytest.approx(10)
    assert found['prescreen_events_total{kind="job.screened"}'] == 1


def test_every_line_is_of_the_format_and_names_nobody(bench: StoreBench) -> None:
    text = _sight(bench).exposition()
    assert "CANARY" not in text.upper()
    assert "1.2.1" not in text, "no study either"
    lines = text.splitlines()
    assert [x for x in lines if not x.startswith("# ") and not SAMPLE.fullmatch(x)] == []
    names = re.findall(r"^# TYPE (\S+) (?:gauge|counter)$", text, re.M)
    assert len(names) == len(set(names)) > 10


def test_l8_the_time_a_backlog_takes_is_told_from_the_pace_of_the_work(bench: StoreBench) -> None:
    for number in range(60):
        bench.keep(f"1.2.8.{number}", 1)
    name = "prescreen_queue_seconds_left"
    for _ in range(20):
        (job,) = bench.claim()
        bench.settle(job)
    found = _numbers(_sight(bench).exposition())
    left, begun = found['prescreen_queue_depth{state="due"}'], bench.now
    assert left > 30
    while jobs := bench.claim():
        bench.settle(jobs[0])
    assert found[name] == pytest.approx((bench.now - begun).total_seconds(), rel=0.2)
    assert _numbers(_sight(bench).exposition())[name] == 0


def test_a_certificate_that_cannot_be_read_ends_in_1970(bench: StoreBench, tmp_path: Path) -> None:
    settings = load(None, housekeeping={"certificates": [str(tmp_path / "gone.pem")]})
    found = _numbers(_sight(bench, settings).exposition())
    (name,) = (n for n in found if n.startswith("prescreen_tls_cert_expiry_timestamp_seconds"))
    assert found[name] == 0


def test_the_node_is_ready_while_all_roles_run(bench: StoreBench) -> None:
    with answering(_sight(bench)) as port:
        assert ask(port, "/healthz") == (200, "ok\n")
        assert ask(port, "/readyz") == (200, "ok\n")
        status, text = ask(port, "/metrics?whatever")
        assert status == 200 and "prescreen_build_info" in text
        assert ask(port, "/")[0] == 404
        assert ask(port, "/metrics", "POST")[0] == 501


def test_why_it_is_not_ready_is_said(bench: StoreBench) -> None:
    with answering(_sight(bench, up=False)) as port:
        assert ask(port, "/readyz") == (503, "screen does not run\n")
        assert ask(port, "/healthz")[0] == 200
    full = load(None, housekeeping={"minimum_free_mb": 10**12})
    with answering(_sight(bench, full)) as port:
        assert ask(port, "/readyz") == (503, "the disk is full up to its watermark\n")


# --- W11: the node's only pages -----------------------------------------------------------------


def raw(port: int, content: bytes) -> bytes:
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):  # it has read enough
            connection.sendall(content)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65_536):
                answer += part
    return answer


async def _says_nothing(line: Line) -> None:
    await line.say(b"GET /metr")


async def _dribbles(line: Line) -> None:
    """A byte a little sooner than a single read would give up, for ever."""
    while True:
        await line.say(b"G")
        await asyncio.sleep(PATIENCE / 4)


async def _asks_and_never_reads(line: Line) -> None:
    await line.say(b"GET /metrics HTTP/1.0\r\n\r\n")
    line.writer.transport.pause_reading()  # type: ignore[attr-defined]


@pytest.mark.parametrize("act", [_says_nothing, _dribbles, _asks_and_never_reads])
def test_w11_two_hundred_askers_hold_nobody(bench: StoreBench, act: Act) -> None:
    with answering(_sight(bench)) as port:
        assert ask(port, "/metrics")[0] == 200
        threads, descriptors = threading.active_count(), _descriptors()
        with Crowd(act, Target(port), 200) as crowd:
            assert crowd.wait(60)
            assert ask(port, "/healthz")[0] == 200
            assert ask(port, "/metrics")[0] == 200
            assert threading.active_count() <= threads + 1 + 2 * PLACES
        eventually(lambda: threading.active_count() <= threads)
        eventually(lambda: _descriptors() <= descriptors)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


HEAD = b"GET /healthz HTTP/1.1\r\nHost: node\r\n"


@pytest.mark.parametrize("head", [HEAD + b"X: " + bytes(1 << 20), (HEAD + b"X: y\r\n" * 200_000)])
def test_w11_a_head_without_end_is_refused(bench: StoreBench, head: bytes) -> None:
    with answering(_sight(bench)) as port:
        said = raw(port, head)
        assert said == b"" or said.startswith((b"HTTP/1.0 431", b"HTTP/1.0 400"))
        assert ask(port, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "path",
    [b"/../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"/metrics/../healthz",
     b"http://elsewhere/metrics", b"/<script>alert(1)</script>", b"/\xff\x00", b"*"],
)  # fmt: skip
def test_w11_no_other_path_leads_anywhere(bench: StoreBench, path: bytes) -> None:
    with answering(_sight(bench)) as port:
        said = raw(port, b"GET " + path + b" HTTP/1.1\r\nHost: elsewhere\r\n\r\n")
        assert said.startswith(b"HTTP/1.0 4")
        assert b"root:" not in said and b"<script" not in said


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"TRACE", b"<script>"])
def test_w11_nothing_can_be_changed_and_nothing_is_echoed(bench: StoreBench, method: bytes) -> None:
    body = b"Content-Length: 1000000000\r\n\r\n" + bytes(100_000)
    with answering(_sight(bench)) as port:
        said = raw(port, method + b" /metrics HTTP/1.1\r\n" + body)
        assert said == b"" or said.startswith(b"HTTP/1.0 501")
        assert b"<script" not in said.partition(b"\r\n\r\n")[2]
        assert ask(port, "/healthz")[0] == 200


def test_a_port_that_is_taken_is_named(bench: StoreBench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"metrics.port = {port}.*choose another port"):
            Endpoint(Metrics(port=port), _sight(bench))
