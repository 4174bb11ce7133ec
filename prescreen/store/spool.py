"""Files that exist only when they are whole and durable.

::

    <data_dir>/spool/received/<2 hex>/<uuid>.dcm    objects as they came in
    <data_dir>/spool/draft/<job>-<uuid>/            a report being written
    <data_dir>/spool/results/<job>/                 a report that is complete and never changes
    <data_dir>/spool/quarantine/<uuid>.dcm          what a person must look at, with `.reason`

All four lie on one file system, so that a rename is atomic. Names are random or numbers of ours:
no UID, AE title or tag ever becomes part of a path.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import mmap
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prescreen.errors import PrescreenError, StoreError, UnusableImage
from prescreen.store.intake import Intake, Kept, fsync, mapped
from prescreen.store.lately import HELD, Lately, is_untouched
from prescreen.study import Content, Unfinished


@dataclass(frozen=True)
class Swept:
    """What a sweep found: unfinished files removed, expired ones removed, orphans set aside."""

    unfinished: int
    expired: int
    quarantined: int


class Spool:
    """The spool under one data directory; its folders are created when they are missing.

    `crash` is called with the name of each crash point; tests end the process there. `held` is how
    many bytes of what was written last the kernel is left to hold.
    Raises StoreError where a folder cannot be created or written.
    """

    def __init__(
        self,
        data_dir: Path,
        crash: Callable[[str], None] = lambda point: None,
        held: int = HELD,
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.root = self.data_dir / "spool"
        self._received = self.root / "received"
        self._results = self.root / "results"
        self._quarantine = self.root / "quarantine"
        self._draft = self.root / "draft"
        self._crash = crash
        self._lately = Lately(held)
        with mapped(self.data_dir):
            self._create()

    def _create(self) -> None:
        folders = (self._received, self._results, self._quarantine, self._draft)
        for folder in folders:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        devices = {folder.stat().st_dev for folder in folders}
        if len(devices) > 1:
            raise StoreError(f"{self.root}: its folders must lie on one file system")
        _probe(self._draft)
        self._spread()
        for folder in (self.root, self.data_dir):
            fsync(folder)

    def _spread(self) -> None:
        """The 256 folders that received files are spread over, so that no sender waits for one."""
        there = {folder.name for folder in self._received.iterdir()}
        missing = [name for number in range(256) if (name := f"{number:02x}") not in there]
        for name in missing:
            (self._received / name).mkdir(mode=0o750, exist_ok=True)
        if missing:
            fsync(self._received)

    def begin(self) -> Intake:
        """A new, empty file for an object that is coming in; `keep` makes it one of the spool.

        Raises OutOfResources where there is no room, StoreError where it cannot be created.
        """
        self._lately.make_way()
        name = uuid.uuid4().hex
        folder = self._received / name[:2]
        with mapped(folder):
            if not folder.is_dir():
                folder.mkdir(mode=0o750, exist_ok=True)
                fsync(self._received)
            return Intake(folder, name, self._crash)

    def keep(self, content: Unfinished | Content) -> Kept:
        """Keep a file that `begin` made, or bytes; on return it survives a loss of power.

        Raises OutOfResources where there is no room (nothing is left behind), StoreError where
        the folder cannot be written.
        """
        kept = content.finish() if isinstance(content, Intake) else self._copied(content)
        self._lately.add(kept.path)
        return kept

    def _copied(self, content: Unfinished | Content) -> Kept:
        intake = self.begin()
        try:
            held = content if isinstance(content, bytes | mmap.mmap) else content.content()
            intake.write(memoryview(held))
            return intake.finish()
        except PrescreenError:
            intake.discard()
            raise

    def let_go(self, path: Path) -> None:
        """Let the kernel drop the content of a kept file that nobody is going to read soon."""
        self._lately.drop(path)

    def draft(self, job_id: int) -> Path:
        """A new, empty folder in which the results of a job are written."""
        self._lately.make_way()
        path = self._draft / f"{int(job_id)}-{uuid.uuid4().hex}"
        with mapped(self._draft):
            path.mkdir(mode=0o750)
        return path

    def publish(self, job_id: int, draft: Path) -> Path:
        """Make a draft the results of a job, whole and durable, by one rename.

        Results that exist already may have been sent: they are returned unchanged and the draft
        is removed. Raises OutOfResources or StoreError; the draft stays then.
        """
        results = self._results / str(int(job_id))
        with mapped(self._results):
            if not results.is_dir():
                for name in self._rename_whole(draft, results):
                    self._lately.add(results / name)
        if draft.exists():
            shutil.rmtree(draft, ignore_errors=True)
        return results

    def _rename_whole(self, draft: Path, results: Path) -> list[str]:
        """The names of the objects, of which those that exist already may have none."""
        names = sorted(file.name for file in draft.iterdir())
        for name in names:
            fsync(draft / name)
        fsync(draft)
        self._crash("report.before_rename")
        try:
            draft.rename(results)
        except OSError as error:  # someone else published in between: theirs counts
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        fsync(self._results)
        self._crash("report.renamed")
        return [name for name in names if name.endswith(".dcm")]

    def results(self, job_id: int) -> Path | None:
        """The results folder of a job, or None while there is none."""
        path = self._results / str(int(job_id))
        return path if path.is_dir() else None

    def renumber(self, job_id: int, new: int) -> None:
        """Give the results of a job another number: its own belongs to another job by now."""
        with mapped(self._results):
            (self._results / str(int(job_id))).rename(self._results / str(int(new)))
            fsync(self._results)

    def quarantine(self, path: Path, reason: str) -> Path:
        """Set a file aside for a person; returns where it lies now.

        `reason` is a code, or a code, a colon and more for people.
        """
        target = self._quarantine / f"{uuid.uuid4().hex}.dcm"
        with mapped(self._quarantine):
            noted = target.with_suffix(".reason")
            noted.write_text(f"{reason}\n", encoding="ascii", errors="replace")
            self._inside(path).rename(target)
            fsync(self._quarantine)
        return target

    def remove(self, path: Path) -> None:
        """Remove a file or results folder of the spool; one that is gone already is no error."""
        inside = self._inside(path)
        with mapped(inside.parent):
            if inside.is_dir():
                shutil.rmtree(inside)
            else:
                inside.unlink(missing_ok=True)
                self._lately.forget(path)

    def verify(self, path: Path, sha256: str, kept_at: datetime.datetime | None = None) -> None:
        """Raise UnusableImage (`file_missing`, `file_damaged`) unless the bytes are as kept.

        With `kept_at` what was kept moments ago and not touched since is not read again.
        """
        try:
            if is_untouched(path, kept_at):
                return
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            text = f"{path}: cannot be read: {error.strerror}"
            raise UnusableImage(text, reason="file_missing") from error
        if digest != sha256:
            raise UnusableImage(f"{path}: is not what was kept", reason="file_damaged")

    def is_used(self) -> bool:
        """Whether files as received or results lie here."""
        with mapped(self.root):
            kept = self._received.glob("*/*.dcm")
            return any(kept) or any(folder.name.isdigit() for folder in self._results.iterdir())

    def free(self) -> int:
        """Bytes that may still be written to the file system of the spool."""
        with mapped(self.root):
            return shutil.disk_usage(self.root).free

    def sweep(self, known: Callable[[Path], bool | None], min_age: float = 3_600) -> Swept:
        """Clear up what killed processes left behind.

        `known` says of a kept file: True (has a row), False (its retention is over), None (no
        row). Unfinished files and drafts are removed, expired files too; a whole file without a
        row is set aside, because the database may be an older copy than the spool. Whatever is
        younger than `min_age` seconds may still be in work and is left alone.
        """
        before = time.time() - min_age
        unfinished = expired = quarantined = 0
        for path in self._older(self._draft.iterdir(), before):
            self.remove(path)
            unfinished += 1
        for path in self._received_before(before):
            if path.name.endswith(".tmp"):
                self.remove(path)
                unfinished += 1
            elif (verdict := known(path)) is False:
                self.remove(path)
                expired += 1
            elif verdict is None:
                self.quarantine(path, "no_row")
                quarantined += 1
        return Swept(unfinished, expired, quarantined)

    def _received_before(self, before: float) -> Iterator[Path]:
        """A folder at a time: months of studies are too many to be listed at once."""
        for folder in list(self._received.iterdir()):
            if folder.is_dir():
                yield from self._older(folder.iterdir(), before)

    def _older(self, paths: Iterator[Path], before: float) -> Iterator[Path]:
        for path in list(paths):
            try:
                modified = path.stat().st_mtime
            except FileNotFoundError:  # finished or removed by its owner meanwhile
                continue
            if modified <= before:
                yield path

    def _inside(self, path: Path) -> Path:
        resolved = Path(path).resolve()
        root = self.root.resolve()
        if root not in resolved.parents or resolved.parent == root:
            raise StoreError(f"{path}: is not a file of the spool {self.root}")
        return resolved


def _probe(folder: Path) -> None:
    """Write and remove an empty file: permissions alone do not tell (read-only mounts, root)."""
    path = folder / f".{uuid.uuid4().hex}.tmp"
    path.touch(mode=0o640)
    path.unlink()


def make_durable(path: Path) -> None:
    """Let a file's bytes, or a folder's names, survive a loss of power."""
    with mapped(path):
        fsync(path)
