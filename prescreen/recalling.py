"""What `prescreen recall` is asked for, read from the command line."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from prescreen.errors import SettingsError

_DIGEST = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Asked:
    """The beginning of a digest (hex), and an aware instant."""

    sha256: str
    since: datetime.datetime


def asked(weights: str, since: str) -> Asked:
    """SettingsError where one of the two cannot be understood.

    A date is its midnight, a time without zone the time on the wall of this house.
    """
    digest = weights.strip().lower().removeprefix("sha256:")
    if not _DIGEST.fullmatch(digest):
        raise SettingsError(
            f"--weights {weights!r}: give 8 to 64 hexadecimal digits of the sha256 of the weights"
        )
    try:
        # in UTC there is no year 0, nor 10000
        instant = datetime.datetime.fromisoformat(since.strip()).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        raise SettingsError(
            f"--since {since!r}: is a date or an instant, as 2026-01-31 or 2026-01-31T08:00+01:00"
        ) from None
    return Asked(digest, instant)
