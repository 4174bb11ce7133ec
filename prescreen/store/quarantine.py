"""What was set aside for a person: files without a row, results of another job.

It was acknowledged, so it is kept for the retention time from the moment it was set aside, and no
longer: nobody's picture stays for ever because nobody looked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prescreen.store.spool import Spool

#: Of what lies there without a word why.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Aside:
    """One file or results folder set aside: why, and since when (seconds of the epoch)."""

    path: Path
    reason: str
    since: float


def contents(spool: Spool) -> Iterator[Aside]:
    """All that is set aside."""
    for path in sorted((spool.root / "quarantine").iterdir()):
        if path.suffix == ".reason" and path.with_suffix(".dcm").exists():
            continue
        try:
            since = path.stat().st_ctime  # of the rename that brought it here
        except FileNotFoundError:  # removed meanwhile
            continue
        yield Aside(path, _reason(path), since)


def _reason(path: Path) -> str:
    """The code at the beginning of what was noted; what follows it is for people."""
    try:
        noted = path.with_suffix(".reason").read_text(encoding="ascii")
    except (OSError, ValueError):
        return UNKNOWN
    return noted.partition(":")[0].strip() or UNKNOWN


def counted(spool: Spool) -> dict[str, int]:
    """How many are set aside, by reason."""
    found: dict[str, int] = {}
    for aside in contents(spool):
        found[aside.reason] = found.get(aside.reason, 0) + 1
    return found


def expire(spool: Spool, before: float) -> int:
    """Remove what was set aside before that instant; how many."""
    over = [aside for aside in contents(spool) if aside.since < before]
    for aside in over:
        spool.remove(aside.path)
        spool.remove(aside.path.with_suffix(".reason"))
    return len(over)
