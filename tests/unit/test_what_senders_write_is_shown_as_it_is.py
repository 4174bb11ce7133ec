"""What a sender or the name of a file brings stays words on the screen: no markup, no control."""

from __future__ import annotations

from pathlib import Path

import pytest

from prescreen import files, tables
from prescreen.settings import Settings
from prescreen.store.recalls import Affected
from prescreen.study import Header, ImageResult, Outcome

HOSTILE = "[/red]A1\x1b]0;owned\x07\x1b[2J"


def test_a_table_shows_brackets_and_obeys_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    one = Affected(1, "1.2.3", HOSTILE, "[bold]B2", "20260101", (1,), {})
    tables.show_recall([one], Settings(), as_json=False)
    said = capsys.readouterr().out
    assert "[/red]A1?]0;owned??[2J" in said
    assert "[bold]B2" in said
    assert "\x1b" not in said


def test_a_file_has_one_line_whatever_it_is_called() -> None:
    result = ImageResult(Header("", "", "", ""), Outcome.NOT_SCREENED, "unreadable")
    said = files._sentence(Path("two\nlines\x1b[2J"), result)
    assert said == "two?lines?[2J: not screened (unreadable)"


def test_a_name_too_long_for_any_file_is_unreadable_like_others() -> None:
    (found,) = files.found([Path("x" * 5000)])
    assert found.header is None
