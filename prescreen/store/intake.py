"""A file of the spool while it comes in: written and digested piece by piece, then whole at once.

::

    received/<2 hex>/.<name>.tmp    being written; a killed process leaves it to the sweep
    received/<2 hex>/<name>.dcm     whole and durable
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import errno
import hashlib
import itertools
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prescreen.errors import OutOfResources, StoreError

#: Conditions that pass: the sender is told to try again later.
_PASSING = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EROFS,
        errno.EAGAIN,
    }
)

#: Bytes after which the disk is told to begin: what is on its way need not be waited for later.
_STRETCH = 1 << 20
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


#: Bytes of what a process wrote last that the kernel is left to hold: thirty studies of 8 MB.
HELD = 256 << 20
#: Files that are remembered for that at most, and looked at when something is to be written.
_MOST_HELD, _LOOKED_AT = 4_096, 8
#: Seconds for which a file that was written here is taken to lie in the kernel's memory still.
FRESH = 600.0
_STARTED = time.time()


def is_untouched(path: Path, kept_at: datetime.datetime | None) -> bool:
    """Whether a file is surely what was written before `kept_at`, moments ago; OSError.

    What was written while this process lived, and neither touched (ctime) nor let go since, is
    read from the kernel's memory as it went in: to digest it again would test no disk. Whatever is
    in doubt, a clock that was put back among it, is not sure.
    """
    if kept_at is None:
        return False
    changed, now = path.stat().st_ctime, time.time()
    return _STARTED <= changed <= kept_at.timestamp() <= now <= changed + FRESH


def let_go(path: Path) -> None:
    """Let the kernel drop the content of a durable file that nobody is likely to read soon.

    Whoever reads the file later reads the disk: it is no longer untouched. What cannot be dropped
    stays.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _touch(path)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def done_with(path: Path, kept_at: datetime.datetime | None) -> None:
    """Say of a file that was read for the last time for now: whoever wrote it may let it go.

    What was read from the disk, of an earlier life of the node or after it was let go, nobody else
    knows of: it is let go at once.
    """
    with contextlib.suppress(OSError):
        if is_untouched(path, kept_at):
            _touch(path)
        else:
            let_go(path)


def _touch(path: Path) -> None:
    """Set ctime, by which `is_untouched` goes, and leave what a sweep goes by."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class Lately:
    """The files written last, whose content the kernel holds; the oldest make way for new ones.

    Left to itself the kernel keeps the megabytes of every study, for which what is used over and
    over makes way. Dropped at once, their memory goes back to where it came from, and new memory
    for the next study costs more than writing it, above all where a host lends it. So up to `most`
    bytes are held, and of what is more those files that somebody is `done_with` are let go just
    before as much is written: that takes their place. What is still to be read stays. Of files that
    others removed or moved nothing is left but their size, until their turn comes.
    Used from any thread.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[Path, tuple[int, int]] = {}  # size and ctime; oldest first
        self._size = 0
        self._lock = threading.Lock()

    def add(self, path: Path) -> None:
        """Hold a file that was written."""
        with contextlib.suppress(OSError), self._lock:
            status = path.stat()
            self._forget(path)
            self._held[path] = status.st_size, status.st_ctime_ns
            self._size += status.st_size
            if len(self._held) > _MOST_HELD:
                self._forget(next(iter(self._held)))

    def make_way(self) -> None:
        """Let go of the oldest that are done with while more bytes are held than are to be."""
        surplus = []
        with self._lock:
            for path in list(itertools.islice(self._held, _LOOKED_AT)):
                if self._size <= self._most:
                    break
                size, changed = self._held[path]
                self._forget(path)
                if _changed(path) == changed:  # nobody is done with it: it waits for another turn
                    self._held[path] = size, changed
                    self._size += size
                else:
                    surplus.append(path)
        for path in surplus:
            let_go(path)

    def drop(self, path: Path) -> None:
        """Let go of a file now: nobody is going to read it soon."""
        self.forget(path)
        let_go(path)

    def forget(self, path: Path) -> None:
        """A file is no more, or is let go."""
        with self._lock:
            self._forget(path)

    def _forget(self, path: Path) -> None:
        size, _ = self._held.pop(path, (0, 0))
        self._size -= size


def _changed(path: Path) -> int | None:
    """When anything of the file changed; None where it is not there."""
    try:
        return path.stat().st_ctime_ns
    except OSError:
        return None


@dataclass(frozen=True)
class Kept:
    """One file of the spool: its absolute path, the SHA-256 of its bytes in hex, its size."""

    path: Path
    sha256: str
    size: int


class Intake:
    """A file that is being written under a temporary name. Used by one thread at a time.

    Every method may raise OutOfResources where there is no room, StoreError where the folder
    cannot be written.
    """

    def __init__(self, folder: Path, name: str, crash: Callable[[str], None]) -> None:
        self._folder = folder
        self._temporary, self._path = folder / f".{name}.tmp", folder / f"{name}.dcm"
        self._crash = crash
        self._digest = hashlib.sha256()
        self._size = self._on_its_way = 0
        with mapped(folder):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o640)

    def write(self, content: bytes | memoryview) -> None:
        """Append to the file, and to what is digested."""
        self._digest.update(content)
        with mapped(self._folder):
            view = memoryview(content)
            while view:
                view = view[os.write(self._descriptor, view) :]
        self._size += len(content)
        if self._size - self._on_its_way >= _STRETCH:
            self._set_out()

    def content(self) -> mmap.mmap:
        """The file so far, which must not be empty, mapped and not copied."""
        with mapped(self._folder):
            return mmap.mmap(self._descriptor, self._size, access=mmap.ACCESS_READ)

    def finish(self) -> Kept:
        """Make it a file of the spool; on return content and name survive a loss of power."""
        try:
            with mapped(self._folder):
                os.fsync(self._descriptor)
                self._crash("keep.written")
                self._temporary.rename(self._path)
        except (OutOfResources, StoreError):
            self.discard()
            raise
        self._close()
        with mapped(self._folder):
            fsync(self._folder)
        self._crash("keep.renamed")
        return Kept(self._path, self._digest.hexdigest(), self._size)

    def discard(self) -> None:
        """Remove it, unless it is finished or removed already."""
        if self._close():
            with mapped(self._folder):
                self._temporary.unlink(missing_ok=True)

    def _close(self) -> bool:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        return descriptor >= 0

    def _set_out(self) -> None:
        """Let the disk begin with what was written; that it does is no promise, and not needed."""
        if _sync_file_range is not None:
            stretch = self._size - self._on_its_way
            begin = ctypes.c_longlong(self._on_its_way)
            length = ctypes.c_longlong(stretch)
            _sync_file_range(self._descriptor, begin, length, _SYNC_FILE_RANGE_WRITE)
        self._on_its_way = self._size


@contextlib.contextmanager
def mapped(where: Path) -> Iterator[None]:
    """Turn an OSError into OutOfResources where it may pass, else into StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in _PASSING:
            text = f"{where}: cannot be written now: {error.strerror}; free room on this disk"
            raise OutOfResources(text) from error
        text = f"{where}: {error.strerror}; make it a folder this user may write"
        raise StoreError(text) from error


def fsync(path: Path) -> None:
    """Make a file durable, or the names in a folder, as rename alone does not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
