"""Results in every language: the catalogues are complete, fit the page, and fit the data set."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pydicom
import pytest

from prescreen.dicom import attention_page, codes, ink, language, page, wording
from prescreen.dicom.attention_page import Looked
from prescreen.dicom.attributes import Attributes, without_warnings
from prescreen.dicom.language import Face, catalogue
from prescreen.dicom.transcoding import in_unicode, is_unicode
from prescreen.errors import SettingsError
from prescreen.settings import Report
from prescreen.study import LABELS, FindingState, ImageResult, Outcome, Pointing, Radiograph
from tests import results
from tests.peers.made import every_kind
from tests.unit.test_names_survive_in_any_character_set import NAMES, _source

LANGUAGES: tuple[str, ...] = get_args(Report.model_fields["language"].annotation)
#: Words that would say that a disease is not there, or that all is well.
FORBIDDEN = {
    "en": r"absent|absence|negativ|normal|\bclear\b|unremarkable|healthy",
    "de": r"auffällig|normal|negativ|gesund|regelrecht|Nachweis|Anhalt|o\. ?B\.|Ausschluss",
    "zh": "正常|阴性|未见|无异常|健康|无病变",
}
_PLACEHOLDER = re.compile(r"\{\w*\}")
#: What a finding on a screened image may be not evaluated for.
OF_FINDINGS = (
    "below_release_bar",
    "on_hold",
    "not_in_weights",
    "no_threshold",
    "anatomy_not_found",
)


def test_every_catalogue_is_a_setting_and_every_setting_has_one() -> None:
    assert sorted(path.stem for path in language.FOLDER.glob("*.toml")) == sorted(LANGUAGES)


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_catalogue_has_the_same_keys_and_placeholders(name: str) -> None:
    english, other = catalogue("en").texts(), catalogue(name).texts()
    assert other.keys() == english.keys()
    for key, text in other.items():
        assert text, key
        assert sorted(_PLACEHOLDER.findall(text)) == sorted(_PLACEHOLDER.findall(english[key])), key


@pytest.mark.parametrize("name", LANGUAGES)
def test_no_catalogue_says_that_a_disease_is_not_there(name: str) -> None:
    for key, text in catalogue(name).texts().items():
        assert not re.search(FORBIDDEN[name], text, re.IGNORECASE), key


@pytest.mark.parametrize("name", LANGUAGES)
def test_titles_and_headings_fit_their_attributes(name: str) -> None:
    """LO has 64 characters (PS3.5 6.2), and none of them parts values."""
    for key, text in catalogue(name).texts().items():
        assert "\\" not in text
        if key.startswith(("titles.", "headings.")) or key == "says.images_not_screened":
            assert len(text.format(number=99, all=99)) <= 64, key
    longest = max(catalogue(name).findings.values(), key=len)
    assert len(catalogue(name).looked.line.format(finding=longest)) <= 64


# --- the page ------------------------------------------------------------------------------------


def _cases() -> Iterator[ImageResult]:
    source = results.chest()
    lateral = replace(results.chest_header(), view_position="LL")
    for state in FindingState:
        for reason in OF_FINDINGS if state is FindingState.NOT_EVALUATED else (None,):
            said = results.findings(states=dict.fromkeys(LABELS, state))
            said = tuple(replace(finding, reason=reason) for finding in said)
            yield results.screened(source, said)
    for reason in ("mask_disagreement", "anatomy_not_found"):
        said = results.findings(states=dict.fromkeys(LABELS[:7], FindingState.UNDETERMINED))
        said = tuple(replace(finding, reason=reason) for finding in said)
        yield results.screened(source, said, ratio=None)
        yield replace(results.screened(source, said, ratio=None), header=lateral)
    yield results.screened(source)
    for reason in catalogue("en").reasons:
        yield ImageResult(results.chest_header(), Outcome.NOT_SCREENED, reason)
    yield ImageResult(lateral, Outcome.NOT_SCREENED, "view")


class _Boxes:
    """What is written on a page, in place of writing it: each text where its ink lies."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str, tuple[int, int, int, int]]] = []

    def write(self, at: ink.Page, x: int, y: int, text: str, size: int, *_: Any, **how: Any) -> int:
        bold, face = how["bold"], how["face"]
        width = ink.width_of(text, size, bold, face)
        mask = ink._mask(text, size, bold, face)
        rows = np.flatnonzero(mask.any(axis=1))
        if not rows.size:
            return x
        box = (x, y + int(rows[0]), x + width, y + int(rows[-1]) + 1)
        assert x >= 0 and box[2] <= at.shape[1], f"{text!r} ends beyond its ground"
        assert box[1] >= 0 and box[3] <= at.shape[0], f"{text!r} is higher than its ground"
        self.found.append((id(at), text, box))
        return x + width

    def require_apart(self) -> None:
        for place, (ground, text, box) in enumerate(self.found):
            for other_ground, other, another in self.found[place + 1 :]:
                apart = (
                    box[2] <= another[0]
                    or another[2] <= box[0]
                    or box[3] <= another[1]
                    or another[3] <= box[1]
                )
                assert ground != other_ground or apart, (text, other)


@pytest.mark.parametrize("rows", [720, 1080])
@pytest.mark.parametrize("name", LANGUAGES)
def test_no_text_of_a_page_runs_into_another_or_over_the_edge(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = results.model()
    radiograph = Radiograph(results.chest_header(), results.ramp((90, 80)), (90, 80), None, "0")
    for cached in (page.blank, page._row):
        cached.cache_clear()
    for result in _cases():
        boxes = _Boxes()
        with monkeypatch.context() as patch:
            patch.setattr(ink, "write", boxes.write)
            page.draw(
                result,
                radiograph,
                results.anatomy(),
                model,
                Report(language=name, capture_rows=rows),  # type: ignore[arg-type]
                results.MADE,
                replaces=results.MADE,
                below_bar=frozenset(LABELS),
            )
        boxes.require_apart()
        assert all(box[0] >= 0 for _, _, box in boxes.found)
        page._row.cache_clear()
        page.blank.cache_clear()


@pytest.mark.parametrize("rows", [720, 1080])
@pytest.mark.parametrize("name", LANGUAGES)
def test_no_text_of_where_the_network_looked_runs_into_another(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointing = Pointing(0.62, 0.53, 0.25, 0.24, 90, 80, held_out=True)
    shown = [label for label in LABELS if label not in ("Hernia", "Edema", "Fibrosis")]
    figures = tuple(
        replace(f, pointing=pointing if f.label in shown else None) for f in results.model().figures
    )
    said = results.findings(states=dict.fromkeys(LABELS, FindingState.UNDETERMINED))
    looked = Looked(
        results.screened(results.chest(), said),
        {},
        replace(results.model(), figures=figures),
        results.MADE,
        results.MADE,
        frozenset(LABELS),
        (4, 4),
    )
    settings = Report(language=name, capture_rows=rows)  # type: ignore[arg-type]
    maps = {label: np.ones((7, 7), np.float32) for label in shown}
    alone = [{label: maps[label]} for label in shown[:2]]
    for some in [*attention_page.portions(maps), *alone]:
        for shape in ((90, 80), (60, 160), (160, 60)):
            boxes = _Boxes()
            page.blank.cache_clear()
            with monkeypatch.context() as patch:
                patch.setattr(ink, "write", boxes.write)
                attention_page.draw(replace(looked, maps=some), results.radiograph(shape), settings)
            boxes.require_apart()
    page.blank.cache_clear()


def test_a_font_that_is_not_there_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(language, "FONT_FOLDERS", ())
    language.face.cache_clear()
    with pytest.raises(SettingsError, match=r"no font with its letters.*fonts-noto-cjk") as caught:
        language.face("zh")
    assert "report.font" in str(caught.value)
    assert language.face("de").path, "German has its font with the package"
    assert language.face("en") == Face()
    language.face.cache_clear()


def test_a_chosen_font_must_have_the_letters(tmp_path: Path) -> None:
    chosen = Path(language.face("de").path)
    assert language.face("de", chosen).path == str(chosen)
    with pytest.raises(SettingsError, match="lacks letters of 中文"):
        language.face("zh", chosen)
    with pytest.raises(SettingsError, match="cannot be read as a font"):
        language.face("de", tmp_path / "none.ttf")


def test_lines_of_chinese_are_broken_between_signs_and_none_begins_with_a_stop() -> None:
    face = language.face("zh")
    text = catalogue("zh").says.never_looked_for
    lines = ink.wrapped(text, 23, 200, face)
    assert len(lines) > 2 and "".join(lines) == text
    assert not [line for line in lines if line[0] in "、。，：；"]


# --- the data set --------------------------------------------------------------------------------


def _read(part10: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(part10))


def _texts(ds: pydicom.Dataset) -> str:
    return " ".join(str(e.value) for e in ds.iterall() if e.VR in ("LO", "LT", "ST", "UT"))


@pytest.mark.parametrize("charset", NAMES)
@pytest.mark.parametrize("name", ["de", "zh"])
def test_names_stay_what_they_are_where_words_need_unicode(name: str, charset: str) -> None:
    source = _source(charset, NAMES[charset])
    for kind, part10 in every_kind(in_unicode(source), language=name).items():
        ds = _read(part10)
        assert ds.SpecificCharacterSet == "ISO_IR 192", kind
        assert str(ds.PatientName) == NAMES[charset] == str(source.PatientName)
        assert ds.StudyDescription == source.StudyDescription
        assert ds.PatientID == source.PatientID
        assert not _texts(ds).isascii(), kind


@pytest.mark.parametrize(("name", "tag"), [("de", "de-DE"), ("zh", "en-US")])
@pytest.mark.parametrize("charset", [None, "ISO_IR 999", "ISO_IR 192"])
def test_without_a_character_set_bytes_are_kept_and_words_are_ascii(
    name: str, tag: str, charset: str | None
) -> None:
    """Bytes that do not fit what is said of them cannot be carried over without guessing."""
    source = _source("ISO_IR 100", "Müller^Jörg")
    del source.SpecificCharacterSet
    if charset is not None:
        source.SpecificCharacterSet = charset
    kept = in_unicode(source)
    assert kept is source
    if charset == "ISO_IR 192":  # wrong, but our words are what it says
        return
    for part10 in every_kind(kept, language=name).values():
        assert b"M\xfcller^J\xf6rg" in part10
    with without_warnings():
        tree = _read(every_kind(kept, language=name)["sr"]).ContentSequence
        assert str(tree).isascii()
    assert tree[0].ConceptCodeSequence[0].CodeValue == tag


@pytest.mark.parametrize("name", LANGUAGES)
def test_codes_are_the_same_in_every_language(name: str) -> None:
    english, other = (_codes(every_kind(_unicode(), language=n)) for n in ("en", name))
    assert other == english


def _unicode() -> pydicom.Dataset:
    return in_unicode(results.chest())


def _codes(made: dict[str, bytes]) -> list[tuple[str, str]]:
    found = []
    for part10 in made.values():
        for element in _read(part10).iterall():
            if element.keyword == "CodeValue":
                found.append(str(element.value))
    tags = {catalogue(name).tag for name in LANGUAGES}
    return [(value, "") for value in found if value not in tags]


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_reason_of_a_finding_is_said_in_the_language(name: str) -> None:
    assert set(OF_FINDINGS) <= set(catalogue(name).reasons)


def test_meanings_of_the_standards_codes_are_the_standards() -> None:
    tree = _read(every_kind(_unicode(), language="de")["sr"])
    meanings = {str(e.value) for e in tree.iterall() if e.keyword == "CodeMeaning"}
    assert {"Pleural effusion", "Present", "Finding", "Comment"} <= meanings
    assert "German (Germany)" in meanings


def test_a_text_sr_is_in_the_language_from_its_title_to_its_end() -> None:
    tree = _read(every_kind(_unicode(), language="de")["text sr"])
    text = _texts(tree) + str(tree)
    for word in ("Pleuraerguss", "Zusammenfassung", "KI-ERGEBNIS", "0,52", "Nicht beurteilt"):
        assert word in text
    assert codes.PRE_SCREENING.meaning not in text


def test_a_source_is_not_changed_by_being_read_in_unicode() -> None:
    source = _source("ISO_IR 100", "Müller^Jörg")
    before = source.get_item("PatientName").value
    converted = in_unicode(source)
    assert is_unicode(converted) and not is_unicode(source)
    assert source.get_item("PatientName").value == before
    assert in_unicode(converted).PatientName == "Müller^Jörg"


def test_an_item_may_have_a_character_set_of_its_own() -> None:
    source = results.chest()
    source.SpecificCharacterSet = "ISO_IR 100"
    item = pydicom.Dataset()
    item.SpecificCharacterSet, item.CodeMeaning = "ISO_IR 192", "Röntgen"
    source.ProcedureCodeSequence = [item]
    stream = io.BytesIO()
    source.save_as(stream)
    found = in_unicode(pydicom.dcmread(io.BytesIO(stream.getvalue())))
    assert Attributes(found).items("ProcedureCodeSequence")[0].text("CodeMeaning") == "Röntgen"


def test_a_decoded_source_is_carried_over_as_well() -> None:
    source = _source("\\ISO 2022 IR 87", NAMES["\\ISO 2022 IR 87"])
    source.decode()
    source.StudyDescription = "山田"
    converted = _read(every_kind(in_unicode(source), language="de")["sr"])
    assert str(converted.PatientName) == NAMES["\\ISO 2022 IR 87"]
    assert converted.StudyDescription == "山田"


def test_unknown_languages_are_refused() -> None:
    with pytest.raises(SettingsError, match="there is no such catalogue"):
        wording.words("tlh")
