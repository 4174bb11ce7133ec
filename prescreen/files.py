"""Screening files without a network: `prescreen screen`.

The gate judges each picture and its own tags; the node's scope (sender, time, age) is not asked.
Files of one study get one report, as in the node.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prescreen import edition, node, screening
from prescreen.dicom import capture
from prescreen.dicom.image import header_of, read_header
from prescreen.errors import SettingsError, UnusableImage
from prescreen.lightbox import Image
from prescreen.settings import Settings
from prescreen.study import Audience, Header, ImageResult, Instance, Model, Outcome
from prescreen.tables import plain

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """One file to be screened: the path as it is named in the answer, and its tags.

    `header` is None where it does not parse, or names no study and so belongs to no report.
    """

    path: Path
    header: Header | None


def screen(
    paths: Sequence[Path],
    out: Path,
    settings: Settings,
    *,
    as_json: bool,
    write: Callable[[str], None],
) -> None:
    """Screen files and folders; one line for each file, report and captures into `out`.

    Raises SettingsError where `out` cannot be written, WeightsError where the weights cannot be
    used. A file that cannot be read is `not_screened` with a reason.
    """
    _make(out)
    node.let_waiting_threads_sleep(os.environ)
    from prescreen.nets.screener import Screener

    device, engine = node.device_of(settings), settings.screen.engine
    screener = Screener(node.weights_dir(settings), device, engine)
    form = _line if as_json else _sentence
    with node.open_decoder(settings) as decoder:
        for study in studies(found(paths)):
            instances = [_instance(number, file) for number, file in enumerate(study)]
            images = screening.screen(instances, decoder, screener, scope=None)
            _write_objects(images, screener.model, settings, out)
            for file, image in zip(study, images, strict=True):
                write(form(file.path, image.result))


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".prescreen-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingsError(f"--out {out}: cannot be written: {error.strerror}") from None


def found(paths: Iterable[Path]) -> Iterator[File]:
    """The files under `paths`, folders walked in order of name; a path that is not there too."""
    for path in paths:
        is_folder = os.path.isdir(path)  # noqa: PTH112 - False where the name is too long
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if is_folder else [path]
        for file in inside:
            try:
                header = header_of(read_header(file))
            except UnusableImage:
                yield File(file, None)
            else:
                yield File(file, header if _has_its_uids(header) else None)


def _has_its_uids(header: Header) -> bool:
    return bool(header.study_instance_uid and header.sop_instance_uid)


def studies(files: Iterable[File]) -> list[list[File]]:
    """Files by study, in the order in which studies turn up.

    A file without tags stands alone. A SOP instance that turns up again (another coding of the
    same picture) begins a group of its own: one report never speaks of it twice.
    """
    groups: list[list[File]] = []
    current: dict[str, list[File]] = {}
    for file in files:
        if file.header is None:
            groups.append([file])
            continue
        uid = file.header.study_instance_uid
        group = current.get(uid)
        if group is None or any(_same_instance(file, other) for other in group):
            group = current[uid] = []
            groups.append(group)
        group.append(file)
    return groups


def _same_instance(file: File, other: File) -> bool:
    uids = {f.header.sop_instance_uid for f in (file, other) if f.header is not None}
    return len(uids) == 1


def _instance(number: int, file: File) -> Instance:
    header = file.header
    return Instance(
        instance_id=number,
        study_instance_uid=header.study_instance_uid if header else "",
        series_instance_uid=header.series_instance_uid if header else "",
        sop_instance_uid=header.sop_instance_uid if header else "",
        sop_class_uid=header.sop_class_uid if header else "",
        transfer_syntax_uid="",
        sha256="",
        size=0,
        path=file.path,
        calling_ae_title="",
        received_at=datetime.datetime.now(datetime.UTC),
    )


def _write_objects(images: Sequence[Image], model: Model, settings: Settings, out: Path) -> None:
    readable = [i for i in images if i.source is not None and i.header and _has_its_uids(i.header)]
    outcome, _ = screening.outcome_of([image.result for image in readable])
    if not readable or outcome is Outcome.OUT_OF_SCOPE:
        return
    made = datetime.datetime.now(datetime.UTC)
    shared = edition.Edition(model, settings.report, Audience.EVALUATION, made)
    for item in edition.objects(readable, shared):
        uid = item.described.sop_instance_uid
        (out / f"{uid}.dcm").write_bytes(item.part10)
        if item.page is not None:
            (out / f"{uid}.png").write_bytes(capture.png(item.page))


def _line(path: Path, result: ImageResult) -> str:
    """The answer for one file as JSON."""
    outcome = Outcome.SCREENED if result.outcome is Outcome.SCREENED else Outcome.NOT_SCREENED
    findings: dict[str, dict[str, Any]] = {
        finding.label: {
            "probability": _rounded(finding.probability),
            "threshold": _rounded(finding.threshold),
            "state": finding.state,
        }
        for finding in result.findings
    }
    return json.dumps(
        {
            "path": str(path),
            "sop_instance_uid": result.header.sop_instance_uid or None,
            "outcome": outcome,
            "reason": result.reason,
            "findings": findings,
            "cardiothoracic_ratio": result.cardiothoracic_ratio,
        }
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _sentence(path: Path, result: ImageResult) -> str:
    """The answer for one file for a person at a terminal."""
    name = plain(str(path))
    if result.outcome is not Outcome.SCREENED:
        return f"{name}: not screened ({result.reason})"
    shown = [f.label for f in result.findings if f.state in ("flagged", "undetermined")]
    flagged = ", ".join(shown) or "none (this does not exclude disease)"
    return f"{name}: screened; flagged: {flagged}"
