"""Screening files without a network: `prescreen screen`.

The gate judges each picture and its own tags; the node's scope (sender, time, age) is not asked.
Files of one study and one patient get one report, as in the node.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prescreen import edition, node, screening, walk
from prescreen.dicom import capture, egress
from prescreen.dicom.attributes import Attributes
from prescreen.dicom.identity import is_uid
from prescreen.dicom.image import header_of, read_header
from prescreen.errors import SettingsError, StoreError, UnfitObject, UnusableImage
from prescreen.lightbox import Image
from prescreen.settings import Settings
from prescreen.study import Audience, Header, ImageResult, Instance, Model, Outcome
from prescreen.tables import plain

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """One file to be screened: the path as it is named in the answer, its tags, whose it is.

    `header` is None where it does not parse, or lacks what a report would refer to it by.
    """

    path: Path
    header: Header | None
    patient_id: str | None = None


def screen(
    paths: Sequence[Path],
    out: Path,
    settings: Settings,
    weights: Path,
    *,
    as_json: bool,
    write: Callable[[str], None],
) -> None:
    """Screen files and folders; one line for each file, report and captures into `out`.

    `weights` is the folder of weights. Raises SettingsError where `out` cannot be written,
    WeightsError where the weights cannot be used; StoreError, once every file has its line, where
    objects found no room. A file that cannot be read is `not_screened` with a reason.
    """
    _make(out)
    from prescreen.nets.screener import Screener

    device, engine = node.device_of(settings), settings.screen.engine
    screener = Screener(weights, device, engine)
    form = _line if as_json else _sentence
    missing: StoreError | None = None
    with node.open_decoder(settings) as decoder:
        for study in studies(found(paths)):
            instances = [_instance(number, file) for number, file in enumerate(study)]
            images = screening.screen(instances, decoder, screener, scope=None)
            try:
                _write_objects(images, screener.model, settings, out)
            except UnfitObject as error:
                logger.error("%s: no objects: %s", plain(str(study[0].path)), error)
            except StoreError as error:
                logger.error("%s: objects are missing: %s", plain(str(study[0].path)), error)
                missing = error
            for file, image in zip(study, images, strict=True):
                write(form(file.path, image.result))
    if missing is not None:
        raise missing


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".prescreen-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingsError(f"--out {out}: cannot be written: {error.strerror}") from None


def found(paths: Iterable[Path]) -> Iterator[File]:
    """Everything under `paths`, folders walked in order of name; what cannot be taken too."""
    for path in paths:
        for here in walk.walked(path):
            if here.why_not != walk.ALREADY:
                yield _file(here.path)


def _file(path: Path) -> File:
    try:
        source = read_header(path)
    except UnusableImage:
        return File(path, None)
    header = header_of(source)
    uids = (header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid)
    if not all(map(is_uid, (*uids, header.sop_class_uid))):
        name = plain(str(path))
        words = "%s: no objects: study, series, instance and its SOP class need UIDs to refer to"
        logger.warning(words, name)
        return File(path, None)
    return File(path, header, Attributes(source).text("PatientID"))


def studies(files: Iterable[File]) -> list[list[File]]:
    """Files by study and patient, in the order in which they turn up.

    A file without tags stands alone. Two patients under one study are a mistake that a node asks a
    person about; files that were made anonymous often have it, and each is judged by itself. A SOP
    instance that turns up again (another coding of the same picture) begins a group of its own:
    one report never speaks of it twice.
    """
    groups: list[list[File]] = []
    current: dict[tuple[str, str | None], list[File]] = {}
    for file in files:
        if file.header is None:
            groups.append([file])
            continue
        key = (file.header.study_instance_uid, file.patient_id)
        group = current.get(key)
        if group is None or any(_same_instance(file, other) for other in group):
            group = current[key] = []
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
    """The objects of one study, each looked at as in the node before any is written.

    Raises UnfitObject where one may not leave, StoreError where one finds no room.
    """
    readable = [i for i in images if i.source is not None and i.instance.study_instance_uid]
    outcome, _ = screening.outcome_of([image.result for image in readable])
    if not readable or outcome is Outcome.OUT_OF_SCOPE:
        return
    made = datetime.datetime.now(datetime.UTC)
    shared = edition.Edition(model, settings.report, Audience.EVALUATION, made)
    for item in edition.objects(readable, shared):
        egress.check(item.part10, item.described, readable[-1].source)
        uid = item.described.sop_instance_uid
        _put(out / f"{uid}.dcm", item.part10)
        if item.page is not None:
            _put(out / f"{uid}.png", capture.png(item.page))


def _put(path: Path, content: bytes) -> None:
    """Write a file, or none: half an object looks like one."""
    try:
        path.write_bytes(content)
    except OSError as error:
        path.unlink(missing_ok=True)
        text = f"{path.parent}: cannot be written: {error.strerror}; free room there"
        raise StoreError(text) from None


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
