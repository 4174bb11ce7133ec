"""A disk that forgets: what a loss of power leaves of a data directory, at every fsync.

While `Recorder` watches, every fsync of ours is a place where the power may go. What survives is
taken three ways, each of which some file system allows (as in ALICE and CrashMonkey):

- `synced`: only what was fsynced; a name only if its folder was.
- `names`: all names, but a file that was not fsynced since it was written is empty.
- `all`: everything written so far, as when only the process dies.

The database is SQLite's own: with synchronous=FULL what was committed survives, and of what is
being committed any part may; so its state is that of the last commit, with half of what its log
has had since (`names`) or all of it (`all`). That SQLite syncs as it says is taken from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

DATABASE = "prescreen.db"
WAYS = ("synced", "names", "all")

Files = dict[str, bytes]


@dataclass(frozen=True)
class Cut:
    """One place where the power may go: the files that are left each way, and what was said."""

    left: dict[str, Files]
    acknowledged: frozenset[str]  # SOP Instance UIDs a sender was told 0x0000 for
    delivered: dict[str, bytes]  # what the PACS has: SOP Instance UID -> Part 10


class Recorder:
    """Watches one data directory of this process; `cuts` are the places in their order."""

    def __init__(
        self, data_dir: Path, said: Callable[[], tuple[set[str], dict[str, bytes]]]
    ) -> None:
        self._root = data_dir
        self._said = said
        self._content: dict[int, bytes] = {}  # inode -> what was fsynced
        self._names: dict[int, dict[str, int]] = {}  # inode of a folder -> name -> inode
        self._database: Files = {}
        self._read: dict[tuple[int, int, int], bytes] = {}  # so that cuts share what is the same
        self.cuts: list[Cut] = []
        for folder, _, files in os.walk(data_dir):
            self._sync_folder(Path(folder))
            for name in files:
                self._sync_file(Path(folder, name))
        self.committed("")

    @contextmanager
    def watching(self) -> Iterator[Recorder]:
        """Take note of every fsync of this process that concerns the data directory."""
        real = os.fsync

        def fsync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if self._root in (path, *path.parents):
                self._cut()
                (self._sync_folder if path.is_dir() else self._sync_file)(path)
            real(descriptor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            yield self
        self._cut()

    def committed(self, point: str) -> None:
        """A crash point: those after a commit say that the database is durable as it is."""
        if point in ("", "keep.committed", "screen.claimed", "screen.settled", "deliver.settled"):
            self._database = self._database_now()

    def _database_now(self) -> Files:
        names = (DATABASE, f"{DATABASE}-wal")
        return {name: (self._root / name).read_bytes() for name in names}

    def _sync_file(self, path: Path) -> None:
        if not path.name.startswith(DATABASE):
            self._content[path.stat().st_ino] = self._bytes(path)

    def _bytes(self, path: Path) -> bytes:
        stat = path.stat()
        key = stat.st_ino, stat.st_mtime_ns, stat.st_size
        if key not in self._read:
            self._read[key] = path.read_bytes()
        return self._read[key]

    def _sync_folder(self, path: Path) -> None:
        entries = {entry.name: entry.inode() for entry in os.scandir(path)}
        self._names[path.stat().st_ino] = entries

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _cut(self) -> None:
        acknowledged, delivered = self._said()
        root = self._root.stat().st_ino
        left: dict[str, Files] = {"synced": self._synced(root, ""), "names": {}, "all": {}}
        for folder, _, files in os.walk(self._root):
            for name in files:
                path = Path(folder, name)
                if not name.startswith(DATABASE):
                    relative = self._relative(path)
                    left["all"][relative] = self._bytes(path)
                    left["names"][relative] = self._content.get(path.stat().st_ino, b"")
        now, before = self._database_now(), self._database
        log = f"{DATABASE}-wal"
        left["synced"] |= before
        left["all"] |= now
        grown = now[log].startswith(before[log])
        half = (len(before[log]) + len(now[log])) // 2
        left["names"] |= {**before, log: now[log][:half]} if grown else before
        self.cuts.append(Cut(left, frozenset(acknowledged), dict(delivered)))

    def _synced(self, folder: int, prefix: str) -> Files:
        found: Files = {}
        for name, inode in self._names.get(folder, {}).items():
            if inode in self._names:
                found |= self._synced(inode, f"{prefix}{name}/")
            elif inode in self._content and not name.startswith(DATABASE):
                found[f"{prefix}{name}"] = self._content[inode]
        return found


def replay(files: Files, folder: Path) -> Path:
    """The data directory as a cut left it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
