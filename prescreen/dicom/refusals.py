"""What is said of those who are kept out: in the log and the audit, once a minute for each kind."""

from __future__ import annotations

import contextlib
import logging
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prescreen.dicom.throttle import Throttle
from prescreen.errors import trace_of

Audit = Callable[[str, dict[str, Any]], None]

logger = logging.getLogger(__name__)

#: So many pairs of AE titles are told apart at one address, of one rule, in a minute.
_TITLES = 8


class Refusals:
    """Tells of refused associations and instances; `audit` is given the kind and its detail.

    Whether that works or not, the peer gets its answer. Of associations the audit is told by a
    thread of its own: a database that is locked for a while shall not keep the door shut.
    """

    def __init__(self, audit: Audit, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._throttle = Throttle(clock)
        self._teller = ThreadPoolExecutor(max_workers=1, thread_name_prefix="refusals")

    def close(self) -> None:
        """Return when all is told; associations are not told of any more."""
        self._teller.shutdown()

    def stranger(self, address: str, rule: str) -> None:
        """Tell of who broke a rule before, or beside, asking for an association."""
        self.association("", "", address, rule)

    def association(self, calling: str, called: str, address: str, rule: str) -> None:
        """Tell of an association that was refused or ended; the AE titles printable.

        Once a minute for each address, rule and titles, of which eight are told apart.
        """
        detail = {
            "calling_ae_title": calling,
            "called_ae_title": called,
            "address": address,
            "rule": rule,
        }
        # who makes up titles shall not fill log and audit with them: a few at a time of an address
        titles = zlib.crc32(f"{calling}\0{called}".encode()) % _TITLES
        left_out = self._throttle.admit((address, rule, str(titles)))
        if left_out is None:
            return
        logger.warning(
            "association refused: %s called %s from %s (rule %s; %d more like it since)",
            *detail.values(),
            left_out,
        )
        with contextlib.suppress(RuntimeError):  # closed: the node is on its way out
            self._teller.submit(self._note, "association.refused", {**detail, "left_out": left_out})

    def instance(self, calling: str, status: int, why: str) -> None:
        """Tell of an instance that was not kept; `why` quotes nothing of it."""
        left_out = self._throttle.admit((calling, str(status)), every=1.0)
        if left_out is None:
            return
        logger.error(
            "instance from %s refused with 0x%04X (%d more like it since): %s",
            calling,
            status,
            left_out,
            why,
        )
        detail = {"calling_ae_title": calling, "status": f"0x{status:04X}", "left_out": left_out}
        self._note("instance.refused", detail)

    def _note(self, kind: str, detail: dict[str, Any]) -> None:
        try:
            self._audit(kind, detail)
        except Exception as error:
            logger.error("%s could not be audited: %s", kind, trace_of(error))
