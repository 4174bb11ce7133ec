"""Files that only grow, an object of JSON a line: checkpoints, and where backups were made.

Where the disk was full, or the power went, while a line was written, it ends too early. What comes
after it begins a line of its own, and who reads the file passes over what was cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def append(path: Path, told: Mapping[str, Any]) -> None:
    """Append an object, durable on return. Raises OSError."""
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        begin = b"" if file.read(1) in (b"", b"\n") else b"\n"
        file.write(begin + json.dumps(told).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def whole(text: str) -> Iterator[tuple[int, str]]:
    """The lines that were written to their end, each with its number."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.endswith("}") or (line and not line.startswith("{")):
            yield number, line
