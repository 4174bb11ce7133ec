"""`python -m tests.e2e.dying ROLE POINT CONFIG`: a role whose process exits at a named point."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from prescreen import logs, node
from prescreen.settings import load

#: The exit status that says: died where it should.
DIED = 77


def main(role: str, point: str, config: str) -> None:
    def crash(reached: str) -> None:
        if reached == point:
            os._exit(DIED)

    settings = load(Path(config))
    logs.configure(settings.log)
    node.RUN[role](settings, threading.Event(), crash)


if __name__ == "__main__":
    main(*sys.argv[1:])
