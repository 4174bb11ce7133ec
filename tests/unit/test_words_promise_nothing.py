"""No text of ours says that a disease is not there, or that all is well."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace

import pydicom
import pytest

from prescreen.dicom import codes, ink, page, wording
from prescreen.dicom.narrative import narrative_report
from prescreen.dicom.presentation import presentation_state
from prescreen.dicom.reasons import ImageReason
from prescreen.dicom.regions import regions_report
from prescreen.dicom.report import measurement_report
from prescreen.dicom.segmentation import segmentation
from prescreen.gate import Reason
from prescreen.settings import Report
from prescreen.study import LABELS, FindingState, ImageResult, Outcome
from tests import results

FORBIDDEN = re.compile(r"absent|absence|negativ|normal|green|\btick|\bclear\b|unremarkable", re.I)


def _cases() -> Iterator[ImageResult]:
    source = results.chest()
    lateral = replace(results.chest_header(), view_position="LL")
    for state in FindingState:
        said = results.findings(states=dict.fromkeys(LABELS, state))
        yield results.screened(source, said)
        yield results.screened(source, said, ratio=None)
    yield results.screened(source)
    yield results.screened(source, results.findings())
    for reason in [*Reason, *ImageReason, None, "some_code_nobody_knows"]:
        yield ImageResult(lateral, Outcome.NOT_SCREENED, reason)
        yield ImageResult(results.chest_header(), Outcome.NOT_SCREENED, reason)
    for outcome in (Outcome.FAILED, Outcome.OUT_OF_SCOPE):
        yield ImageResult(results.chest_header(), outcome, "prior")


def _texts_of_report(result: ImageResult) -> Iterator[str]:
    document = results.document(results.chest(), [result])
    marked = frozenset(LABELS)
    yield from _texts_of(measurement_report(document, below_bar=lambda result: marked))
    yield from _texts_of(narrative_report(document, below_bar=lambda result: marked))


def _texts_of(part10: bytes) -> Iterator[str]:
    for element in pydicom.dcmread(io.BytesIO(part10)).iterall():
        if element.VR in ("CS", "LO", "LT", "SH", "ST", "UC", "UT"):
            yield str(element.value)


def _texts_of_page(result: ImageResult, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    written: list[str] = []

    def write(_page: ink.Page, x: int, _y: int, text: str, *_: object, **__: object) -> int:
        written.append(text)
        return x

    page.blank.cache_clear()
    page._row.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(ink, "write", write)
        page.draw(
            result,
            None,
            None,
            results.model(),
            Report(),
            results.MADE,
            replaces=results.MADE,
            below_bar=frozenset(LABELS),
        )
    page.blank.cache_clear()
    page._row.cache_clear()
    return written


def test_reports_and_pages_hold_no_forbidden_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for result in _cases():
        texts = [*_texts_of_report(result), *_texts_of_page(result, monkeypatch)]
        assert len(texts) > 10
        for text in texts:
            assert not FORBIDDEN.search(text), text
            assert text.isascii(), text


def test_overlays_hold_no_forbidden_word() -> None:
    document, anatomy = results.document(results.chest()), results.anatomy()
    uid = results.chest_header().sop_instance_uid
    regions = regions_report(document, {uid: anatomy})
    attention = {uid: results.attention()}
    looked = regions_report(document, {uid: anatomy}, attention, lambda result: frozenset(LABELS))
    overlays = (presentation_state(document, anatomy), segmentation(document, anatomy))
    for part10 in (regions, looked, *overlays):
        texts = list(_texts_of(part10))
        assert len(texts) > 10
        assert not [text for text in texts if FORBIDDEN.search(text) or not text.isascii()]


def test_the_search_would_find_one() -> None:
    assert FORBIDDEN.search("The chest is Normal.")
    assert FORBIDDEN.search("pneumothorax: absent")


def test_bars_come_without_decimals_and_percentages(monkeypatch: pytest.MonkeyPatch) -> None:
    source = results.chest()
    written = _texts_of_page(results.screened(source, ratio=None), monkeypatch)
    versions = re.compile(r"^prescreen \d")
    for text in written:
        assert "%" not in text
        assert versions.search(text) or not re.search(r"\d[.,]\d", text), text


def test_a_page_with_nothing_flagged_says_all_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    source = results.chest()
    quiet = results.screened(source, results.findings())
    text = " ".join(_texts_of_page(quiet, monkeypatch))
    for expected in (
        "No finding flagged.",
        "This does not exclude disease.",
        "Never looked for: fractures, lines and tubes, free air,",
        "disease, bone.",
        "8 of 10",
        "AI OUTPUT - NOT A DIAGNOSIS",
        "RESEARCH AND EVALUATION ONLY",
        "3a3a3a3a",
        "2026-03-04",
        "replaces 10:52",
        "evaluation only",
    ):
        assert expected in text


def test_every_reason_of_gate_and_decoder_has_its_words() -> None:
    for reason in [*Reason, *ImageReason]:
        assert reason.value in wording.words("en").catalogue.reasons, reason


def test_an_unknown_reason_is_said_without_odd_characters() -> None:
    assert wording.words("en").reason("later_found\x1b<reason>") == "later found  reason"
    assert wording.words("en").reason(None) == "no reason recorded"


@pytest.mark.parametrize(
    ("value", "said"), [(None, "-"), (0.0, "0 of 10"), (0.84, "8 of 10"), (0.97, "9 of 10")]
)
def test_a_sensitivity_never_rounds_up_to_certainty(value: float | None, said: str) -> None:
    assert wording.words("en").tenths(value) == said


def test_meanings_of_our_concepts_hold_no_forbidden_word() -> None:
    for value in vars(codes).values():
        if isinstance(value, codes.Concept):
            assert not FORBIDDEN.search(value.meaning)
