"""What lies under a path that a user gave: every file of it, and all that cannot be taken."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NO_REGULAR_FILE = "is no regular file"
NOWHERE = "leads nowhere"
NOT_FOUND = "was not found"
ALREADY = "is a folder that was looked through already"


@dataclass(frozen=True)
class Found:
    """A regular file that can be opened; or, where `why_not` says why, what cannot be taken."""

    path: Path
    why_not: str | None = None


def walked(path: Path) -> Iterator[Found]:
    """A file: itself. A folder: what lies in it and below, folders walked in order of name.

    Links are followed, but no folder is walked twice, so that loops end. Nothing is passed over in
    silence and nothing is raised: a folder that cannot be listed, a broken link, a pipe or a
    device (which would block whoever opens it) come with the reason why they cannot be taken.
    """
    walked_through: set[tuple[int, int]] = set()
    waiting = [path]
    while waiting:
        here = waiting.pop()
        try:
            status = os.stat(here)  # noqa: PTH116 - beside os.listdir and os.open
            if not stat.S_ISDIR(status.st_mode):
                yield Found(here, _why_no_file(here, status.st_mode))
                continue
            folder = (status.st_dev, status.st_ino)
            if folder in walked_through:
                yield Found(here, ALREADY)
                continue
            names = os.listdir(here)  # noqa: PTH208 - names are what is sorted
        except OSError as error:
            yield Found(here, _in_words(here, error))
            continue
        walked_through.add(folder)
        waiting += [here / name for name in sorted(names, reverse=True)]


def _why_no_file(path: Path, mode: int) -> str | None:
    """None where it is a regular file that can be opened. OSError where it cannot."""
    if not stat.S_ISREG(mode):
        return NO_REGULAR_FILE
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    return None


def _in_words(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return NOWHERE if os.path.islink(path) else NOT_FOUND  # noqa: PTH114 - never raises
    return f"cannot be read: {error.strerror}"
