"""What the node's settings leave out, and which images belong to one exposure."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import pytest

from prescreen import gate
from prescreen.gate import Reason
from prescreen.settings import Scope
from prescreen.study import Header
from tests.chests import HEADER

NOW = datetime.datetime(2026, 3, 4, 12, tzinfo=datetime.UTC)
ADULT = replace(HEADER, patient_age=50.0)


def scope(header: Header, now: datetime.datetime = NOW, **values: Any) -> Reason | None:
    return gate.scope(header, Scope(**values), "ANYBODY", now)


def test_without_a_list_every_sender_is_in_scope() -> None:
    assert scope(ADULT) is None


def test_an_unknown_age_is_as_the_settings_say() -> None:
    assert scope(HEADER) is Reason.AGE_UNKNOWN
    assert scope(HEADER, unknown_age="screen") is None


def test_the_limits_themselves_are_in_scope() -> None:
    at_the_limit = NOW - datetime.timedelta(hours=48)
    assert scope(replace(HEADER, patient_age=18.0, acquired=at_the_limit)) is None


def test_an_unknown_or_impossible_time_leaves_nothing_out() -> None:
    assert scope(replace(ADULT, acquired=None)) is None
    assert scope(replace(ADULT, acquired=datetime.datetime(1, 1, 1))) is None


def test_a_clock_that_runs_ahead_leaves_nothing_out() -> None:
    assert scope(replace(ADULT, acquired=NOW + datetime.timedelta(hours=1))) is None


def test_a_time_without_zone_is_the_time_here() -> None:
    here = NOW.astimezone().replace(tzinfo=None)
    assert scope(replace(ADULT, acquired=here - datetime.timedelta(hours=47))) is None
    assert scope(replace(ADULT, acquired=here - datetime.timedelta(hours=49))) is Reason.PRIOR


def test_a_date_without_time_of_day_may_mean_its_last_minute() -> None:
    midnight = NOW.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    two_days, three_days = (midnight - datetime.timedelta(days=days) for days in (2, 3))
    assert scope(replace(ADULT, acquired=two_days.replace(tzinfo=None))) is None
    assert scope(replace(ADULT, acquired=three_days.replace(tzinfo=None))) is Reason.PRIOR


def test_a_time_with_another_zone_is_compared_as_time() -> None:
    tokyo = datetime.timezone(datetime.timedelta(hours=9))
    acquired = (NOW - datetime.timedelta(hours=47)).astimezone(tokyo)
    assert scope(replace(ADULT, acquired=acquired)) is None


def image(uid: str, kind: str, second: int = 5, **values: Any) -> Header:
    acquired = datetime.datetime(2026, 3, 4, 10, 30, second)
    return replace(
        HEADER,
        **{"sop_instance_uid": uid, "image_type": (kind,), "acquired": acquired, **values},
    )


def test_a_derived_image_of_the_same_exposure_is_a_companion() -> None:
    headers = [image("2.25.8", "DERIVED"), image("2.25.9", "ORIGINAL")]
    assert gate.companions(headers) == {"2.25.8"}


@pytest.mark.parametrize(
    "other",
    [
        image("2.25.8", "ORIGINAL"),
        image("2.25.8", "DERIVED", second=6),
        image("2.25.8", "DERIVED", view_position="AP"),
        image("2.25.8", "DERIVED", study_instance_uid="2.25.77"),
        image("2.25.8", "DERIVED", acquired=None),
        image("2.25.8", "DERIVED", acquired_itself=False),
    ],
    ids=["original too", "later", "other view", "other study", "unknown time", "study's time"],
)
def test_an_exposure_of_its_own_is_never_skipped(other: Header) -> None:
    assert gate.companions([image("2.25.9", "ORIGINAL"), other]) == set()


def test_a_date_without_time_of_day_tells_no_exposure() -> None:
    midnight = datetime.datetime(2026, 3, 4)
    headers = [image("2.25.9", "ORIGINAL", acquired=midnight)]
    headers.append(image("2.25.8", "DERIVED", acquired=midnight))
    assert gate.companions(headers) == set()


def test_derived_images_alone_are_all_screened() -> None:
    assert gate.companions([image("2.25.8", "DERIVED"), image("2.25.9", "DERIVED")]) == set()
