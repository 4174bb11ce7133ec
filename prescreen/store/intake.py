"""A file of the spool while it comes in: written and digested piece by piece, then whole at once.

::

    received/<2 hex>/.<name>.tmp    being written; a killed process leaves it to the sweep
    received/<2 hex>/<name>.dcm     whole and durable
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
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
