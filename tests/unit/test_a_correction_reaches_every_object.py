"""Patient and order as an archive told them stand in the data set that results are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from prescreen.dicom import egress
from prescreen.dicom.attributes import Attributes
from prescreen.dicom.correcting import corrected
from prescreen.dicom.identity import identity_of
from prescreen.dicom.persons import is_same_name
from prescreen.dicom.report import COMPREHENSIVE_3D_SR, measurement_report
from prescreen.errors import UnfitObject
from prescreen.study import Audience, Correction, ResultObject
from tests import results
from tests.pictures import again, data_set, ramp

TOLD = Correction("CANARYNEW", "HOSPITAL", "Größe^Märta=山田^太郎", "19550505", "CANARY-A", "F")


def _source(**attributes: Any) -> pydicom.Dataset:
    who = {"PatientID": "CANARYOLD", "PatientName": "Old^Name", "PatientSex": "M", **attributes}
    return again(data_set(ramp(), **who))


def _says(ds: pydicom.Dataset) -> Correction:
    told, sex = identity_of(ds), Attributes(ds).text("PatientSex")
    return Correction(
        told.patient_id,
        told.issuer_of_patient_id,
        told.patient_name,
        told.patient_birth_date,
        told.accession_number,
        sex,
    )


@pytest.mark.parametrize(
    "character_set", ["ISO_IR 100", "ISO_IR 144", "ISO_IR 192", ["", "ISO 2022 IR 87"], None]
)
def test_it_says_what_the_archive_said(character_set: Any) -> None:
    source = _source(SpecificCharacterSet=character_set or "")
    before = _says(source)
    found = corrected(source, TOLD)
    assert _says(found) == TOLD
    assert Attributes(found).text("SpecificCharacterSet") == "ISO_IR 192"
    assert _says(source) == before, "the source is left as it is"


def test_what_is_ascii_leaves_the_character_set() -> None:
    source = _source(SpecificCharacterSet="ISO_IR 100", StudyDescription="Röntgen Thorax")
    found = corrected(source, replace(TOLD, patient_name="Smith^Ann"))
    attributes = Attributes(found)
    assert attributes.text("SpecificCharacterSet") == "ISO_IR 100"
    assert attributes.text("StudyDescription") == "Röntgen Thorax"


def test_what_would_have_to_be_guessed_is_left_out() -> None:
    source = _source(StudyDescription="Thorax")
    tag = Tag("StudyDescription")
    source[tag] = RawDataElement(tag, "LO", 8, b"R\xf6ntgen ", 0, False, True)
    found = corrected(source, TOLD)
    assert _says(found) == TOLD
    assert "StudyDescription" not in found


def test_what_belongs_to_the_former_patient_or_order_goes() -> None:
    more = {
        "OtherPatientIDs": "CANARYOLDER",
        "PatientAge": "060Y",
        "IssuerOfPatientIDQualifiersSequence": [_item(UniversalEntityID="1.2.3")],
        "ReferencedRequestSequence": [_item(AccessionNumber="CANARY-B")],
        "RequestAttributesSequence": [_item(AccessionNumber="CANARY-B")],
        "IssuerOfAccessionNumberSequence": [_item(UniversalEntityID="1.2.4")],
    }
    found = corrected(_source(**more), TOLD)
    assert not [keyword for keyword in more if keyword in found]
    same = replace(
        TOLD, patient_id="CANARYOLD", issuer_of_patient_id="&1.2.3", patient_birth_date=""
    )
    kept = corrected(_source(**more, AccessionNumber="CANARY-A"), same)
    assert not [keyword for keyword in more if keyword not in kept], "it is the same patient"


def _item(**values: str) -> pydicom.Dataset:
    ds = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def test_a_report_of_it_passes_the_last_look() -> None:
    source = corrected(results.chest(), TOLD)
    uid = results.SOP_UID
    item = ResultObject("sr", Audience.RELEASE, COMPREHENSIVE_3D_SR, uid, results.SERIES_UID, "")
    content = measurement_report(results.document(source))
    egress.check(content, item, source)
    with pytest.raises(UnfitObject, match="patient id is not that of the study"):
        egress.check(content, item, results.chest())


def test_the_same_is_the_same() -> None:
    source = _source()
    assert corrected(source, replace(_says(source), patient_sex=None)) is source


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("Müller^Jürgen", "MÜLLER^JÜRGEN^^", True),
        ("Müller^Jürgen", "M?ller^J?rgen", True),
        ("Müller^Jürgen", "Mu\u0308ller^Ju\u0308rgen", True),
        ("Müller^Jürgen", "Muller^Jurgen", False),
        ("Yamada^Tarou=山田^太郎", "Yamada^Tarou", True),
        ("Yamada^Tarou=山田^太郎", "=山田^太郎", True),
        ("Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^次郎", False),
        ("Ｙａｍａｄａ^Ｔａｒｏｕ", "Yamada^Tarou", True),
        ("Old  Name", "Old Name", True),
        ("Old^Name", "Name^Old", False),
        ("a.c", "abc", False),
    ],
)
def test_one_name_is_written_in_many_ways(ours: str, theirs: str, same: bool) -> None:
    assert is_same_name(ours, theirs) is same
