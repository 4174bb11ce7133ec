"""What each C-STORE status of PS3.4 Annex B and PS3.7 Annex C means for what was sent."""

from __future__ import annotations

import datetime

import pytest

from prescreen.dicom.send import Verdict, judge
from prescreen.dicom.verdict import is_stored, meaning

START = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
SOON = START + datetime.timedelta(minutes=1)
LATE = START + datetime.timedelta(hours=24)

STORED = [0x0000, 0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007, 0xB123, 0xBFFF]
NO_ROOM = [0xA700, 0xA701, 0xA7FF, 0x0213]
PASSING = [0xA900, 0xA9FF, 0xC000, 0xC123, 0xCFFF, 0x0110]
FINAL = [0x0111, 0x0117, 0x0124, 0x0211, 0x0212]
UNKNOWN = [0x0210, 0x1234, 0xA800, 0xD000, 0xFE00, 0xFF00, 0xFFFF]


@pytest.mark.parametrize("status", STORED)
@pytest.mark.parametrize("now", [SOON, LATE])
def test_success_and_warnings_are_stored(status: int, now: datetime.datetime) -> None:
    assert judge(status, START, now) is Verdict.STORED
    assert is_stored(status)


@pytest.mark.parametrize("status", NO_ROOM)
@pytest.mark.parametrize("now", [SOON, LATE, LATE + datetime.timedelta(days=30)])
def test_no_room_is_tried_again_for_ever(status: int, now: datetime.datetime) -> None:
    assert judge(status, START, now) is Verdict.RETRY_SOON


@pytest.mark.parametrize("status", PASSING + UNKNOWN)
def test_what_often_passes_is_tried_for_a_day_then_a_person_looks(status: int) -> None:
    just_before = LATE - datetime.timedelta(seconds=1)
    assert judge(status, None, SOON) is Verdict.RETRY_SLOWLY
    assert judge(status, START, SOON) is Verdict.RETRY_SLOWLY
    assert judge(status, START, just_before) is Verdict.RETRY_SLOWLY
    assert judge(status, START, LATE) is Verdict.PARK


@pytest.mark.parametrize("now", [SOON, LATE])
def test_an_unsupported_class_falls_back(now: datetime.datetime) -> None:
    assert judge(0x0122, START, now) is Verdict.FALL_BACK


@pytest.mark.parametrize("status", FINAL)
def test_what_will_not_change_by_itself_is_parked_at_once(status: int) -> None:
    assert judge(status, START, SOON) is Verdict.PARK


def test_only_what_a_peer_called_stored_is_stored() -> None:
    stored = [status for status in range(0x10000) if judge(status, None, START) is Verdict.STORED]
    assert stored == [0x0000, 0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)]


def test_failures_have_words() -> None:
    assert meaning(0xA7AB) == "out of resources"
    assert meaning(0xC211) == "cannot understand"
    assert meaning(0x0122) == "SOP class not supported"
    assert meaning(0x1234) == "not a status of the standard"
