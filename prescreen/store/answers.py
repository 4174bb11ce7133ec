"""Answers as rows: an `ImageResult` goes into the database and comes back the same."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, select

from prescreen.errors import StoreError
from prescreen.store import schema as t
from prescreen.store.prepared import Prepared, add, inserting
from prescreen.study import (
    ANOTHER_PATIENT,
    Disposition,
    Finding,
    FindingState,
    Header,
    ImageResult,
    Instance,
    Network,
    Outcome,
)


class Answer(NamedTuple):
    """What a job says of one of its instances; a pair (instance, result) will do.

    `disposition` is given for an instance that arrived `again`, once it has been told apart; a
    duplicate needs no result. `pixel_sha256` is the digest of the decoded pixels.
    """

    instance: Instance
    result: ImageResult | None = None
    disposition: Disposition | None = None
    pixel_sha256: str | None = None


def as_json(result: ImageResult) -> str:
    """The whole answer as JSON; StoreError where a number in it is not finite."""
    try:
        return json.dumps(as_plain(result), default=plain, allow_nan=False)
    except ValueError as error:
        raise StoreError(f"a result cannot be stored: {error}") from error


def as_plain(result: ImageResult) -> dict[str, Any]:
    """The answer as what JSON knows, times and numbers of numpy excepted; nothing is copied."""
    findings = [vars(finding) for finding in result.findings]
    network = None if result.network is None else vars(result.network)
    told = {"header": vars(result.header), "findings": findings, "network": network}
    return {**vars(result), **told}


def from_json(text: str) -> ImageResult:
    """The answer that `as_json` wrote, also by a version with fewer or more attributes."""
    stored = json.loads(text)
    stored["header"] = _header(stored["header"])
    stored["outcome"] = Outcome(stored["outcome"])
    stored["findings"] = tuple(_finding(finding) for finding in stored["findings"])
    if stored.get("network") is not None:
        stored["network"] = Network(**_known(Network, stored["network"]))
    return ImageResult(**_known(ImageResult, stored))


def plain(value: Any) -> Any:
    """What JSON does not know, as what it does: an instant, a number of numpy."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return value.item()  # a number of numpy


def _header(stored: dict[str, Any]) -> Header:
    acquired = stored.get("acquired")
    if acquired is not None:
        stored["acquired"] = datetime.datetime.fromisoformat(acquired)
    return Header(**_known(Header, stored))


def _finding(stored: dict[str, Any]) -> Finding:
    stored["state"] = FindingState(stored["state"])
    return Finding(**_known(Finding, stored))


def _known(kind: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: _frozen(value) for name, value in stored.items() if name in names}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def write_result(
    connection: Connection,
    job_id: int,
    instance_id: int,
    result: ImageResult | None,
    otherwise: tuple[Outcome, str | None],
) -> None:
    """One row of `result` and its findings; `otherwise` is the answer where there is no result."""
    outcome, reason = (result.outcome, result.reason) if result is not None else otherwise
    row = {
        "job_id": job_id,
        "instance_id": instance_id,
        "outcome": outcome,
        "reason": reason,
        "cardiothoracic_ratio": None if result is None else _number(result.cardiothoracic_ratio),
        "numbers": None if result is None else as_json(result),
    }
    result_id = add(connection, t.result, row)
    if result is not None and result.findings:
        rows = [{"result_id": result_id, **_finding_row(finding)} for finding in result.findings]
        inserting(t.finding).add_all(connection, rows)


def _number(value: float | None) -> float | None:
    """A number as the database takes it: numpy's are none of Python's."""
    return None if value is None else float(value)


def _finding_row(finding: Finding) -> dict[str, Any]:
    return {
        "label": finding.label,
        "probability": _number(finding.probability),
        "probability_unmasked": _number(finding.probability_unmasked),
        "threshold": _number(finding.threshold),
        "state": finding.state,
        "reason": finding.reason,
    }


def earlier_results(
    connection: Connection, study_id: int, before_job_id: int
) -> tuple[ImageResult, ...]:
    """The newest answer per SOP instance of the study's earlier settled jobs, as carried over.

    What was said of a conflict's other pixels never hides what was said of the first ones. Of an
    image that carries another Patient ID than the study does now, only that is said.
    """
    rows = _EARLIER.all(connection, {"the_study": study_id, "the_job": before_job_id})
    newest = {row.sop_instance_uid: row for row in rows}
    return tuple(_carried_over(row.numbers, row.is_other) for row in newest.values())


def _carried_over(numbers: str, is_other: bool) -> ImageResult:
    result = from_json(numbers)
    if is_other:
        result = ImageResult(result.header, Outcome.NOT_SCREENED, ANOTHER_PATIENT)
    return dataclasses.replace(result, carried_over=True)


_NOW, _THEN = t.identity.alias("now"), t.identity.alias("then")
_IS_OTHER = and_(_THEN.c.patient_id != "", _NOW.c.patient_id != _THEN.c.patient_id)
_EARLIER = Prepared(
    select(t.instance.c.sop_instance_uid, t.result.c.numbers, _IS_OTHER.label("is_other"))
    .select_from(
        t.result.join(t.job)
        .join(t.instance, t.instance.c.instance_id == t.result.c.instance_id)
        .join(t.study, t.study.c.study_id == t.job.c.study_id)
        .join(_NOW, _NOW.c.identity_id == t.study.c.identity_id)
        .join(_THEN, _THEN.c.identity_id == t.instance.c.identity_id)
    )
    .where(t.job.c.study_id == bindparam("the_study"), t.job.c.job_id < bindparam("the_job"))
    .where(t.result.c.numbers.is_not(None), t.instance.c.rejected_at.is_(None))
    .where(t.instance.c.disposition.not_in([Disposition.CONFLICT, Disposition.DUPLICATE]))
    .order_by(t.result.c.job_id, t.result.c.result_id)
)
