"""What the processes of a node hold over time, and whether it grows: memory, descriptors, threads.

A role's memory is that of its process; `decode` are the screener's children together. Growth is the
slope of resident memory after a warm-up, as the median of the slopes between all pairs of samples
(Theil and Sen): a step, a burst or a collection moves it little. Descriptors and threads come and
go with associations and studies: what is held last in all but a tenth of the time is compared with
the most that was held at first: a machine with more to do may rest in no tenth of the time. What
loses one a study is beyond that within minutes, what loses one in thirty within the two hours.
Some descriptors are kept for the next time, up to so many: the most that were ever needed at once,
which a busy hour raises for good. They are counted apart and judged by that bound (RESERVES).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bench.processes import children, resident_mib

#: MiB an hour that a process may grow by, and the MiB below which growth is the allocator's grain
#: and not a leak, however short the run. A run of two hours screens about 900 studies: 16 MiB are
#: then 18 KiB a study, less than any object a study leaves behind (its header alone is that long).
#: A run of three minutes finds what keeps a decoded picture (14 MiB as the node holds it) of two.
LIMIT_AN_HOUR, GRAIN = 8.0, 16.0

#: The share of time in which a count is above what is held.
BUSY = 0.1

#: What is kept for the next time, by what its descriptors lead to, and how many of it may rest:
#: memories for the pixels of one batch (`_KEPT` in dicom/decode.py); SQLite's pool of four
#: connections, that of `News`, each with its log, and the index of the log.
RESERVES = {"memfd:prescreen-pixels": 8, "/prescreen.db": 2 * 4 + 2 + 1}


@dataclass(frozen=True)
class Sample:
    """One look at one role: seconds since the watch began, MiB, open descriptors, threads.

    `descriptors` are those of no reserve; `reserved` has the others, by reserve.
    """

    at: float
    role: str
    rss_mib: float
    descriptors: int
    threads: int
    reserved: Mapping[str, int]


@dataclass
class Watch:
    """Looks at a process and its descendants every few seconds until it is left."""

    pid: int
    every: float = 2.0
    samples: list[Sample] = field(default_factory=list)
    pids: dict[str, set[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def look(self) -> None:
        """One sample of each role."""
        held: dict[str, list[tuple[float, Counter[str], int]]] = {}
        for pid in (self.pid, *children(self.pid)):
            try:
                role, found = _role(pid, self.pid), _held(pid)
            except (OSError, ValueError):
                continue  # it ended meanwhile
            held.setdefault(role, []).append(found)
            self.pids.setdefault(role, set()).add(pid)
        now = time.monotonic() - self._begun
        for role, each in held.items():
            rss = sum(one[0] for one in each)
            opened, threads = sum((one[1] for one in each), Counter()), sum(one[2] for one in each)
            others = opened.pop("", 0)
            self.samples.append(Sample(now, role, rss, others, threads, opened))

    @property
    def seconds(self) -> float:
        """How long it has been watching."""
        return time.monotonic() - self._begun

    def _run(self) -> None:
        while not self._over.wait(self.every):
            self.look()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(60)


def _role(pid: int, top: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    if "--only" in words:
        return words[words.index("--only") + 1]
    return "serve" if pid == top else "decode"


def _held(pid: int) -> tuple[float, Counter[str], int]:
    folder, descriptors = Path(f"/proc/{pid}"), Counter[str]()
    for descriptor in (folder / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            descriptors[_reserve(str(descriptor.readlink()))] += 1
    threads = sum(1 for _ in (folder / "task").iterdir())
    return resident_mib(pid), descriptors, threads


def _reserve(path: str) -> str:
    """Of which reserve a descriptor is, by what it leads to; empty where of none."""
    return next((reserve for reserve in RESERVES if reserve in path), "")


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """The median of the slopes between all pairs of at most 300 samples, a unit of time."""
    pick = np.linspace(0, len(at) - 1, min(300, len(at))).round().astype(int)
    x, y = np.asarray(at)[pick], np.asarray(values)[pick]
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def figures(samples: Sequence[Sample], warm: float, until: float) -> dict[str, dict[str, Any]]:
    """Of each role, between two instants: how memory grew; what was held first and last.

    First is the first third of that time, last the last third. Roles with fewer than ten samples
    there are left out.
    """
    third = (until - warm) / 3
    found = {}
    for role in sorted({sample.role for sample in samples}):
        seen = [one for one in samples if one.role == role and warm <= one.at <= until]
        if len(seen) < 10:
            continue
        an_hour = 3600 * slope([s.at for s in seen], [s.rss_mib for s in seen])
        first = [s for s in seen if s.at < warm + third]
        last = [s for s in seen if s.at > until - third]
        found[role] = {
            "rss_mib_first": _median(first, lambda s: s.rss_mib),
            "rss_mib_last": _median(last, lambda s: s.rss_mib),
            "rss_mib_highest": max(s.rss_mib for s in seen),
            "rss_mib_an_hour": an_hour,
            "rss_mib_grown": an_hour * (until - warm) / 3600,
            "descriptors_first": _resting(first, lambda s: s.descriptors),
            "descriptors_most_first": max(s.descriptors for s in first),
            "descriptors_last": _resting(last, lambda s: s.descriptors),
            "threads_first": _resting(first, lambda s: s.threads),
            "threads_most_first": max(s.threads for s in first),
            "threads_last": _resting(last, lambda s: s.threads),
            "reserved_last": {reserve: _reserved(last, reserve) for reserve in RESERVES},
        }
    return found


def leaks(found: dict[str, dict[str, Any]]) -> list[str]:
    """What of the figures is a leak, in words; none if there is none."""
    said = []
    for role, one in found.items():
        if one["rss_mib_an_hour"] > LIMIT_AN_HOUR and one["rss_mib_grown"] > GRAIN:
            grown, rate = one["rss_mib_grown"], one["rss_mib_an_hour"]
            said.append(f"{role}: memory grew by {grown:.1f} MiB, {rate:.1f} MiB an hour")
        for what in ("descriptors", "threads"):
            first, most, last = (one[f"{what}_{when}"] for when in ("first", "most_first", "last"))
            if last > most:
                said.append(f"{role}: {what} grew from {first} (at most {most}) to {last}")
        for reserve, rest in one["reserved_last"].items():
            if rest > RESERVES[reserve]:
                said.append(f"{role}: {reserve} holds {rest}, beyond the {RESERVES[reserve]} kept")
    return said


def _median(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return float(np.median([of(sample) for sample in samples]))


def _reserved(samples: Sequence[Sample], reserve: str) -> int:
    return _resting(samples, lambda s: s.reserved.get(reserve, 0))


def _resting(samples: Sequence[Sample], of: Callable[[Sample], int]) -> int:
    return int(np.quantile([of(sample) for sample in samples], BUSY, method="lower"))
