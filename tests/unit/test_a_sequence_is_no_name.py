"""A VR of another kind: who the patient is must be text, what describes the study is absent."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import tag_for_keyword

from prescreen.dicom.attributes import Attributes
from prescreen.dicom.header import header_of, read_header
from prescreen.dicom.identity import identify
from prescreen.dicom.reasons import ImageReason
from prescreen.errors import CannotUnderstand, UnusableImage
from tests import results
from tests.parcels import element, with_element
from tests.peers.made import every_kind
from tests.pictures import data_set, part10, ramp

INNER = element(0x00081030, b"LO", b"SECRET")
_ITEM = b"\xfe\xff\x00\xe0" + len(INNER).to_bytes(4, "little") + INNER
_DELIMITED = _ITEM + b"\xfe\xff\xdd\xe0\0\0\0\0"
#: VR, value and length of what is no text.
KINDS = {
    "sequence": (b"SQ", _ITEM, None),
    "sequence without length": (b"SQ", _DELIMITED, 0xFFFFFFFF),
    "unknown without length": (b"UN", _DELIMITED, 0xFFFFFFFF),
    "number": (b"US", b"SE", None),
    "bytes": (b"OB", b"SECRET", None),
}
WHOSE = (
    "SpecificCharacterSet",
    "StudyDate",
    "AccessionNumber",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
)


def _with(whole: bytes, keyword: str, kind: str) -> bytes:
    tag = int(tag_for_keyword(keyword) or 0)
    return with_element(whole, tag, element(tag, *KINDS[kind]))


def _file(keyword: str, kind: str) -> bytes:
    ds = data_set(ramp())
    if keyword in ds:
        del ds[keyword]
    return _with(part10(ds), keyword, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keyword", WHOSE)
def test_who_the_patient_is_stands_in_text_or_is_refused(
    keyword: str, kind: str, tmp_path: Path
) -> None:
    words = f"{keyword} is a sequence or a number where text belongs"
    with pytest.raises(CannotUnderstand, match=words):
        identify(_file(keyword, kind))
    path = tmp_path / "image.dcm"
    path.write_bytes(_file(keyword, kind))
    with pytest.raises(UnusableImage, match=words) as refusal:
        read_header(path)
    assert refusal.value.reason == ImageReason.IMPLAUSIBLE_DATA_SET


@pytest.mark.parametrize("vr", [b"UN", b"SH", b"ST"])
def test_a_text_of_another_vr_or_of_an_unknown_one_is_that_text(vr: bytes) -> None:
    ds = data_set(ramp())
    del ds.PatientID
    tag = int(tag_for_keyword("PatientID") or 0)
    whole = with_element(part10(ds), tag, element(tag, vr, b"4711"))
    assert identify(whole).patient_id == "4711"


def _chest(keyword: str) -> bytes:
    ds = results.chest()
    if keyword in ds:
        del ds[keyword]
    stream = io.BytesIO()
    ds.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keyword", ["StudyDescription", "ReferringPhysicianName", "PatientAge"])
def test_what_describes_the_study_is_as_if_it_were_not_there(keyword: str, kind: str) -> None:
    source = pydicom.dcmread(io.BytesIO(_with(_chest(keyword), keyword, kind)))
    assert header_of(source).study_instance_uid == source.StudyInstanceUID
    assert Attributes(source).text(keyword) is None
    for name, made in every_kind(source).items():
        result = pydicom.dcmread(io.BytesIO(made))
        assert not (keyword in result and result[keyword].value), name
        assert b"SECRET" not in made, name


@pytest.mark.parametrize(
    "keyword",
    ["IssuerOfAccessionNumberSequence", "ProcedureCodeSequence", "OtherPatientIDsSequence"],
)
def test_a_text_is_no_sequence(keyword: str) -> None:
    tag = int(tag_for_keyword(keyword) or 0)
    whole = with_element(_chest(keyword), tag, element(tag, b"LO", b"SECRET"))
    identify(whole)
    source = pydicom.dcmread(io.BytesIO(whole))
    for name, made in every_kind(source).items():
        result = pydicom.dcmread(io.BytesIO(made))
        assert not (keyword in result and result[keyword].value), name
        assert b"SECRET" not in made, name


@pytest.mark.parametrize("kind", ["sequence", "number", "bytes"])
def test_within_a_sequence_that_is_taken_over_as_well(kind: str) -> None:
    inner = element(0x00080050, *KINDS[kind]) + element(0x00401001, b"SH", b"P1")
    item = b"\xfe\xff\x00\xe0" + len(inner).to_bytes(4, "little") + inner
    tag = int(tag_for_keyword("ReferencedRequestSequence") or 0)
    whole = with_element(_chest("ReferencedRequestSequence"), tag, element(tag, b"SQ", item))
    made = every_kind(pydicom.dcmread(io.BytesIO(whole)))
    (request,) = pydicom.dcmread(io.BytesIO(made["sr"])).ReferencedRequestSequence
    assert request.RequestedProcedureID == "P1"
    assert not request.get("AccessionNumber")
    assert b"SECRET" not in made["sr"]
