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
#: Bytes for which the disk makes room at once, of an object that has come so far: finding it block
#: by block takes a third of the time of writing.
_AHEAD, _LARGE = 4 << 20, 1 << 20
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
_libc = ctypes.CDLL(None)
_sync_file_range = getattr(_libc, "sync_file_range", None)
_fallocate = getattr(_libc, "fallocate", None)


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
        self._size = self._on_its_way = self._room = 0
        with mapped(folder):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o640)

    def write(self, content: bytes | memoryview) -> None:
        """Append to the file, and to what is digested."""
        self._digest.update(content)
        self._size += len(content)
        if self._size > max(self._room, _LARGE):
            make_room(self._descriptor, self._room, self._size + _AHEAD - self._room)
            self._room = self._size + _AHEAD
        with mapped(self._folder):
            _write_all(self._descriptor, content)
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
                if self._room:
                    os.ftruncate(self._descriptor, self._size)  # what room was left over
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


def write_file(path: Path, content: bytes) -> None:
    """Write a new file whose size is known; OSError. It is not durable yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        if len(content) > _LARGE:
            make_room(descriptor, 0, len(content))
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def make_room(descriptor: int, begin: int, length: int) -> None:
    """Let the disk find room for what is going to be written; where it cannot, writing tells."""
    if _fallocate is not None:
        first, count = ctypes.c_longlong(begin), ctypes.c_longlong(length)
        _fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, first, count)


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
