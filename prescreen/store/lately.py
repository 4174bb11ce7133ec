"""What was written or read lately, and may lie in the kernel's memory still.

What surely does is not digested again before it is read; what nobody needs any more makes way.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import threading
import time
from pathlib import Path

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
