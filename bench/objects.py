"""`python -m bench.objects FILE TIMES`: the cost of building and of looking at each object.

One radiograph goes through the networks; then every kind of object is made of it TIMES times in the
same process, in turns, as screening makes it. Prints one JSON object: medians of CPU milliseconds,
all threads of the process (CLOCK_PROCESS_CPUTIME_ID), building and the last look apart, and the
sums of the presets.
"""

from __future__ import annotations

import datetime
import functools
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom

from bench.pictures import computed
from bench.processes import told
from prescreen import node, screening
from prescreen.dicom import egress, wording
from prescreen.dicom.attention_page import PER_PAGE
from prescreen.dicom.image import identify
from prescreen.dicom.rejection import KEY_OBJECT_SELECTION, rejection_note
from prescreen.edition import Edition, Written, objects
from prescreen.lightbox import Image
from prescreen.settings import PRESETS, Report, Settings
from prescreen.study import (
    Audience,
    Instance,
    Model,
    Outcome,
    Pointing,
    Reference,
    Rejection,
    ResultObject,
    generate_uid,
)

#: CPU milliseconds of building all objects of a study.
BAR = 25.0
#: Of which the sums are given; the third has captures alone.
SUMMED = ("modern", "classic")
NOTICES, NOTE = ("sr", "text", "capture"), "rejection"
PLAIN, ATTENTION = Report(), Report(attention="where_proven")

Build = Callable[[], Written]


@dataclass(frozen=True)
class Cost:
    """Median CPU milliseconds of one object."""

    build_ms: float
    look_ms: float


def measured(folder: Path, *, times: int) -> dict[str, Any]:
    """The costs in a process of their own, of the CR that the whole node is measured with."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "studied.dcm"
    computed().save_as(file)
    return told("bench.objects", str(file), str(times))


def main(file: str, times: str) -> None:
    """Screen once, build often, print the JSON."""
    image, model = _screened(Path(file))
    costs = _costs(_builds(image, model, Path(file).read_bytes()), image.source, int(times))
    print(json.dumps({"times": int(times), **summary(costs)}))


def summary(costs: Mapping[str, Cost]) -> dict[str, Any]:
    """Costs by object, and what a study of each preset costs: documents, with captures, looked at.

    Of one radiograph, so each object is there once.
    """
    each = {name: {"build_ms": c.build_ms, "look_ms": c.look_ms} for name, c in costs.items()}
    return {"each": each, "presets": {name: _sum(costs, PRESETS[name]) for name in SUMMED}}


def _sum(costs: Mapping[str, Cost], kinds: Sequence[str]) -> dict[str, float]:
    return {
        "documents_ms": sum(costs[kind].build_ms for kind in kinds if kind != "capture"),
        "build_ms": sum(costs[kind].build_ms for kind in kinds),
        "look_ms": sum(costs[kind].look_ms for kind in kinds),
    }


def _screened(file: Path) -> tuple[Image, Model]:
    """One radiograph through decoder and networks, as screening leaves it. Imports torch."""
    from prescreen.nets.screener import Screener

    screener = Screener(node.weights_dir(Settings()), "cpu")
    with tempfile.TemporaryDirectory() as folder:
        configured = Settings(data_dir=Path(folder))
        with node.open_decoder(configured) as decoder:
            (image,) = screening.screen([_instance(file)], decoder, screener, scope=None)
    if image.result.outcome is not Outcome.SCREENED:
        raise ValueError(f"the radiograph was not screened: {image.result.reason}")
    return image, screener.model


def _instance(file: Path) -> Instance:
    part10 = file.read_bytes()
    told = identify(part10)
    return Instance(
        instance_id=1,
        study_instance_uid=told.study_instance_uid,
        series_instance_uid=told.series_instance_uid,
        sop_instance_uid=told.sop_instance_uid,
        sop_class_uid=told.sop_class_uid,
        transfer_syntax_uid=told.transfer_syntax_uid,
        sha256="",
        size=len(part10),
        path=file,
        calling_ae_title="",
        received_at=datetime.datetime.now(datetime.UTC),
    )


def _builds(image: Image, model: Model, received: bytes) -> dict[str, Build]:
    """What makes each object, by its name: kinds of results, their notices, a rejection note."""
    unanswered = replace(image, refused=(Outcome.NOT_SCREENED, "anatomy_not_assessable"))
    kinds = dict.fromkeys(kind for preset in PRESETS.values() for kind in preset)
    builds: dict[str, Build] = {
        kind: functools.partial(_built, image, model, kind)
        for kind in (*kinds, "presentation", "segmentation")
    }
    notices = {
        f"notice {kind}": functools.partial(_built, unanswered, model, kind) for kind in NOTICES
    }
    looked = _with_proof(image)
    attention = {
        f"{kind} with attention": functools.partial(_built, looked, model, kind, ATTENTION)
        for kind in ("regions", "capture")
    }
    return {**builds, **attention, **notices, NOTE: functools.partial(_note, received)}


def _with_proof(image: Image) -> Image:
    """As if the maps of as many flagged findings were proven as stand on one page."""
    assert image.screening is not None
    shown = wording.in_state(image.screening.findings, *wording.LOUD)[:PER_PAGE]
    made_up = Pointing(0.62, 0.53, 0.25, 0.24, 90, 80, held_out=True)
    labels = {finding.label for finding in shown}
    told = image.screening.model
    figures = (replace(f, pointing=made_up if f.label in labels else None) for f in told.figures)
    model = replace(told, figures=tuple(figures))
    return replace(image, screening=replace(image.screening, model=model))


def _built(image: Image, model: Model, kind: str, settings: Report = PLAIN) -> Written:
    """The last of the kind: with attention, captures are two."""
    made = datetime.datetime.now(datetime.UTC)
    edition = Edition(model, settings, Audience.EVALUATION, made, kinds=frozenset({kind}))
    *_, written = objects([image], edition)
    return written


def _note(received: bytes) -> Written:
    """A note that takes the findings of one study back, as `recall` sends it."""
    told = identify(received)
    reference = Reference("1.2.840.10008.5.1.4.1.1.88.34", generate_uid(), generate_uid())
    reference = replace(reference, study_instance_uid=told.study_instance_uid)
    series, sop = generate_uid(), generate_uid()
    part10 = rejection_note(
        received,
        Rejection("113037", (reference,)),
        manufacturer=Report().manufacturer,
        made=datetime.datetime.now(datetime.UTC),
        series_instance_uid=series,
        sop_instance_uid=sop,
        series_number=1,
    )
    described = ResultObject(NOTE, Audience.RELEASE, KEY_OBJECT_SELECTION, sop, series, "note.dcm")
    return Written(described, part10)


def _costs(builds: Mapping[str, Build], source: pydicom.Dataset, times: int) -> dict[str, Cost]:
    """Medians after one turn that fills what is kept between studies: templates, glyphs, codes."""
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(times + 1):
        for name, build in builds.items():
            taken[name].append(_once(build, source))
    medians = {
        name: [1000 * statistics.median(column) for column in zip(*spent[1:], strict=True)]
        for name, spent in taken.items()
    }
    return {name: Cost(*spent) for name, spent in medians.items()}


def _once(build: Build, source: pydicom.Dataset) -> tuple[float, float]:
    """CPU seconds of building, and of the last look."""
    began = time.process_time()
    written = build()
    built = time.process_time()
    egress.check(written.part10, written.described, source)
    return built - began, time.process_time() - built


if __name__ == "__main__":
    main(*sys.argv[1:])
