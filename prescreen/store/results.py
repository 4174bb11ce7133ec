"""The manifest of a results folder: what settling a job needs, beside the objects themselves.

Written into the draft before it becomes the results by one rename, so that a process that dies
between the rename and the settlement finds everything it had said, and the database can be
rebuilt from the spool.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prescreen.errors import StoreError
from prescreen.store.answers import Answer, as_plain, from_json, plain
from prescreen.study import Audience, Disposition, Job, Outcome, ResultObject

NAME = "manifest.json"
_VERSION = 1


@dataclass(frozen=True)
class Results:
    """Everything a settled job says: outcome, an answer per instance, the objects written."""

    outcome: Outcome
    reason: str | None
    answers: tuple[Answer, ...]
    objects: tuple[ResultObject, ...]


def write_manifest(folder: Path, job: Job, results: Results, destinations: Sequence[str]) -> None:
    """Write the manifest into a draft folder; publishing the folder makes it durable."""
    content = {
        "version": _VERSION,
        "job_id": job.job_id,
        "study_instance_uid": job.study_instance_uid,
        "predecessor_job_id": job.predecessor_job_id,
        "destinations": list(destinations),
        "outcome": results.outcome,
        "reason": results.reason,
        "objects": [vars(item) for item in results.objects],
        "answers": [_stored(answer) for answer in results.answers],
    }
    text = json.dumps(content, default=plain, allow_nan=False)
    (folder / NAME).write_text(text, encoding="utf-8")


def _stored(answer: Answer) -> dict[str, Any]:
    return {
        "instance_id": answer.instance.instance_id,
        "sop_instance_uid": answer.instance.sop_instance_uid,
        "disposition": answer.disposition,
        "pixel_sha256": answer.pixel_sha256,
        "result": None if answer.result is None else as_plain(answer.result),
    }


def read_manifest(folder: Path, job: Job) -> Results:
    """What an earlier attempt at `job` wrote. StoreError where it is not the manifest of that."""
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        instances = {instance.instance_id: instance for instance in job.instances}
        if not _is_of(content, job):
            raise StoreError(f"{path}: belongs to another job of that number")
        return Results(
            outcome=Outcome(content["outcome"]),
            reason=content["reason"],
            answers=tuple(_answer(stored, instances) for stored in content["answers"]),
            objects=tuple(_object(stored) for stored in content["objects"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: cannot be read ({type(error).__name__})") from error


def _is_of(content: dict[str, Any], job: Job) -> bool:
    """Whether study and instances are the job's: numbers repeat after an older copy came back."""
    kept = {(i.instance_id, i.sop_instance_uid) for i in job.instances}
    told = {(a["instance_id"], a["sop_instance_uid"]) for a in content["answers"]}
    return bool(content["study_instance_uid"] == job.study_instance_uid and told == kept)


def _answer(stored: dict[str, Any], instances: dict[int, Any]) -> Answer:
    disposition, result = stored["disposition"], stored["result"]
    return Answer(
        instance=instances[stored["instance_id"]],
        result=None if result is None else from_json(json.dumps(result)),
        disposition=None if disposition is None else Disposition(disposition),
        pixel_sha256=stored["pixel_sha256"],
    )


def _object(stored: dict[str, Any]) -> ResultObject:
    return ResultObject(**{**stored, "audience": Audience(stored["audience"])})
