"""Figures for Prometheus, and whether the node lives and can work, over HTTP.

Everything is read from the database and the spool when it is asked for: the roles are processes of
their own and may be killed at any instruction. No label names a patient, a study or an unknown
peer. Off until the setting `port` in [metrics] says otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from sqlalchemy import Engine

from prescreen import __version__
from prescreen.errors import PrescreenError, SettingsError
from prescreen.housekeeping import not_after
from prescreen.settings import Metrics, Settings
from prescreen.store import quarantine, reader
from prescreen.store.reader import Status
from prescreen.store.spool import Spool

logger = logging.getLogger(__name__)

#: Seconds that one asker may take, from its connection to the end of its answer.
PATIENCE = 2.0
#: Askers at a time.
PLACES = 64
#: Bytes of a request's head, and seconds for which the same figures are told again.
_LONGEST_HEAD, _FRESH = 16 * 1024, 1.0
_PLAIN = "text/plain; charset=utf-8"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"

Samples = Iterable[tuple[Mapping[str, str], float]]


@dataclass(frozen=True)
class Sight:
    """What the figures are taken from; `roles` says of each whether its process runs."""

    engine: Engine
    spool: Spool
    settings: Settings
    clock: Callable[[], datetime]
    roles: Callable[[], Mapping[str, bool]]

    def exposition(self) -> str:
        """All figures in the text format 0.0.4. StoreError where the store cannot be read."""
        now = self.clock()
        status = reader.status(self.engine, now)
        families = [*self._of_the_node(), *_of_the_work(status, now), *_of_destinations(status)]
        kinds = reader.kinds(self.engine)
        families.append(
            _family("events_total", "counter", "Audit events by kind.", _by("kind", kinds))
        )
        return "".join(families)

    def _of_the_node(self) -> Iterable[str]:
        version = _by("version", {__version__: 1})
        yield _family("build_info", "gauge", "The version that runs.", version)
        running = {role: int(is_up) for role, is_up in self.roles().items()}
        yield _family("role_up", "gauge", "Whether a role's process runs.", _by("role", running))
        free, least = self.spool.free(), self.settings.housekeeping.minimum_free_mb * 1e6
        room = "Room on the disk of the data directory."
        yield _family("disk_free_bytes", "gauge", room, _one(free))
        yield _family(
            "disk_minimum_bytes", "gauge", "Below it senders are told 0xA700.", _one(least)
        )
        aside = _by("reason", quarantine.counted(self.spool))
        yield _family("quarantined_files", "gauge", "What was set aside for a person.", aside)
        expiry = "When a watched certificate ends."
        ends = list(_certificates(self.settings))
        yield _family("tls_cert_expiry_timestamp_seconds", "gauge", expiry, ends)

    def hindrances(self) -> list[str]:
        """Why the node cannot work now; nothing if it can."""
        found = [f"{role} does not run" for role, is_up in self.roles().items() if not is_up]
        try:
            reader.status(self.engine, self.clock())
            if self.spool.free() < self.settings.housekeeping.minimum_free_mb * 1_000_000:
                found.append("the disk is full up to its watermark")
        except PrescreenError as error:
            found.append(type(error).__name__)
        return found


def _of_the_work(status: Status, now: datetime) -> Iterable[str]:
    yield _family("instances_total", "counter", "Objects kept.", _one(status.instances))
    yield _family("studies_total", "counter", "Studies received.", _one(status.studies))
    depth = {"waiting": status.waiting, "due": status.due, "in_work": status.leased}
    yield _family("queue_depth", "gauge", "Jobs still to be screened.", _by("state", depth))
    age = (now - status.oldest_due).total_seconds() if status.oldest_due else 0.0
    oldest = "How long the oldest due job has waited."
    yield _family("queue_oldest_age_seconds", "gauge", oldest, _one(max(age, 0.0)))
    left = [] if status.seconds_left is None else _one(status.seconds_left)
    pace = "How long the due jobs take at the pace of the last minutes."
    yield _family("queue_seconds_left", "gauge", pace, left)
    ended = _by("outcome", status.outcomes)
    yield _family("jobs_total", "counter", "Jobs by how they ended.", ended)
    held = len(status.held_findings)
    yield _family("findings_held", "gauge", "Findings that `hold` stopped.", _one(held))


def _of_destinations(status: Status) -> Iterable[str]:
    rows = [
        ({"destination": name, "state": state}, float(number))
        for name, counts in sorted(status.deliveries.items())
        for state, number in sorted(counts.items())
    ]
    yield _family("deliveries", "gauge", "Result objects by destination and state.", rows)
    live = _by("destination", {s.name: int(s.live) for s in status.standings if s.name != "*"})
    yield _family("destination_live", "gauge", "Whether `go-live` opened it.", live)
    held = _by("destination", {s.name: int(s.held) for s in status.standings})
    yield _family("destination_held", "gauge", "Whether `hold` stopped it; * is all.", held)


def _certificates(settings: Settings) -> Samples:
    for path in settings.certificates:
        try:
            yield {"path": str(path)}, not_after(path)
        except (OSError, ValueError):
            yield {"path": str(path)}, 0.0


def _one(number: float) -> Samples:
    return [({}, number)]


def _by(label: str, numbers: Mapping[str, int]) -> Samples:
    return [({label: name}, float(number)) for name, number in sorted(numbers.items())]


def _family(name: str, kind: str, told: str, samples: Samples) -> str:
    """One metric with its help, its type and a line for each sample."""
    lines = [f"# HELP prescreen_{name} {told}", f"# TYPE prescreen_{name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"prescreen_{name}{'{' + inside + '}' if inside else ''} {value:.15g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


# --- over HTTP -------------------------------------------------------------------------------


class Endpoint:
    """Answers GET /metrics, /healthz and /readyz until stopped.

    Figures are taken once a second, however many ask. Raises SettingsError where it cannot listen.
    """

    def __init__(self, settings: Metrics, sight: Sight) -> None:
        self._sight = sight
        self._looking = threading.Lock()
        self._taken, self._text = -math.inf, ""
        try:
            self._server = _Server((settings.host, settings.port), _handler(self.answer))
        except OSError as error:
            where = f"metrics.host = {settings.host!r}, metrics.port = {settings.port}"
            text = f"{where}: cannot listen there: {error.strerror}; choose another port"
            raise SettingsError(text) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )

    def start(self) -> None:
        """Listen and return."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)

    def answer(self, path: str) -> tuple[int, str, str]:
        """Status, type and text for a path."""
        if path == "/healthz":
            return 200, _PLAIN, "ok\n"
        if path == "/readyz":
            hindrances = self._sight.hindrances()
            return 503 if hindrances else 200, _PLAIN, "\n".join(hindrances or ["ok"]) + "\n"
        if path != "/metrics":
            return 404, _PLAIN, "there is /metrics, /healthz and /readyz\n"
        try:
            return 200, _EXPOSITION, self._figures()
        except PrescreenError as error:
            logger.error("metrics: %s", error)
            return 503, _PLAIN, f"{type(error).__name__}\n"

    def _figures(self) -> str:
        with self._looking:
            if time.monotonic() - self._taken >= _FRESH:
                self._text = self._sight.exposition()
                self._taken = time.monotonic()
            return self._text


class _Server(ThreadingHTTPServer):
    """A thread for each asker, for a while: who is late is cut off, and the oldest of too many."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self._askers: dict[socket.socket, float] = {}  # by arrival: when it has to be gone
        self._counting = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        with self._counting:
            if len(self._askers) >= PLACES:
                self._cut_off(next(iter(self._askers)))
            self._askers[request] = time.monotonic() + PATIENCE
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close what was answered, or cut off."""
        with self._counting:
            self._askers.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Twice a second: cut off who is late, however busy it was."""
        now = time.monotonic()
        with self._counting:
            for asker in [asker for asker, end in self._askers.items() if end <= now]:
                self._cut_off(asker)

    def _cut_off(self, asker: socket.socket) -> None:
        """Its thread finds the connection ended, and closes it."""
        del self._askers[asker]
        with contextlib.suppress(OSError):
            asker.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """An asker that went away or never finished is nobody's trouble."""
        logger.debug("metrics: an asker broke off")


def _handler(
    answer: Callable[[str], tuple[int, str, str]],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE
        server_version, sys_version = "prescreen", ""

        def setup(self) -> None:
            """Read the head, and no more of it than anybody needs."""
            super().setup()
            head = b""
            while b"\r\n\r\n" not in head and len(head) < _LONGEST_HEAD:
                part = self.connection.recv(4096)
                if not part:
                    break
                head += part
            self._is_whole = b"\r\n\r\n" in head
            self.rfile = BytesIO(head)

        def parse_request(self) -> bool:
            if not super().parse_request():
                return False
            if not self._is_whole:
                self.send_error(431)
            return self._is_whole

        def do_GET(self) -> None:
            status, kind, text = answer(self.path.partition("?")[0])
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is said of each question."""

    return Handler
