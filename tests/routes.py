"""A peer that takes what it is sent, or raises, and the way to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prescreen.pipeline import Route
from tests.store_bench import PACS, StoreBench


class Peer:
    """Takes all it is sent, but for what is broken: an error by the name of the file."""

    def __init__(self, broken: dict[str, Exception] | None = None) -> None:
        self.broken, self.sent = broken or {}, list[str]()
        self.before_each: Any = lambda: None

    def send(self, part10: Path | bytes) -> int:
        assert isinstance(part10, Path)
        if part10.name in self.broken:
            raise self.broken[part10.name]
        self.sent.append(part10.name)
        self.before_each()
        return 0x0000


def route(bench: StoreBench, peer: Peer, **more: Any) -> Route:
    return Route(PACS, bench.outbox, peer, lambda: bench.now, **more)  # type: ignore[arg-type]
