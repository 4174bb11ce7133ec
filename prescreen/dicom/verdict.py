"""What a C-STORE status of a destination means for the object that was sent. A pure function."""

from __future__ import annotations

import datetime
import enum

#: How long a failure that is often passing is tried again before a person is asked.
SLOW_RETRIES_END = datetime.timedelta(hours=24)


class Verdict(enum.StrEnum):
    """What becomes of an object after its destination has answered."""

    STORED = "stored"
    RETRY_SOON = "retry_soon"
    RETRY_SLOWLY = "retry_slowly"
    FALL_BACK = "fall_back"
    PARK = "park"


_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
_MEANINGS = {
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0117: "invalid SOP instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
}
_FAMILIES = {0xA7: "out of resources", 0xA9: "data set does not match SOP class"}


def is_stored(status: int) -> bool:
    """Success or warning: the peer has the object (PS3.4 B.2.3, PS3.7 Annex C).

    Warnings: 0xB000 coercion of data elements, 0xB006 elements discarded, 0xB007 data set does not
    match SOP class, and what PS3.7 types as a warning (0xBxxx, 0x0001, 0x0107, 0x0116).
    """
    return status == 0x0000 or status >> 12 == 0xB or status in _WARNINGS


def meaning(status: int) -> str:
    """A failure status in words (PS3.4 Table B.2-1, PS3.7 C.5)."""
    if status >> 12 == 0xC:
        return "cannot understand"
    return _MEANINGS.get(status) or _FAMILIES.get(status >> 8, "not a status of the standard")


def judge(
    status: int, first_attempt_at: datetime.datetime | None, now: datetime.datetime
) -> Verdict:
    """What to do with an object whose destination answered `status`.

    0x0000, 0xBxxx            stored
    0xA7xx, 0x0213            no room at the moment: retried with growing delay, for ever
    0xA9xx, 0xCxxx, 0x0110    often passing with a PACS: retried slowly, after 24 hours parked
    0x0122                    the fallback class, or parked where there is none
    0x0117, 0x0124, 0x0111,
    0x0211, 0x0212            will not change by themselves: parked, a person looks
    any other                 as 0xCxxx

    0x0111 is parked although the peer may have the object from a send whose answer was lost:
    nothing is called stored that no peer has called stored.
    """
    if is_stored(status):
        return Verdict.STORED
    if status >> 8 == 0xA7 or status == 0x0213:
        return Verdict.RETRY_SOON
    if status == 0x0122:
        return Verdict.FALL_BACK
    if status in (0x0111, 0x0117, 0x0124, 0x0211, 0x0212):
        return Verdict.PARK
    waited = now - (first_attempt_at or now)
    return Verdict.RETRY_SLOWLY if waited < SLOW_RETRIES_END else Verdict.PARK
