"""OpenMP's threads do not spin in the screener, unless whoever runs it wants them to."""

from __future__ import annotations

from prescreen import node


def test_threads_that_wait_are_told_to_sleep() -> None:
    environment: dict[str, str] = {}
    node.let_waiting_threads_sleep(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_what_the_administrator_has_set_stays() -> None:
    environment = {"OMP_WAIT_POLICY": "ACTIVE"}
    node.let_waiting_threads_sleep(environment)
    assert environment == {"OMP_WAIT_POLICY": "ACTIVE"}
