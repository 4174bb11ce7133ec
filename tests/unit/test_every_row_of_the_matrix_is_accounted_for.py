"""docs/reliability.md: every row of the fault matrix is a test named after it, or says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROWS = {
    *(f"F{number}" for number in range(1, 14)),
    *(f"P{number}" for number in range(1, 9)),
    *(f"W{number}" for number in range(1, 13)),
    *(f"D{number}" for number in range(1, 17)),
    *(f"L{number}" for number in range(1, 9)),
}


def _named() -> dict[str, set[str]]:
    """Row -> names of the files with tests named after it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for row in re.findall(r"^def test_([fpwdl]\d+)_", path.read_text(), re.M):
            found.setdefault(row.upper(), set()).add(path.name)
    return found


def _listed(heading: str) -> dict[str, str]:
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ")[0]
    return dict(re.findall(r"^\| ([FPWDL]\d+) \| (.*) \|$", section, re.M))


def test_every_row_is_a_test_or_says_why_it_is_none() -> None:
    tested, untested = set(_named()), _listed("Rows without a test of their name")
    assert tested | set(untested) >= ROWS
    assert all(len(reason) > 20 for reason in untested.values())


@pytest.mark.parametrize(
    ("heading", "letter"), [("The house", "F"), ("The PACS", "P"), ("The wire", "W"), ("Load", "L")]
)
def test_the_rows_of_a_section_name_their_tests(heading: str, letter: str) -> None:
    listed = _listed(heading)
    named = {row: files for row, files in _named().items() if row.startswith(letter)}
    assert set(listed) == set(named) - {"W12"}  # which stands with the data sets
    files = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    for row, cells in listed.items():
        told = set(re.findall(r"`(test_\w+)`", cells))
        assert told <= files, row
        assert not told or {f"{name}.py" for name in told} & named[row] or "The same" in cells, row
