"""Figures of long runs: printed, and written to the folder that SOAK_FIGURES names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def told(name: str, figures: Mapping[str, Any]) -> None:
    """Say them, and keep them as `name`.json; what is in "series" is kept alone."""
    print(name, json.dumps({key: figures[key] for key in figures if key != "series"}, indent=1))
    if folder := os.environ.get("SOAK_FIGURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(figures, indent=1) + "\n"
        (Path(folder) / f"{name}.json").write_text(text, encoding="ascii")
