"""What a node looks after beside its work: retention, room, certificates, checkpoints.

Run by a scheduler in the supervisor. Nothing here is needed for a study to be answered, and
nothing here may stop one: what goes wrong is logged and tried again at the next turn.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from cryptography import x509
from sqlalchemy import Engine

from prescreen.errors import PrescreenError, StoreError
from prescreen.settings import Housekeeping
from prescreen.store import audit, lines, quarantine
from prescreen.store.database import empty_log
from prescreen.store.retention import Retention
from prescreen.store.spool import Spool

logger = logging.getLogger(__name__)

#: One line of JSON per checkpoint, beside the database; copy it off the box.
CHECKPOINTS = "checkpoints.jsonl"
#: One line of JSON per backup: when, and in which folder.
BACKUPS = "backups.jsonl"
#: Seconds for which what goes wrong in the same way is not said again.
_AGAIN = 3_600.0


class Housekeeper:
    """The turns of housekeeping on one data directory, each safe to repeat at any time."""

    def __init__(
        self,
        engine: Engine,
        spool: Spool,
        data_dir: Path,
        settings: Housekeeping,
        clock: Callable[[], datetime.datetime],
    ) -> None:
        self._engine = engine
        self._spool = spool
        self._data_dir = data_dir
        self._settings = settings
        self._clock = clock
        self._room_is_low = False

    def schedule(self) -> BackgroundScheduler:
        """A scheduler with all turns, not yet started; the first turns come at once."""
        scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"coalesce": True})
        begin = datetime.datetime.now(datetime.UTC)
        minutes, hours = self._settings.every_minutes, self._settings.checkpoint_hours
        for turn in (self.retain, self.watch_room, self.watch_certificates):
            scheduler.add_job(safely(turn), "interval", minutes=minutes, next_run_time=begin)
        scheduler.add_job(safely(self.checkpoint), "interval", hours=hours, next_run_time=begin)
        return scheduler

    def retain(self) -> int:
        """Remove what is past its retention and what killed processes left; how many files."""
        retention = Retention(self._engine, self._clock)
        before = self._clock() - datetime.timedelta(days=self._settings.retention_days)
        expired = retention.expire(before)
        for path in expired:
            self._spool.remove(path)
        self._empty_quarantine(before)
        empty_log(self._engine)
        swept = self._spool.sweep(retention.knows)
        if swept.quarantined:
            logger.error("%d files without a row were set aside in quarantine", swept.quarantined)
            audit.record(self._engine, "spool.quarantined", {"files": swept.quarantined})
        return len(expired) + swept.expired + swept.unfinished

    def _empty_quarantine(self, before: datetime.datetime) -> None:
        """What was set aside is kept for as long as anything else."""
        removed = quarantine.expire(self._spool, before.timestamp())
        if removed:
            logger.warning("%d files were removed from quarantine: their time was over", removed)
            audit.record(self._engine, "quarantine.removed", {"files": removed}, self._clock)

    def watch_room(self) -> bool:
        """Whether there is room above the watermark; a change is audited and logged."""
        free = self._spool.free()
        is_low = free < self._settings.minimum_free_mb * 1_000_000
        if is_low != self._room_is_low:
            kind = "disk.low" if is_low else "disk.recovered"
            audit.record(self._engine, kind, {"free_mb": free // 1_000_000}, self._clock)
            logger.log(logging.ERROR if is_low else logging.INFO, "%s: %d bytes free", kind, free)
            self._room_is_low = is_low
        return not is_low

    def watch_certificates(self) -> list[str]:
        """What is to be said of certificates that expire soon, or cannot be read."""
        warnings = list(expiring(self._settings, time.time()))
        for warning in warnings:
            logger.error("%s", warning)
        return warnings

    def checkpoint(self) -> audit.Checkpoint:
        """Write the end of the audit chain down beside the database."""
        point = audit.checkpoint(self._engine)
        line = {"at": self._clock().isoformat(), "event_id": point.event_id, "hash": point.hash}
        lines.append(self._data_dir / CHECKPOINTS, line)
        return point


def read_checkpoints(path: Path) -> list[audit.Checkpoint]:
    """The checkpoints of a file that `checkpoint` wrote, oldest first; none if it is not there.

    What a full disk or a loss of power cut off is left out. StoreError for any other line that is
    no checkpoint.
    """
    if not path.exists():
        return []
    points: list[audit.Checkpoint] = []
    for number, line in lines.whole(path.read_text(encoding="utf-8")):
        try:
            told = json.loads(line)
            points.append(audit.Checkpoint(int(told["event_id"]), str(told["hash"])))
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{path}: line {number} is no checkpoint") from None
    return points


def note_backup(data_dir: Path, folder: Path, at: datetime.datetime) -> None:
    """Remember beside the database where a backup of it lies."""
    line = {"at": at.isoformat(), "folder": str(folder)}
    lines.append(data_dir / BACKUPS, line)


def last_backup(data_dir: Path) -> Path | None:
    """The folder of the newest backup that is still there, None where no line names one."""
    try:
        told = (data_dir / BACKUPS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in reversed(told):
        try:
            folder = Path(json.loads(line)["folder"])
        except (ValueError, KeyError, TypeError):  # cut off
            continue
        if (folder / "backup.json").is_file():
            return folder
    return None


def expiring(settings: Housekeeping, now: float) -> Iterable[str]:
    """A sentence for each watched certificate that expires soon, has expired or is unreadable."""
    for path in settings.certificates:
        try:
            left = (not_after(path) - now) / 86_400
        except (OSError, ValueError) as error:
            yield f"certificate {path}: cannot be read ({type(error).__name__})"
            continue
        if left < 0:
            yield f"certificate {path}: expired {-left:.0f} days ago; renew it"
        elif left < settings.certificate_warn_days:
            yield f"certificate {path}: expires in {left:.0f} days; renew it"


def not_after(path: Path) -> float:
    """When the first certificate of a PEM file to end ends, in seconds of the epoch."""
    certificates = x509.load_pem_x509_certificates(path.read_bytes())
    return min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)


def safely(turn: Callable[[], Any]) -> Callable[[], None]:
    """A turn whose errors are logged: it comes again. The same words are said once an hour."""
    said: dict[str, float] = {}

    def run() -> None:
        try:
            turn()
        except (PrescreenError, OSError) as error:
            now, words = time.monotonic(), str(error)
            if now - said.get(words, -math.inf) < _AGAIN:
                return
            said.clear()
            said[words] = now
            # ours say what is wrong and what to do
            trace = None if isinstance(error, PrescreenError) else error
            logger.error(
                "%s: %s", turn.__qualname__, words if trace is None else "", exc_info=trace
            )

    return run
