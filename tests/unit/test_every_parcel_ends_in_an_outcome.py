"""Rows D1 to D3, D6, D7, D9 and D12 to D15 of the fault matrix: what is sent has an outcome.

It is refused by status or kept, and what is kept is answered once, never with another picture's
numbers.

A row is answered with a stand-in for the networks that notes what it is shown; spool, database,
gate, decoder and reports are the real ones.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    XRayAngiographicImageStorage,
)

from prescreen.dicom.decode import Decoder
from prescreen.study import LABELS, Finding, FindingState, generate_uid
from tests.parcels import SUCCESS, Parcels, chest, element, with_element
from tests.pictures import data_set, part10, ramp, with_bytes

INVALID, MISMATCH, UNPARSABLE = 0x0117, 0xA900, 0xC000
SCREENED = ("screened", None)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, decoder: Decoder) -> Iterator[Parcels]:
    node = Parcels(tmp_path_factory.mktemp("house") / "data", decoder)
    yield node
    node.bench.engine.dispose()


@pytest.fixture
def parcels(node: Parcels) -> Parcels:
    """The node, as if nothing had come yet."""
    node.forget()
    return node


def _outside(parcels: Parcels) -> set[str]:
    """What lies beside the data directory."""
    return {path.name for path in parcels.settings.data_dir.parent.iterdir()}


# --- D1: UIDs --------------------------------------------------------------------------------

HOSTILE_UIDS = [
    b"../../etc/x",
    b"/etc/passwd",
    b"1.2.3/../../x",
    b"1.2\0.3",
    b"1.2\\3",
    b"",
    b"1." + b"2" * 63,
    b"1.2.abc",
    b"1..2",
    b".1",
    b"1.2.\n3",
    "1.٣".encode(),
]


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("uid", HOSTILE_UIDS, ids=repr)
def test_d1_a_hostile_uid_is_refused_and_nothing_is_written(
    uid: bytes, keyword: str, parcels: Parcels
) -> None:
    before = _outside(parcels)
    parcel = with_bytes(data_set(ramp()), {keyword: uid})
    name = uid.decode("latin-1") if keyword == "SOPInstanceUID" else "1.2.3"
    assert parcels.keep(parcel, sop_instance_uid=name) == INVALID
    assert parcels.files() == []
    assert _outside(parcels) == before


def test_d1_a_data_set_without_an_instance_uid_is_refused(parcels: Parcels) -> None:
    assert parcels.keep(part10(data_set(ramp(), SOPInstanceUID=None))) == INVALID


@pytest.mark.parametrize("name", ["sop_instance_uid", "sop_class_uid"])
def test_d1_a_uid_other_than_the_commands_is_refused(name: str, parcels: Parcels) -> None:
    assert parcels.keep(part10(data_set(ramp())), **{name: "1.2.3.4"}) == MISMATCH
    assert parcels.files() == []


def test_d1_leading_zeros_are_kept_under_a_name_of_ours(parcels: Parcels) -> None:
    parcel = with_bytes(data_set(ramp()), {"SOPInstanceUID": b"1.02.003"})
    assert parcels.keep(parcel) == SUCCESS
    (path,) = parcels.files()
    assert path.read_bytes() == parcel
    assert len(path.stem) == 32 and int(path.stem, 16)


# --- D2, D3: again, and in any order ---------------------------------------------------------


def test_d2_the_same_bytes_again_are_one_instance(parcels: Parcels) -> None:
    parcel = chest()
    assert [parcels.keep(parcel), parcels.keep(parcel)] == [SUCCESS, SUCCESS]
    parcels.answer()
    assert parcels.kinds().count("instance.duplicate") == 1
    assert (len(parcels.shown), len(parcels.record(parcel).instances)) == (1, 1)


def _under_the_uids_of(first: bytes, **attributes: Any) -> bytes:
    ds = pydicom.dcmread(BytesIO(first))
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    file = BytesIO()
    pydicom.dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()


def test_d2_other_pixels_under_a_known_uid_are_a_conflict(parcels: Parcels) -> None:
    first = chest()
    assert parcels.outcome(first) == SCREENED
    pixels = bytearray(pydicom.dcmread(BytesIO(first)).PixelData)
    pixels[100_000] ^= 1
    second = _under_the_uids_of(first, PixelData=bytes(pixels))
    assert parcels.keep(second) == SUCCESS
    parcels.answer()
    assert "instance.conflict" in parcels.kinds()
    assert len(parcels.shown) == 1, "the second is for a person"
    kept = {hashlib.sha256(path.read_bytes()).hexdigest() for path in parcels.files()}
    assert {hashlib.sha256(parcel).hexdigest() for parcel in (first, second)} <= kept


def test_d2_the_same_pixels_under_another_uid_are_another_instance(parcels: Parcels) -> None:
    first = chest()
    assert parcels.outcome(first) == SCREENED
    second = _under_the_uids_of(first, SOPInstanceUID=UID(generate_uid()))
    assert parcels.keep(second) == SUCCESS
    parcels.answer()
    assert len(parcels.record(first).instances) == 2


def test_d3_interleaved_studies_in_any_order_and_a_late_image(parcels: Parcels) -> None:
    studies = [chest() for _ in range(3)]
    others = [_under_the_uids_of(s, SOPInstanceUID=UID(generate_uid())) for s in studies]
    for parcel in (studies[0], others[2], studies[1], others[0], studies[2]):
        assert parcels.keep(parcel) == SUCCESS
    parcels.answer()
    late = others[1]
    assert parcels.keep(late) == SUCCESS
    parcels.answer()
    records = [parcels.record(parcel) for parcel in studies]
    assert [record.study["outcome"] for record in records] == ["screened"] * 3
    assert [record.study["jobs"] for record in records] == [1, 2, 1]
    assert [len(record.instances) for record in records] == [2, 2, 2]


# --- D6: damage ------------------------------------------------------------------------------


def _whole() -> bytes:
    """A small picture of its own study, in Explicit VR."""
    return part10(data_set(ramp()))


def _cut_in_the_pixels() -> bytes:
    return _whole()[:-100]


def _cut_in_the_header() -> bytes:
    whole = _whole()
    return whole[: whole.index(b"\x28\x00\x10\x00") + 3]  # within Rows


def _cut_in_the_identity() -> bytes:
    whole = _whole()
    return whole[: whole.index(b"\x08\x00\x60\x00") + 9]  # within Modality


def _without_meta() -> bytes:
    whole = _whole()
    return whole[:132] + whole[whole.index(b"\x08\x00\x16\x00") :]


def _lying_length() -> bytes:
    """An element with a length of 0xFFFFFFF0, which short reads take for the rest of the file."""
    return with_element(_whole(), 0x00511010, element(0x00511010, b"UN", b"1000", 0xFFFFFFF0))


def _as(syntax: UID, other: UID) -> bytes:
    """A data set in one transfer syntax that says it is in another."""
    ds = data_set(ramp())
    ds.file_meta.TransferSyntaxUID = syntax
    whole = part10(ds, implicit=syntax == ImplicitVRLittleEndian)
    old = element(0x00020010, b"UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    new = element(0x00020010, b"UI", other.encode() + b"\0" * (len(other) % 2))
    assert whole.count(old) == 1
    return whole.replace(old, new)


def _a_second_patient() -> bytes:
    """A Patient ID behind the one that was read when the file came."""
    whole = chest()
    start = whole.index(b"\xe0\x7f\x10\x00")
    return whole[:start] + element(0x00100020, b"LO", b"SOMEBODY") + whole[start:]


#: What is kept, and never comes as far as the networks.
DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "pixels cut short": (_cut_in_the_pixels, "truncated"),
    "a length of 0xFFFFFFF0": (_lying_length, "truncated"),
    "implicit that says explicit": (
        lambda: _as(ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        "unparsable",
    ),
    "explicit that says implicit": (
        lambda: _as(ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        "unparsable",
    ),
    "a second patient id": (_a_second_patient, "unparsable"),
    "rows of another VR": (
        lambda: _whole().replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00CS"),
        "implausible_pixels",
    ),
}
#: What is refused at the door.
NOT_UNDERSTOOD: dict[str, Callable[[], bytes]] = {
    "no meta information": _without_meta,
    "no preamble": lambda: _whole()[132:],
    "big endian": lambda: _as(ExplicitVRLittleEndian, ExplicitVRBigEndian),
    "cut in the header": _cut_in_the_header,
    "cut in the identity": _cut_in_the_identity,
    "a length of 0xFFFFFFF0 in the identity": lambda: with_element(
        _whole(), 0x00082112, element(0x00082112, b"SQ", b"", 0xFFFFFFF0)
    ),
    "a sequence for a name": lambda: _whole().replace(b"\x10\x00\x10\x00PN", b"\x10\x00\x10\x00SQ"),
    "nothing": lambda: b"",
    "a PNG": lambda: b"\x89PNG\r\n\x1a\n" + bytes(400),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_d6_damage_is_answered_with_its_reason_and_never_scored(
    name: str, parcels: Parcels
) -> None:
    made, reason = DAMAGED[name]
    assert parcels.outcome(made()) == ("not_screened", reason)
    assert parcels.shown == []


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_d6_what_does_not_parse_is_refused(name: str, parcels: Parcels) -> None:
    assert parcels.keep(NOT_UNDERSTOOD[name]()) == UNPARSABLE
    assert parcels.files() == []


def test_d6_odd_lengths_and_vrs_beside_the_picture_do_not_change_it(parcels: Parcels) -> None:
    whole = chest()
    assert parcels.outcome(whole) == SCREENED
    odd = with_element(chest(), 0x00091010, element(0x00091010, b"SH", b"ODD"))
    strange = with_element(chest(), 0x00091010, element(0x00091010, b"ZZ", b"1234"))
    for parcel in (odd, strange):
        assert parcels.outcome(parcel) == SCREENED
    first, *others = parcels.shown
    assert all(np.array_equal(first.pixels, other.pixels) for other in others)


# --- D7: other things than a frontal chest ---------------------------------------------------

IGNORED = {
    "CT": (CTImageStorage, "CT"),
    "MR": (MRImageStorage, "MR"),
    "US": (UltrasoundImageStorage, "US"),
    "SR": (UID("1.2.840.10008.5.1.4.1.1.88.33"), "SR"),
    "KO": (KeyObjectSelectionDocumentStorage, "KO"),
    "PR": (GrayscaleSoftcopyPresentationStateStorage, "PR"),
    "MG": (DigitalMammographyXRayImageStorageForPresentation, "MG"),
    "XA": (XRayAngiographicImageStorage, "XA"),
    "a private class": (UID("1.3.12.2.1107.5.9.1"), "CR"),
    "CR by class, MG by modality": (UID("1.2.840.10008.5.1.4.1.1.1"), "MG"),
}


@pytest.mark.parametrize("name", IGNORED)
def test_d7_what_is_no_radiograph_is_kept_and_audited(name: str, parcels: Parcels) -> None:
    sop_class, modality = IGNORED[name]
    assert parcels.keep(chest(SOPClassUID=sop_class, Modality=modality)) == SUCCESS
    parcels.answer()
    assert parcels.kinds() == ["instance.ignored"]
    assert parcels.shown == []


FILTERED: dict[str, tuple[dict[str, Any], tuple[str, str | None]]] = {
    "a hand": ({"BodyPartExamined": "HAND"}, ("out_of_scope", "body_part")),
    "LL": ({"ViewPosition": "LL"}, ("not_screened", "view")),
    "LATERAL": ({"ViewPosition": "LATERAL"}, ("not_screened", "view")),
    "seen from the side": (
        {"ViewPosition": "", "PatientOrientation": ["A", "F"]},
        ("not_screened", "view"),
    ),
    "a scout": (
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        ("out_of_scope", "derived_view"),
    ),
    "for processing": (
        {"PresentationIntentType": "FOR PROCESSING"},
        ("out_of_scope", "for_processing"),
    ),
    "a Secondary Capture of a hip": (
        {"SOPClassUID": SecondaryCaptureImageStorage, "BodyPartExamined": "HIP"},
        ("out_of_scope", "body_part"),
    ),
}


@pytest.mark.parametrize("name", FILTERED)
def test_d7_a_tag_that_names_something_else_is_the_reason(name: str, parcels: Parcels) -> None:
    attributes, answer = FILTERED[name]
    assert parcels.outcome(chest(**attributes)) == answer
    assert parcels.shown == [], "a lateral is never scored as a frontal"


@pytest.mark.parametrize("view", ["AP", "PA", None, "", "XX"])
def test_d7_frontal_and_unknown_views_are_screened(view: str | None, parcels: Parcels) -> None:
    assert parcels.outcome(chest(ViewPosition=view)) == SCREENED


# --- D9, D13: pictures of another form -------------------------------------------------------


def _native(**attributes: Any) -> bytes:
    return part10(data_set(ramp(), **attributes))


def _float_pixels(keyword: str, kind: str) -> bytes:
    ds = data_set(ramp())
    del ds.PixelData
    setattr(ds, keyword, np.zeros(64 * 48, kind).tobytes())
    return part10(ds)


FORMS: dict[str, tuple[Callable[[], bytes], tuple[str, str]]] = {
    "two frames": (lambda: _native(NumberOfFrames=2), ("out_of_scope", "multiple_frames")),
    "RGB of 16 bits": (
        lambda: _native(PhotometricInterpretation="RGB", SamplesPerPixel=3),
        ("not_screened", "colour"),
    ),
    "palette": (
        lambda: _native(PhotometricInterpretation="PALETTE COLOR"),
        ("not_screened", "colour"),
    ),
    "one row": (lambda: _native(Rows=1), ("not_screened", "too_small")),
    "no columns": (lambda: _native(Columns=0), ("not_screened", "implausible_pixels")),
    "10000 × 10000": (
        lambda: _native(Rows=10_000, Columns=10_000),
        ("not_screened", "too_large"),
    ),
    "65535 frames": (lambda: _native(NumberOfFrames=65_535), ("out_of_scope", "multiple_frames")),
    "float": (
        lambda: _float_pixels("FloatPixelData", "<f4"),
        ("not_screened", "unsupported_pixels"),
    ),
    "double": (
        lambda: _float_pixels("DoubleFloatPixelData", "<f8"),
        ("not_screened", "unsupported_pixels"),
    ),
    "1 bit": (lambda: _native(BitsAllocated=1), ("not_screened", "unsupported_pixels")),
    "64 bits": (lambda: _native(BitsAllocated=64), ("not_screened", "unsupported_pixels")),
}


@pytest.mark.parametrize("name", FORMS)
def test_d9_d13_each_other_form_has_its_outcome(name: str, parcels: Parcels) -> None:
    made, answer = FORMS[name]
    assert parcels.outcome(made()) == answer
    assert parcels.shown == []


def test_d9_anisotropic_pixels_are_made_square(parcels: Parcels) -> None:
    rows, columns = pydicom.dcmread(BytesIO(chest())).pixel_array.shape
    parcel = chest(PixelSpacing=None, ImagerPixelSpacing=["0.2", "0.16"])
    assert parcels.outcome(parcel) == SCREENED
    (shown,) = parcels.shown
    assert shown.stored_shape == (rows, columns)
    assert shown.pixels.shape == (round(rows * 1.25), columns)


def test_d13_a_picture_in_cells_of_32_bits_is_the_same_picture(parcels: Parcels) -> None:
    ds = pydicom.dcmread(BytesIO(chest()))
    wide = ds.pixel_array.astype("<u4").tobytes()
    for parcel in (chest(), chest(BitsAllocated=32, PixelData=wide)):
        assert parcels.outcome(parcel) == SCREENED
    first, second = parcels.shown
    assert np.array_equal(first.pixels, second.pixels)


# --- D12: attributes that are missing, empty, impossible or private --------------------------


def _private_sequence() -> bytes:
    inner = element(0x00091002, b"LO", b"x ") + element(0x00091003, b"UN", b"\1\2\3\4")
    items = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
    encoded = element(0x00090010, b"LO", b"VENDOR") + element(0x00091001, b"UN", items)
    return with_element(chest(), 0x00090010, encoded)


MISSING: dict[str, Callable[[], bytes]] = {
    **{
        f"no {keyword}": lambda keyword=keyword: chest(**{keyword: None})  # type: ignore[misc]
        for keyword in (
            *("PatientID", "PatientName", "PatientSex", "PatientBirthDate", "StudyID", "StudyDate"),
            *("AccessionNumber", "PatientOrientation", "ReferringPhysicianName", "SeriesNumber"),
        )
    },
    "impossible dates": lambda: with_bytes_of_chest(
        StudyDate=b"20261399", PatientBirthDate=b"00000000", StudyTime=b"256199"
    ),
    "private elements in a sequence of unknown VR": _private_sequence,
    "empty sequences": lambda: chest(
        ReferencedRequestSequence=[], ProcedureCodeSequence=[], ViewCodeSequence=[]
    ),
}


def with_bytes_of_chest(**values: bytes) -> bytes:
    """The chest with values of the same length that no library would write."""
    whole = chest()
    for keyword, value in values.items():
        ds = pydicom.dcmread(BytesIO(whole))
        tag = pydicom.datadict.tag_for_keyword(keyword)
        assert tag is not None
        if keyword in ds:
            del ds[keyword]
        file = BytesIO()
        pydicom.dcmwrite(file, ds, enforce_file_format=True)
        vr = pydicom.datadict.dictionary_VR(tag).encode()
        padded = value + b" " * (len(value) % 2)
        whole = with_element(file.getvalue(), int(tag), element(int(tag), vr, padded))
    return whole


def _reports_and_captures(parcels: Parcels) -> list[Path]:
    results = (path for path in parcels.files() if "results" in path.parts)
    return sorted(path for path in results if path.suffix == ".dcm")


@pytest.mark.parametrize("name", MISSING)
def test_d12_a_report_is_written_whatever_is_missing(name: str, parcels: Parcels) -> None:
    assert parcels.outcome(MISSING[name]()) == SCREENED
    objects = [pydicom.dcmread(path) for path in _reports_and_captures(parcels)]
    assert {ds.Modality for ds in objects} == {"SR", "OT"}


# --- D14: text in the picture ----------------------------------------------------------------


def test_d14_names_burned_in_or_not_come_into_no_new_place(parcels: Parcels) -> None:
    name, number = "CANARY^BIRD", "CANARY77"
    parcel = chest(
        PatientName=name,
        PatientID=number,
        BurnedInAnnotation="YES",
        StudyDescription=f"{name} {number}",
        PatientComments=f"{name} {number}",
        ImageComments=name,
    )
    assert parcels.outcome(parcel) == SCREENED
    allowed = {"PatientName", "PatientID", "StudyDescription"}
    for path in _reports_and_captures(parcels):
        ds = pydicom.dcmread(path)
        texts = [e for e in ds.iterall() if e.VR not in ("SQ", "OB", "OW")]
        assert {e.keyword for e in texts if "anaria" in str(e.value).lower()} <= allowed
        if "PixelData" in ds:
            assert ds.BurnedInAnnotation == "YES"


# --- D15: numbers at the edge ----------------------------------------------------------------


def _all(probability: float) -> tuple[Finding, ...]:
    state = FindingState.FLAGGED if probability >= 0.5 else FindingState.NOT_FLAGGED
    return tuple(Finding(label, probability, probability, 0.5, state, None) for label in LABELS)


@pytest.mark.parametrize("probability", [0.0, 1.0, 1e-9, 1 - 1e-9, 0.1 + 0.2, 5e-324])
def test_d15_extreme_probabilities_fit_a_decimal_string(
    probability: float, parcels: Parcels
) -> None:
    parcels.findings = _all(probability)
    assert parcels.outcome(chest()) == SCREENED
    for path in _reports_and_captures(parcels):
        numbers = [e for e in pydicom.dcmread(path).iterall() if e.VR == "DS" and e.VM == 1]
        assert max((len(str(number.value)) for number in numbers), default=0) <= 16


@pytest.mark.parametrize("probability", [math.nan, math.inf, -math.inf])
def test_d15_what_is_no_number_is_never_reported(probability: float, parcels: Parcels) -> None:
    parcels.findings = (replace(_all(0.7)[0], probability=probability), *_all(0.7)[1:])
    parcel = chest()
    assert parcels.keep(parcel) == SUCCESS
    parcels.answer()
    record = parcels.record(parcel)
    assert record.study["outcome"] == "failed"
    assert record.findings == ()
    for path in _reports_and_captures(parcels):
        assert not [e for e in pydicom.dcmread(path).iterall() if str(e.value).lower() == "nan"]
