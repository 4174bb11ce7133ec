"""Who may associate, and how often a refusal is told."""

from __future__ import annotations

import pytest

from prescreen.dicom.admission import refusal_rule
from prescreen.dicom.entity import is_uid, printable
from prescreen.dicom.throttle import Count, Throttle
from prescreen.settings import Peer, Receive

RECEIVE = Receive(
    ae_title="NODE",
    peers=(
        Peer(ae_title="CR1", networks=("10.1.0.0/16",)),
        Peer(ae_title="CR1", networks=("192.168.7.9/32",)),
        Peer(ae_title="PACS", networks=("fd00::/8", "10.2.0.0/16")),
    ),
)


@pytest.mark.parametrize(
    ("called", "calling", "address", "rule"),
    [
        ("NODE", "CR1", "10.1.2.3", None),
        ("NODE", "CR1", "192.168.7.9", None),
        ("NODE ", " CR1", "10.1.2.3", None),  # padding is not significant (PS3.5 6.2)
        ("NODE", "PACS", "fd00::7", None),
        ("NODE", "PACS", "::ffff:10.2.0.1", None),  # IPv4 seen by a listener on ::
        ("node", "CR1", "10.1.2.3", "called_ae_title"),
        ("OTHER", "NOBODY", "8.8.8.8", "called_ae_title"),
        ("NODE", "cr1", "10.1.2.3", "calling_ae_title"),
        ("NODE", "", "10.1.2.3", "calling_ae_title"),
        ("NODE", "CR1", "10.2.0.1", "network"),
        ("NODE", "PACS", "10.1.2.3", "network"),
        ("NODE", "CR1", "::1", "network"),
    ],
)
def test_title_and_network_must_agree(
    called: str, calling: str, address: str, rule: str | None
) -> None:
    assert refusal_rule(RECEIVE, called, calling, address) == rule


def test_fresh_settings_know_nobody() -> None:
    assert refusal_rule(Receive(), "PRESCREEN", "CR1", "127.0.0.1") == "calling_ae_title"


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2", "1", "0.0", "1.02.3", "1." + "2" * 62])
def test_digits_and_dots_are_a_uid(uid: str) -> None:
    assert is_uid(uid)


@pytest.mark.parametrize(
    "uid",
    ["", ".", "1.", ".1", "1..2", "1.2 ", "1.2\n", "1.2\0", "1.a", "../1", "١.٢", "1." + "2" * 63],
)
def test_anything_else_is_no_uid(uid: str) -> None:
    assert not is_uid(uid)


def test_a_title_in_the_log_is_printable_and_short() -> None:
    assert printable(" CR1 ") == "CR1"
    assert printable("A\nB\x1b[2J\\é") == "A?B?[2J??"
    assert printable("X" * 400) == "X" * 16


def test_one_of_a_kind_a_minute_is_told_and_the_rest_counted() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    assert throttle.admit(("a",)) == 0
    assert [throttle.admit(("a",)) for _ in range(5)] == [None] * 5
    assert throttle.admit(("b",)) == 0
    now[0] = 60.0
    assert throttle.admit(("a",)) == 5
    assert throttle.admit(("a",)) is None


def test_a_flood_of_new_kinds_is_one_kind() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0], kinds=3)
    passed = [throttle.admit((str(number),)) for number in range(100)]
    assert [left_out for left_out in passed if left_out is not None] == [0, 0, 0, 0]
    now[0] = 61.0
    assert throttle.admit(("later",)) == 0


def test_the_last_one_out_is_waited_for() -> None:
    count = Count()
    assert count.wait_for_zero(0)
    with count.one():
        assert not count.wait_for_zero(0.01)
    assert count.wait_for_zero(0)
