"""The processes of a node: started, started again when they die, ended together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from prescreen.errors import SettingsError

logger = logging.getLogger(__name__)

ROLES = ("receive", "screen", "deliver")

#: The exit status of a command whose settings or weights are wrong.
EXIT_SETTINGS = 2

#: In a role's environment: the descriptor whose end of file says that its supervisor is gone.
LIFELINE = "PRESCREEN_LIFELINE"

#: Seconds a role is given to end by itself, and the longest pause before it is started again.
GRACE = 30.0
RESTART_CAP = 30.0


class Supervisor:
    """Keeps the three roles running as processes of their own.

    `command` makes the command line of a role. What dies is started again, after a pause that
    grows while it keeps dying; `stop` ends all with SIGTERM, and with SIGKILL after GRACE. Each
    inherits one end of a pipe whose other end nobody but this process has: `heed_supervisor`.
    """

    def __init__(self, command: Callable[[str], list[str]], roles: Sequence[str] = ROLES) -> None:
        self._command = command
        self._lifeline, self._held = os.pipe()  # until this process ends, however it does
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._pause = dict.fromkeys(roles, 0.0)
        self._due = dict.fromkeys(roles, 0.0)
        self._started = dict.fromkeys(roles, 0.0)

    def look(self) -> None:
        """Start what is not running and due; note what has died."""
        for role in self._pause:
            process = self._running.get(role)
            if process is not None and process.poll() is not None:
                self._note_death(role, process.returncode)
            if role not in self._running and time.monotonic() >= self._due[role]:
                self._running[role] = self._start(role)
                self._started[role] = time.monotonic()

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, LIFELINE: str(self._lifeline)}
        return subprocess.Popen(self._command(role), env=environment, pass_fds=(self._lifeline,))

    def _note_death(self, role: str, status: int) -> None:
        """What is wrong with settings or weights (status 2) no new start mends: end with it."""
        del self._running[role]
        if status == EXIT_SETTINGS:
            raise SettingsError(f"{role} cannot run with these settings; it says why above")
        lived = time.monotonic() - self._started[role]
        grown = min(RESTART_CAP, 2 * self._pause[role] or 1.0)
        self._pause[role] = 1.0 if lived > RESTART_CAP else grown
        self._due[role] = time.monotonic() + self._pause[role]
        logger.error("%s ended with %d; starting again in %.0f s", role, status, self._pause[role])

    @property
    def processes(self) -> dict[str, int]:
        """Process id of each role that runs."""
        return {role: process.pid for role, process in self._running.items()}

    def standing(self) -> dict[str, bool]:
        """Of each role whether its process runs; from any thread."""
        running = dict(self._running)
        return {role: role in running and running[role].poll() is None for role in self._pause}

    def stop(self) -> None:
        """End all roles and wait for them."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for process in self._running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def heed_supervisor(stop: Callable[[], None]) -> None:
    """Call `stop` when the supervisor that started this process is gone, SIGKILL included.

    What has not ended GRACE seconds later is ended as the supervisor would have: at once. A role
    that was started by hand has no supervisor, and ends for no such reason.
    """
    lifeline = os.environ.pop(LIFELINE, None)
    if lifeline is not None:
        threading.Thread(target=_heed, args=(int(lifeline), stop), daemon=True).start()


def _heed(lifeline: int, stop: Callable[[], None]) -> None:
    os.read(lifeline, 1)  # nobody writes: it returns when the other end is closed
    logger.error("the supervisor is gone; ending")
    stop()
    time.sleep(GRACE)
    os._exit(1)
