"""One process per role on a data directory: the kernel's lock counts, not the file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from prescreen.errors import StoreError


def running(data_dir: Path, roles: Iterable[str]) -> list[str]:
    """Those of the roles that a process holds on a data directory now; nothing is changed.

    A lock file by itself says nothing: it stays when its process ends.
    """
    return [role for role in roles if _is_held(Path(data_dir) / f"{role}.lock")]


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


class Guard:
    """Holds a role ("receiver", "screener", …) on a data directory until it is closed.

    Raises StoreError where another process holds it. The lock ends with the process, however
    that ends; the file `<role>.lock` stays and means nothing.
    """

    def __init__(self, data_dir: Path, role: str) -> None:
        if not role.isidentifier():
            raise ValueError(f"{role!r} is no role")
        path = Path(data_dir) / f"{role}.lock"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; make its folder writable") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            text = f"{data_dir}: another {role} is running on it; stop that one first"
            raise StoreError(text) from error

    def close(self) -> None:
        """Give the role up; closing again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
