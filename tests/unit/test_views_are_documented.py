"""docs/database.md names every view and every column of it, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prescreen.store.database import reading
from prescreen.store.schema import open_database

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "database.md"
VIEWS = ("v_study", "v_instance", "v_finding", "v_delivery", "v_event")


def _documented(view: str) -> list[str]:
    _, _, after = DOCUMENT.read_text(encoding="utf-8").partition(f"## {view} ")
    section = after.partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, flags=re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


@pytest.mark.parametrize("view", VIEWS)
def test_columns_are_documented(view: str, tmp_path: Path) -> None:
    engine = open_database(tmp_path / "prescreen.db")
    with reading(engine) as connection:
        columns = connection.exec_driver_sql(f"SELECT * FROM {view}").keys()
        assert sorted(_documented(view)) == sorted(columns)
    engine.dispose()
