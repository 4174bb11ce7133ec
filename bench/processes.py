"""Processes: what the kernel says of them (CPU time, resident memory), and what one prints."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_MIB = 1 << 20


def end_in_order() -> None:
    """SIGTERM ends this process as an error does: what it started and wrote goes with it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def told(module: str, *arguments: str) -> dict[str, Any]:
    """The JSON that a module of the project prints, run in a process of its own."""
    answer = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def cpu_ms(pid: int) -> float:
    """CPU milliseconds, user and system, of one process.

    All its threads count, those that ended too, and the children it has waited for; with the
    grain of the kernel's clock tick (10 ms).
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 1000 * sum(int(field) for field in fields[11:15]) / _TICKS


def children(pid: int) -> list[int]:
    """The living descendants of a process."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [one for child in _listed(listed) for one in (child, *children(child))]
    return found


def _listed(file: Path) -> list[int]:
    """The children of a thread; of one that ended meanwhile none."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in file.read_text().split()]
    return []


def children_cpu_ms(pid: int) -> float:
    """CPU milliseconds of the living descendants."""
    return sum(cpu_ms(child) for child in children(pid))


def resident_mib(pid: int) -> float:
    """Resident memory, shared libraries included."""
    return _status(pid, "VmRSS")


def highest_resident_mib(pid: int) -> float:
    """The highest resident memory since `forget_highest`, or since the start."""
    return _status(pid, "VmHWM")


def forget_highest(pid: int) -> None:
    """Begin to look for the highest resident memory anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclass(frozen=True)
class Held:
    """What a process and its descendants hold: threads, descriptors, MiB of memory."""

    threads: int
    descriptors: int
    mib: float


def held(pid: int) -> Held:
    """What is held now. Memory is the proportional set: what processes share counts once."""
    threads = descriptors = 0
    mib = 0.0
    for one in [pid, *children(pid)]:
        process = Path(f"/proc/{one}")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            threads += sum(1 for _ in (process / "task").iterdir())
            descriptors += sum(1 for _ in (process / "fd").iterdir())
            mib += _proportional(process)
    return Held(threads, descriptors, mib)


def _proportional(process: Path) -> float:
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / _MIB
    return 0.0


def _status(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / _MIB
    raise ValueError(f"process {pid} has no {key}")
