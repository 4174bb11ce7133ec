"""`identify`: UIDs and identity attributes of received bytes, and what is refused."""

from __future__ import annotations

import logging
import zlib
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from prescreen.dicom.image import TRANSFER_SYNTAXES, identify
from prescreen.errors import CannotUnderstand, InvalidInstance
from tests.canaries import NAME, sample
from tests.pictures import data_set, part10, ramp, with_bytes


def named(name: bytes, *terms: str) -> bytes:
    values = {"PatientName": name}
    if terms:
        values["SpecificCharacterSet"] = "\\".join(terms).encode()
    return with_bytes(data_set(ramp()), values)


@pytest.mark.parametrize(
    ("encoded", "terms", "name"),
    [
        ("Müller^Jörg".encode("latin-1"), ("ISO_IR 100",), "Müller^Jörg"),
        ("Müller^Jörg".encode("latin-1"), ("ISO-IR 100",), "Müller^Jörg"),
        ("Müller^Jörg".encode("latin-1"), (), "Müller^Jörg"),
        ("Müller^Jörg".encode("latin-1"), ("NO SUCH SET",), "Müller^Jörg"),
        ("Müller^Jörg".encode(), ("ISO_IR 192",), "Müller^Jörg"),
        (b"M\xfcller", ("ISO_IR 192",), "Müller"),
        ("Люкceмбypг".encode("iso8859_5"), ("ISO_IR 144",), "Люкceмбypг"),
        ("قباني^لنزار".encode("iso8859_6"), ("ISO_IR 127",), "قباني^لنزار"),
        ("Wang^XiaoDong=王^小东".encode("gb18030"), ("GB18030",), "Wang^XiaoDong=王^小东"),
        (
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
            ("", "ISO 2022 IR 87"),
            "Yamada^Tarou=山田^太郎",
        ),
        (
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
            ("", "ISO 2022 IR 149"),
            "Hong^Gildong=洪^吉洞",
        ),
        (  # PS3.5 annex K
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
            ("", "ISO 2022 IR 58"),
            "Zhang^XiaoDong=张^小东",
        ),
        (b"Canary\x1b$Q^Bird", ("", "ISO 2022 IR 87"), None),
    ],
)
def test_names_are_decoded_in_any_character_set(
    encoded: bytes, terms: tuple[str, ...], name: str | None
) -> None:
    found = identify(named(encoded, *terms)).patient_name
    assert found == name if name is not None else "Canary" in found


def test_identity_attributes_and_issuers() -> None:
    ds = data_set(ramp())
    ds.PatientID, ds.IssuerOfPatientID = " CANARY1 ", "HOSPITAL"
    ds.PatientBirthDate, ds.StudyDate = "19500203", "20260101"
    ds.AccessionNumber, ds.RequestedProcedurePriority = "CANARYACC", "STAT"
    issuer = Dataset()
    issuer.LocalNamespaceEntityID, issuer.UniversalEntityID = "RIS", "1.2.3"
    issuer.UniversalEntityIDType = "ISO"
    ds.IssuerOfAccessionNumberSequence = [issuer]
    for implicit in (False, True):
        identity = identify(part10(ds, implicit))
        assert (identity.patient_id, identity.issuer_of_patient_id) == ("CANARY1", "HOSPITAL")
        assert (identity.patient_birth_date, identity.study_date) == ("19500203", "20260101")
        assert (identity.accession_number, identity.requested_priority) == ("CANARYACC", "STAT")
        assert identity.issuer_of_accession_number == "RIS&1.2.3&ISO"
        assert (identity.patient_name, identity.modality) == (NAME, "CR")
        assert identity.sop_instance_uid == ds.SOPInstanceUID
        assert identity.study_instance_uid == ds.StudyInstanceUID
        assert identity.series_instance_uid == ds.SeriesInstanceUID


def test_the_issuer_may_stand_in_the_qualifiers() -> None:
    ds = data_set(ramp())
    item = Dataset()
    item.UniversalEntityID = "1.2.3"
    ds.IssuerOfPatientIDQualifiersSequence = [item]
    assert identify(part10(ds)).issuer_of_patient_id == "&1.2.3"


@pytest.mark.parametrize("uid", TRANSFER_SYNTAXES)
def test_every_transfer_syntax_is_read_and_no_pixel(uid: str) -> None:
    ds = data_set(ramp())
    if uid not in TRANSFER_SYNTAXES[:2]:
        ds.PixelData = encapsulate([b"never decoded"])
        ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
    assert identify(part10(ds)).transfer_syntax_uid == uid


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG1_J2KI.dcm", "CT_small.dcm", "MR_small.dcm"])
def test_real_files(name: str) -> None:
    identity = identify(sample(name).read_bytes())
    ds = pydicom.dcmread(sample(name))
    assert identity.sop_instance_uid == ds.SOPInstanceUID
    assert identity.patient_name == str(ds.PatientName)


UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
BAD_UIDS = [b"1..2", b"1.2.", b".1", b"1.2/../3", b"1.2\\3", b"1.2 a", b"1.x", b"9" * 65, b"-1.2"]


@pytest.mark.parametrize("keyword", UIDS)
@pytest.mark.parametrize("value", BAD_UIDS)
def test_malformed_uids_are_invalid_instances(keyword: str, value: bytes) -> None:
    whole = with_bytes(data_set(ramp()), {keyword: value})
    with pytest.raises(InvalidInstance, match=f"{keyword} is not a UID") as refusal:
        identify(whole)
    assert refusal.value.status == 0x0117


@pytest.mark.parametrize("keyword", UIDS)
def test_missing_and_empty_uids_are_invalid_instances(keyword: str) -> None:
    ds = data_set(ramp())
    ds[keyword].value = ""
    with pytest.raises(InvalidInstance, match=f"{keyword} is missing or empty"):
        identify(part10(ds))
    del ds[keyword]
    with pytest.raises(InvalidInstance, match=f"{keyword} is missing or empty"):
        identify(part10(ds))


@pytest.mark.parametrize("value", [b"1.2.03.4\0", b"2.25.007", b"9" * 64])
def test_leading_zeros_and_padding_are_tolerated(value: bytes) -> None:
    whole = with_bytes(data_set(ramp()), {"StudyInstanceUID": value})
    assert identify(whole).study_instance_uid == value.rstrip(b"\0").decode()


def test_deflated_is_refused_before_it_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    def inflated(*_: Any) -> bytes:
        raise AssertionError("inflated")

    monkeypatch.setattr(zlib, "decompress", inflated)
    whole = part10(data_set(ramp()))
    deflated = whole.replace(
        b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.1.99"
    )
    assert deflated != whole
    with pytest.raises(CannotUnderstand, match="Deflated Explicit VR Little Endian is not") as no:
        identify(deflated)
    assert no.value.status == 0xC000


@pytest.mark.parametrize(
    "damaged", [b"", b"DICM", b"Canary^Bird" * 40, bytes(128) + b"DICM", bytes(128) + b"DICM\x02"]
)
def test_what_does_not_parse_cannot_be_understood(damaged: bytes) -> None:
    with pytest.raises(CannotUnderstand) as refusal:
        identify(damaged)
    assert "Canary" not in str(refusal.value)


def test_a_cut_anywhere_is_a_refusal_of_ours_or_an_identity() -> None:
    whole = part10(data_set(ramp()))
    for end in range(132, whole.index(b"\xe0\x7f\x10\x00"), 3):
        try:
            identify(whole[:end])
        except (CannotUnderstand, InvalidInstance) as refusal:
            assert "Canary" not in str(refusal)


def nested(depth: int) -> bytes:
    """Content Sequence within Content Sequence, of undefined length, Explicit VR."""
    head = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return head * depth


def test_nesting_beyond_reason_is_refused() -> None:
    whole = part10(data_set(ramp()))
    start = whole.index(b"\x08\x00\x60\x00CS")  # Modality
    with pytest.raises(CannotUnderstand):
        identify(whole[:start] + nested(100_000) + whole[start:])


def test_nothing_of_the_patient_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    values = {"PatientBirthDate": b"Canary", "PatientID": b"Canary" * 30}
    values |= {"SpecificCharacterSet": b"ISO_IR 192", "PatientName": b"Canary\xff"}
    identity = identify(with_bytes(data_set(ramp()), values))
    assert identity.patient_name == "Canaryÿ"
    assert identity.patient_birth_date == "Canary"
    assert "Canary" not in caplog.text
