from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import numpy as np
import pydicom
import pytest

from prescreen.dicom.capture import Sheet, capture
from prescreen.dicom.egress import check
from prescreen.errors import UnfitObject
from prescreen.settings import Report
from prescreen.study import Audience, ResultObject
from tests import results
from tests.peers.made import every_kind

NAMES = {
    "ISO_IR 100": "Müller^Jörg",
    "ISO_IR 144": "Люкceмбypг^Иван",
    "ISO_IR 126": "Διονυσιος^Άννα",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ISO_IR 13\\ISO 2022 IR 87": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "GB18030": "Wang^XiaoDong=王^小东",
    "GBK": "Wang^XiaoDong=王^小东",
    "ISO_IR 192": "Wang^XiaoDong=王^小東=Ünïcode^Ж",
    "ISO_IR 127": "قباني^لنزار",
    "ISO_IR 138": "שרון^דבורה",
    "ISO_IR 166": "นามสกุล^ชื่อ",
    "ISO_IR 101": "Wałęsa^Łukasz",
    "ISO_IR 148": "Çavuşoğlu^İlker",
}


def _source(charset: str, name: str) -> pydicom.Dataset:
    """A chest as it comes from the wire: encoded, read again, nothing decoded."""
    ds = results.chest()
    ds.SpecificCharacterSet = charset.split("\\") if "\\" in charset else charset
    ds.PatientName = name
    ds.StudyDescription = name.split("=")[-1].replace("^", " ")
    return _again(ds)


def _again(ds: pydicom.Dataset, *changes: tuple[bytes, bytes]) -> pydicom.Dataset:
    """The data set written and read; `changes` are made to its bytes, each of equal length."""
    stream = io.BytesIO()
    ds.save_as(stream)
    content = stream.getvalue()
    for before, after in changes:
        assert len(before) == len(after) and before in content
        content = content.replace(before, after)
    return _read(content)


def _read(content: bytes) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a character set that there is none of
        return pydicom.dcmread(io.BytesIO(content))


def _named(name: str) -> pydicom.Dataset:
    ds = results.chest()
    ds.PatientName = name
    return ds


def _objects(source: pydicom.Dataset) -> Iterator[bytes]:
    """The findings first, then one of every other kind; each passes the last look as well."""
    made = every_kind(source)
    for name in ("sr", "fallback sr", "regions sr", "text sr", "capture", "presentation"):
        yield made[name]
    for name in ("segmentation", "attention regions sr", "attention capture"):
        yield made[name]


def described_as(part10: bytes, kind: str) -> ResultObject:
    """What the outbox would say of an object."""
    ds = pydicom.dcmread(io.BytesIO(part10), stop_before_pixels=True)
    uids = (ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID)
    return ResultObject(kind, Audience.EVALUATION, *uids, "x.dcm")


def _raw_name(ds: pydicom.Dataset) -> bytes:
    value = ds.get_item("PatientName").value
    return bytes(value).rstrip(b" ")


@pytest.mark.parametrize("charset", NAMES)
def test_names_are_equal_decoded_and_byte_for_byte(charset: str) -> None:
    source = _source(charset, NAMES[charset])
    before = _raw_name(source)
    for part10 in _objects(source):
        result = pydicom.dcmread(io.BytesIO(part10))
        assert _raw_name(result) == before
        assert str(result.PatientName) == NAMES[charset] == str(source.PatientName)
        assert result.SpecificCharacterSet == source.SpecificCharacterSet
        assert result.StudyDescription == source.StudyDescription


@pytest.mark.parametrize("charset", NAMES)
def test_the_last_look_compares_what_is_decoded(charset: str) -> None:
    source = _source(charset, NAMES[charset])
    unicode = _source("ISO_IR 192", NAMES[charset])
    made = every_kind(source)
    for name, kind in (("sr", "sr"), ("capture", "capture"), ("text sr", "text")):
        part10 = made[name]
        described = described_as(part10, kind)
        check(part10, described, source)
        check(part10, described, unicode)
        with pytest.raises(UnfitObject, match="patient name is not that of the study"):
            check(part10, described, _source("ISO_IR 100", "Müller^Else"))


@pytest.mark.parametrize("charset", NAMES)
def test_a_source_that_has_been_decoded_does_as_well(charset: str) -> None:
    source = _source(charset, NAMES[charset])
    source.decode()
    list(source)  # every element converted
    source.StudyDescription = str(source.StudyDescription)
    for part10 in _objects(source):
        result = pydicom.dcmread(io.BytesIO(part10))
        assert str(result.PatientName) == NAMES[charset]
        assert result.StudyDescription == source.StudyDescription


def test_without_a_character_set_eight_bit_bytes_are_kept() -> None:
    source = _named("Mxller^Jxrg")
    del source.SpecificCharacterSet
    source = _again(source, (b"Mxller^Jxrg", b"M\xfcller^J\xf6rg"))
    for part10 in _objects(source):
        result = pydicom.dcmread(io.BytesIO(part10))
        assert "SpecificCharacterSet" not in result
        assert _raw_name(result) == b"M\xfcller^J\xf6rg"


@pytest.mark.parametrize("charset", [b"ISO IR 100", b"ISO_IR 999", b"ISO_IR 192", b"\\\\        "])
def test_a_wrong_character_set_breaks_nothing(charset: bytes) -> None:
    changes = (b"ISO_IR 100", charset), (b"Mxller", b"M\xfcller")
    for part10 in _objects(_again(_named("Mxller"), *changes)):
        assert b"M\xfcller" in part10
        assert charset.strip() in part10


def test_an_implicit_source_gives_the_same_report() -> None:
    explicit = _source("ISO_IR 144", NAMES["ISO_IR 144"])
    other = _source("ISO_IR 144", NAMES["ISO_IR 144"])
    other.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    assert next(_objects(explicit)) == next(_objects(_again(other)))


def test_our_own_texts_are_ascii_and_take_nothing_from_the_source() -> None:
    source = results.chest()
    secret = "Geheimnis^Streng"
    for keyword in ("PatientName", "ReferringPhysicianName"):
        setattr(source, keyword, secret)
    for keyword in ("PatientID", "StudyDescription", "SeriesDescription", "ImageComments"):
        setattr(source, keyword, secret)
    report = pydicom.dcmread(io.BytesIO(next(_objects(_again(source)))))
    tree = str(report.ContentSequence) + str(report.ContributingEquipmentSequence)
    assert "Geheimnis" not in tree
    assert tree.isascii()


def test_a_source_with_next_to_nothing_is_enough() -> None:
    full, bare = results.chest(), pydicom.Dataset()
    bare.file_meta = full.file_meta
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(bare, keyword, getattr(full, keyword))
    for part10 in _objects(bare):
        result = pydicom.dcmread(io.BytesIO(part10))
        for keyword in ("PatientName", "PatientID", "StudyID", "StudyDate", "AccessionNumber"):
            assert result[keyword].value in ("", None)


def test_numbers_are_not_lost_in_the_pixels() -> None:
    """The capture's pixels are read back as they were drawn."""
    source = results.chest()
    sheet = Sheet(
        source,
        results.screened(source),
        results.model(),
        settings=Report(),
        made=results.MADE,
        series_instance_uid=results.SERIES_UID,
        sop_instance_uid=results.SOP_UID,
    )
    made = capture(sheet, None, None)
    assert np.array_equal(pydicom.dcmread(io.BytesIO(made.part10)).pixel_array, made.pixels)
