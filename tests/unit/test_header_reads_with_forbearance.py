"""`header_of`: what is there is read, what is malformed is None, nothing raises."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from prescreen.dicom.image import header_of, read_header
from prescreen.dicom.origin import mark
from prescreen.errors import UnusableImage
from tests.pictures import again, data_set, ramp, with_bytes


def header(**attributes: Any) -> Any:
    return header_of(again(data_set(ramp(), **attributes)))


def code(value: str, scheme: str, meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


def test_every_field_is_read() -> None:
    read = header(
        BodyPartExamined="CHEST",
        AnatomicRegionSequence=code("51185008", "SCT", "Chest"),
        ViewPosition="PA",
        ViewCodeSequence=code("272479007", "SCT", "postero-anterior"),
        PatientOrientation=["L", "F"],
        ImageType=["DERIVED", "PRIMARY", ""],
        PresentationIntentType="FOR PRESENTATION",
        QualityControlImage="NO",
        PatientSpeciesDescription="Homo sapiens",
        PatientSpeciesCodeSequence=code("337915000", "SCT", "homo sapiens"),
        PatientAge="045Y",
        PatientSex="F",
        AcquisitionDateTime="20260102030405.5+0200",
        StudyDescription="Thorax",
        SeriesDescription="p.a.",
        ProtocolName="Lung",
        Manufacturer="ACME",
        ManufacturerModelName="X",
        NumberOfFrames=1,
        BurnedInAnnotation="NO",
    )
    assert (read.body_part_examined, read.view_position) == ("CHEST", "PA")
    assert read.anatomic_region == ("51185008", "SCT", "Chest")
    assert read.view_code == ("272479007", "SCT", "postero-anterior")
    assert read.patient_orientation == ("L", "F")
    assert read.image_type == ("DERIVED", "PRIMARY", "")
    assert read.presentation_intent_type == "FOR PRESENTATION"
    assert (read.quality_control_image, read.burned_in_annotation) == ("NO", "NO")
    assert read.patient_species_description == "Homo sapiens"
    assert read.patient_species_code == ("337915000", "SCT", "homo sapiens")
    assert (read.patient_age, read.patient_sex) == (45, "F")
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert read.acquired == datetime.datetime(2026, 1, 2, 3, 4, 5, 500_000, zone)
    assert (read.study_description, read.series_description) == ("Thorax", "p.a.")
    assert (read.protocol_name, read.manufacturer) == ("Lung", "ACME")
    assert (read.manufacturer_model_name, read.is_own_result) == ("X", False)
    assert (read.rows, read.columns, read.number_of_frames) == (64, 48, 1)
    assert (read.modality, read.photometric_interpretation) == ("CR", "MONOCHROME2")
    assert read.transfer_syntax_uid == "1.2.840.10008.1.2.1"


def test_what_is_missing_is_none() -> None:
    empty = header_of(Dataset())
    assert empty.sop_instance_uid == ""
    assert empty.patient_orientation == ()
    assert empty.number_of_frames == 1
    assert {empty.modality, empty.rows, empty.acquired, empty.patient_age, empty.view} == {None}


@pytest.mark.parametrize(
    ("attributes", "age"),
    [
        ({"PatientAge": "006M"}, 0.5),
        ({"PatientAge": "052W"}, 52 * 7 / 365.25),
        ({"PatientAge": "010D"}, 10 / 365.25),
        ({"PatientBirthDate": "20000101", "StudyDate": "20250101"}, 25.0),
        ({"PatientBirthDate": "20000101"}, None),
        ({"PatientBirthDate": "20300101", "StudyDate": "20250101"}, None),
        ({}, None),
    ],
)
def test_age_at_acquisition(attributes: dict[str, str], age: float | None) -> None:
    assert header(**attributes).patient_age == (
        None if age is None else pytest.approx(age, abs=0.01)
    )


@pytest.mark.parametrize(
    ("attributes", "moment"),
    [
        ({"AcquisitionDate": "20260102", "AcquisitionTime": "0304"}, "2026-01-02T03:04:00"),
        ({"AcquisitionDate": "20260102"}, "2026-01-02T00:00:00"),
        ({"ContentDate": "20260103", "StudyDate": "20260102"}, "2026-01-03T00:00:00"),
        ({"SeriesDate": "20260104", "SeriesTime": "235960"}, "2026-01-04T23:59:59"),
        (
            {"StudyDate": "20260105", "StudyTime": "10", "TimezoneOffsetFromUTC": "-0330"},
            "2026-01-05T10:00:00-03:30",
        ),
        ({"AcquisitionDateTime": "20260102"}, "2026-01-02T00:00:00"),
        ({"StudyTime": "101010"}, None),
    ],
)
def test_when_it_was_acquired(attributes: dict[str, str], moment: str | None) -> None:
    acquired = header(**attributes).acquired
    assert (None if acquired is None else acquired.isoformat()) == moment


def test_the_time_of_a_study_is_not_taken_for_that_of_an_image() -> None:
    assert header(ContentDate="20260103", StudyDate="20260102").acquired_itself
    assert not header(StudyDate="20260102", StudyTime="1010").acquired_itself
    assert not header(SeriesDate="20260102", SeriesTime="1010").acquired_itself


VIEWS = {"PosteroAnterior": "PA", "AnteroPosterior": "AP", "LateralProjection": "LATERAL"}
VIEWS |= {"LeftLateral": "LATERAL", "RightLateral": "LATERAL", "LeftOblique": "OBLIQUE"}
VIEWS |= {"RightAnteriorOblique": "OBLIQUE", "ObliqueProjection": "OBLIQUE"}


@pytest.mark.parametrize(("name", "view"), VIEWS.items())
def test_coded_views_are_those_of_the_dictionary(name: str, view: str) -> None:
    concept = getattr(codes.CID4010, name)
    sequence = code(concept.value, concept.scheme_designator, concept.meaning)
    assert header(ViewCodeSequence=sequence).view == view


@pytest.mark.parametrize("scheme", ["SRT", "SNM3"])
@pytest.mark.parametrize(
    ("value", "view"), [("R-10214", "PA"), ("R-10206", "AP"), ("R-10236", "LATERAL")]
)
def test_coded_views_of_older_editions(value: str, scheme: str, view: str) -> None:
    assert header(ViewCodeSequence=code(value, scheme, "as it was")).view == view


def test_views_that_no_chest_has_are_no_view() -> None:
    axial = codes.CID4010.AxialProjection
    sequence = code(axial.value, axial.scheme_designator, axial.meaning)
    assert header(ViewCodeSequence=sequence).view is None


def test_own_results_are_known_by_their_equipment() -> None:
    contributing = Dataset()
    contributing.Manufacturer, contributing.ManufacturerModelName = "Some Hospital", "Prescreen"
    assert header(ManufacturerModelName="prescreen").is_own_result
    assert header(ContributingEquipmentSequence=[contributing]).is_own_result
    assert not header(Manufacturer="prescreen", ManufacturerModelName="CR 25").is_own_result
    network = Dataset()
    network.ManufacturerModelName, network.ContributionDescription = "a network", mark("ab" * 32)
    assert header(ContributingEquipmentSequence=[network]).is_own_result
    network.ContributionDescription = "weights sha256 of somebody else"
    assert not header(ContributingEquipmentSequence=[network]).is_own_result


MALFORMED = [
    "SOPInstanceUID",
    "Modality",
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "ViewPosition",
    "ViewCodeSequence",
    "PatientOrientation",
    "ImageType",
    "PatientAge",
    "PatientBirthDate",
    "AcquisitionDateTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "StudyDate",
    "StudyTime",
    "TimezoneOffsetFromUTC",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SpecificCharacterSet",
    "ContributingEquipmentSequence",
    "PatientSpeciesCodeSequence",
    "Manufacturer",
]


def _names_a_codec_nobody_has(values: dict[str, bytes]) -> bool:
    """A NUL within the character set: the one attribute the parser itself stumbles over."""
    return b"\0" in values.get("SpecificCharacterSet", b"").rstrip(b"\0")


@given(st.dictionaries(st.sampled_from(MALFORMED), st.binary(max_size=20), min_size=1))
def test_nothing_a_sender_writes_raises(values: dict[str, bytes]) -> None:
    assume(not _names_a_codec_nobody_has(values))
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(with_bytes(data_set(ramp()), values))
        header_of(read_header(path))


def test_a_character_set_with_a_nul_does_not_parse_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "nul.dcm"
    path.write_bytes(with_bytes(data_set(ramp()), {"SpecificCharacterSet": b"\0\1"}))
    with pytest.raises(UnusableImage, match="does not parse as DICOM Part 10") as caught:
        read_header(path)
    assert caught.value.reason == "unparsable"


def test_body_parts_that_should_be_one_are_all_read() -> None:
    assert header(BodyPartExamined=["ABDOMEN", "CHEST"]).body_part_examined == "ABDOMEN CHEST"
    assert header(BodyPartExamined=["", ""]).body_part_examined is None
