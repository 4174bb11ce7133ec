"""Small disks: a tmpfs of its own where this user may mount one, and a limit on file sizes.

The limit (RLIMIT_FSIZE) works everywhere, in a container without rights too: the kernel refuses to
let a file grow past it, in the middle of a write, as a full disk does.
"""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Tmpfs:
    """A file system of 192 MB, filled up to what is to be left."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"
        self._folder = folder

    def leave(self, room: int) -> None:
        """Leave so many bytes free, all in all."""
        self.free()
        take = shutil.disk_usage(self._folder).free - room
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(take, 1))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


class FileSizes:
    """No file of this process may grow past what is to be left."""

    def leave(self, room: int) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))

    def free(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def _mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@functools.cache
def kinds() -> list[str]:
    """What can be had here."""
    folder = Path(tempfile.mkdtemp())
    can_mount = _mount(folder)
    if can_mount:
        subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()
    return ["file sizes", "tmpfs"] if can_mount else ["file sizes"]


@contextmanager
def small_disk(kind: str, folder: Path) -> Iterator[Tmpfs | FileSizes]:
    """A small disk under `folder`."""
    if kind == "tmpfs":
        assert _mount(folder), "mounting was possible a moment ago"
    disk = Tmpfs(folder) if kind == "tmpfs" else FileSizes()
    try:
        yield disk
    finally:
        disk.free()
        if kind == "tmpfs":
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
