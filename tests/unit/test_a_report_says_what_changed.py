"""A report that follows another one says what is different from it, and nothing of what is not."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pydicom
import pytest

from prescreen.dicom.document import Predecessor
from prescreen.dicom.narrative import narrative_report
from prescreen.dicom.report import COMPREHENSIVE_3D_SR, measurement_report
from prescreen.settings import Report
from prescreen.study import FindingState, ImageResult, Network
from tests import results

BEFORE = Predecessor(COMPREHENSIVE_3D_SR, "2.25.7", "2.25.8", "2.25.9")
NETWORK = Network("prescreen findings", "1.1.0", "ab" * 32, "2.25.73")


def _comments(now: ImageResult, before: list[ImageResult] | None, **more: Any) -> list[str]:
    fixed = {"earlier": before or (), "predecessors": () if before is None else (BEFORE,)}
    document = results.document(results.chest(), [now], **(fixed | more))
    found = []
    for part10 in (measurement_report(document), narrative_report(document)):
        for item in pydicom.dcmread(io.BytesIO(part10)).iterall():
            if item.keyword == "TextValue" and (
                "earlier report" in item.value or "seit" in item.value
            ):
                found.append(str(item.value))
    return found


def _both(words: str) -> list[str]:
    return [words, words]


def _quiet() -> ImageResult:
    return results.screened(results.chest(), results.findings())


def test_what_changed_of_a_finding_is_said_by_both_documents() -> None:
    said = results.findings({"Pneumothorax": 0.9}, {"Mass": FindingState.UNDETERMINED})
    assert _comments(replace(_quiet(), findings=said), [_quiet()]) == _both(
        "Changed since the earlier report: Pneumothorax: not flagged, now flagged, "
        "Mass: not flagged, now undetermined."
    )


def test_without_an_earlier_report_nothing_is_said_of_one() -> None:
    assert _comments(_quiet(), None) == []


def test_that_nothing_changed_is_said() -> None:
    assert _comments(_quiet(), [_quiet()]) == _both("No finding changed since the earlier report.")


def test_an_answer_that_is_carried_over_is_not_compared() -> None:
    assert _comments(replace(_quiet(), carried_over=True), [_quiet()]) == []


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [
        ("screened", "none", "an image was added"),
        ("screened", "not_screened", "not screened, now screened"),
        ("not_screened", "screened", "screened, now not screened"),
        ("ratio", "screened", "cardiothoracic ratio: 0.52, now 0.61"),
        ("no ratio", "screened", "cardiothoracic ratio: 0.52, now not measured"),
        ("weights", "old weights", "other weights"),
    ],
)
def test_each_kind_of_change_has_its_words(now: str, before: str, words: str) -> None:
    source = results.chest()
    made = {
        "screened": _quiet(),
        "not_screened": results.not_screened(source),
        "ratio": replace(_quiet(), cardiothoracic_ratio=0.61),
        "no ratio": replace(_quiet(), cardiothoracic_ratio=None),
        "weights": replace(_quiet(), network=replace(NETWORK, sha256="cd" * 32)),
        "old weights": replace(_quiet(), network=NETWORK),
    }
    earlier = [made[before]] if before in made else []
    assert _comments(made[now], earlier) == _both(f"Changed since the earlier report: {words}.")


def test_it_is_said_in_the_language() -> None:
    german = Report(language="de")
    source = results.chest()
    source.SpecificCharacterSet = "ISO_IR 192"
    flagged = replace(_quiet(), findings=results.findings({"Edema": 0.9}))
    document = results.document(
        source, [flagged], settings=german, earlier=[_quiet()], predecessors=[BEFORE]
    )
    tree = pydicom.dcmread(io.BytesIO(measurement_report(document)))
    texts = [str(e.value) for e in tree.iterall() if e.keyword == "TextValue"]
    assert "Geändert seit dem vorigen Bericht: Lungenödem: nicht markiert, jetzt markiert." in texts
