"""The manifest of a results folder: what settling a job needs, beside the objects themselves.

Written into the draft before it becomes the results by one rename, so that a process that dies
between the rename and the settlement finds everything it had said, and the database can be
rebuilt from the spool.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prescreen.errors import StoreError
from prescreen.store.answers import Answer, as_plain, from_json, plain
from prescreen.store.intake import mapped
from prescreen.store.lately import is_untouched
from prescreen.study import Audience, Disposition, ImageResult, Job, Outcome, ResultObject

NAME = "manifest.json"
_VERSION = 1


@dataclass(frozen=True)
class Results:
    """Everything a settled job says: outcome, an answer per instance, the objects written."""

    outcome: Outcome
    reason: str | None
    answers: tuple[Answer, ...]
    objects: tuple[ResultObject, ...]


def write_manifest(
    folder: Path,
    job: Job,
    results: Results,
    destinations: Sequence[str],
    digests: Mapping[str, str] | None = None,
) -> None:
    """Write the manifest into a draft folder; publishing the folder makes it durable.

    `digests` are the SHA-256 (hex) of files by name, as far as who wrote them took them; the others
    are read. Raises OutOfResources where there is no room.
    """
    known = digests or {}
    names = [item.file_name for item in results.objects]
    content = {
        "version": _VERSION,
        "job_id": job.job_id,
        "study_instance_uid": job.study_instance_uid,
        "predecessor_job_id": job.predecessor_job_id,
        "priority": int(job.priority),
        "destinations": list(destinations),
        "live_destinations": sorted(job.live_destinations),
        "held_findings": sorted(job.held_findings),
        "outcome": results.outcome,
        "reason": results.reason,
        "objects": [vars(item) for item in results.objects],
        "answers": [_stored(answer) for answer in results.answers],
        "sha256": {name: known.get(name) or _sha256(folder / name) for name in names},
    }
    text = json.dumps(content, default=plain, allow_nan=False)
    with mapped(folder):
        (folder / NAME).write_text(text, encoding="utf-8")


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _stored(answer: Answer) -> dict[str, Any]:
    return {
        "instance_id": answer.instance.instance_id,
        "sop_instance_uid": answer.instance.sop_instance_uid,
        "sha256": answer.instance.sha256,
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


def require_intact(path: Path, written_by: datetime.datetime | None = None) -> None:
    """Raise StoreError unless an object of a results folder is what its manifest says.

    A folder without a manifest, or of a version that wrote no digests, says nothing. What was
    written before `written_by`, moments ago, and not touched since is not read again.
    """
    with contextlib.suppress(OSError):  # who wants to send it finds out, and says so
        if is_untouched(path, written_by):
            return
    try:
        told = json.loads((path.parent / NAME).read_text(encoding="utf-8")).get("sha256", {})
    except (FileNotFoundError, ValueError):
        return
    if path.name in told and _sha256(path) not in (told[path.name], None):
        raise StoreError(f"{path}: is not what was written; see `prescreen doctor`")


@dataclass(frozen=True)
class Told:
    """What the manifest of a results folder says by itself, when the database says nothing.

    `answers` are (SOP Instance UID, SHA-256 of the file as received or "", disposition, digest of
    the pixels, answer); `sha256` is of each object's file. `live` is None in a folder of an
    earlier version, which did not say.
    """

    job_id: int
    study_instance_uid: str
    predecessor_job_id: int | None
    priority: int
    destinations: tuple[str, ...]
    live: frozenset[str] | None
    held_findings: frozenset[str]
    outcome: Outcome
    reason: str | None
    objects: tuple[ResultObject, ...]
    answers: tuple[tuple[str, str, Disposition | None, str | None, ImageResult | None], ...]
    sha256: Mapping[str, str]


def read_told(folder: Path) -> Told:
    """The manifest of a results folder, for whom no job is known. StoreError if it is none."""
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        live = content.get("live_destinations")
        return Told(
            job_id=int(content["job_id"]),
            study_instance_uid=str(content["study_instance_uid"]),
            predecessor_job_id=content["predecessor_job_id"],
            priority=int(content.get("priority", 0)),
            destinations=tuple(content["destinations"]),
            live=None if live is None else frozenset(live),
            held_findings=frozenset(content.get("held_findings", ())),
            outcome=Outcome(content["outcome"]),
            reason=content["reason"],
            objects=tuple(_object(stored) for stored in content["objects"]),
            answers=tuple(_told_answer(stored) for stored in content["answers"]),
            sha256=content.get("sha256", {}),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: cannot be read ({type(error).__name__})") from error


def _told_answer(
    stored: dict[str, Any],
) -> tuple[str, str, Disposition | None, str | None, ImageResult | None]:
    disposition, result = stored["disposition"], stored["result"]
    return (
        stored["sop_instance_uid"],
        stored.get("sha256", ""),
        None if disposition is None else Disposition(disposition),
        stored["pixel_sha256"],
        None if result is None else from_json(json.dumps(result)),
    )


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
