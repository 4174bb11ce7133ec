"""A node that stands for the bench: settings under a folder, its roles as processes, its PACS."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prescreen import __version__, node
from prescreen.settings import Settings, load
from prescreen.store import audit
from prescreen.store.destinations import Destinations
from prescreen.study import Event
from tests.peers.dcmtk import free_port, storescp, wait_until_listening

#: The largest PDU that storescp takes, and the one the node asks for.
MAX_PDU = "131072"

_SETTINGS = """\
data_dir = "{data_dir}"
[receive]
port = {port}
[[receive.peers]]
ae_title = "MODALITY"
[screen]
quiet_period = {quiet_period}
[scope]
acquired_within_hours = 10000000
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
audience = "evaluation"
[housekeeping]
minimum_free_mb = 1
[log]
level = "warning"
{more}
"""


@dataclass
class Standing:
    """A node and the processes of it that run (role → process)."""

    config: Path
    settings: Settings
    running: dict[str, subprocess.Popen[bytes]]

    @property
    def port(self) -> int:
        """Where the receiver listens."""
        return self.settings.receive.port

    def events(self, kind: str) -> list[Event]:
        """The audited events of one kind, in order."""
        engine = node.open_store(self.settings).engine
        try:
            return list(audit.events(engine, kind=kind))
        finally:
            engine.dispose()


def machine() -> dict[str, Any]:
    """What the figures were made on."""
    return {
        "prescreen": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
    }


def command(role: str, config: Path) -> list[str]:
    """How the node itself starts a role."""
    return node.role_command(config)(role)


@contextmanager
def standing(
    folder: Path,
    commands: dict[str, Callable[[Path], list[str]]],
    quiet_period: float = 0,
    more: str = "",
) -> Iterator[Standing]:
    """A node with a live destination, a storescp; `commands` makes each role's command line.

    `more` is added to its settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        pacs = stack.enter_context(storescp(folder / "pacs", "+xa", "-pdu", MAX_PDU))
        config = folder / "prescreen.toml"
        config.write_text(
            _SETTINGS.format(
                data_dir=folder / "data",
                port=free_port(),
                pacs_port=pacs.port,
                quiet_period=quiet_period,
                more=more,
            )
        )
        stands = Standing(config, load(config), {})
        engine = node.open_store(stands.settings).engine
        Destinations(engine).go_live("pacs", "bench", "bench")
        engine.dispose()
        for role, made in commands.items():
            stands.running[role] = stack.enter_context(_running(made(config)))
        wait_until_listening(stands.port, 60)
        yield stands


@contextmanager
def _running(line: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    root = Path(__file__).parents[1]
    with subprocess.Popen(list(line), cwd=root) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def role(name: str) -> Callable[[Path], list[str]]:
    """A role as `prescreen serve --only` runs it."""
    return lambda config: command(name, config)


def instrumented(log: Path) -> Callable[[Path], list[str]]:
    """The screener with a stopwatch on its stages."""
    return lambda config: [sys.executable, "-m", "bench.stages", str(config), str(log)]


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Look five times a second until a condition holds; TimeoutError with `what` if never."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.2)
