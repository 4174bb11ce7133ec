"""The last look at an object before it is published: what is wrong with it leaves nowhere.

The bytes are read back as a stranger would, by the rules of the standard and not by the code that
wrote them: structure (PS3.5 7), the attributes each IOD must have (PS3.3 A), the tree of a document
(PS3.3 C.17.3, TID 1500), the pixels of a page, and the patient and study of the image it is of.
pydicom reads them too and has to find the same. All that takes a few milliseconds an object;
highdicom and dciodvfy, which take longer, are asked about every kind of object in the tests.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword

from prescreen.dicom.identity import identify, identity_of
from prescreen.dicom.rejection import TITLES
from prescreen.errors import PrescreenError, UnfitObject
from prescreen.study import ResultObject

#: The kind of object that takes others back.
NOTE = "rejection"

_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_EVERY = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    *("SeriesNumber", "InstanceNumber", "SeriesDescription", "Manufacturer"),
    *("ManufacturerModelName", "SoftwareVersions"),
)
#: Of what a network said.
_EQUIPMENT = ("ContributingEquipmentSequence",)
#: Type 2: there, if only empty.
_THERE = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyID"),
)
_TREE = (
    *("ContentDate", "ContentTime", "ValueType", "ConceptNameCodeSequence", "ContentSequence"),
    "CurrentRequestedProcedureEvidenceSequence",
)
_DOCUMENT = (*_EQUIPMENT, *_TREE, "CompletionFlag", "VerificationFlag")
_PIXELS = (
    *_EQUIPMENT,
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PixelData", "ImageType"),
)
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "sr": _DOCUMENT,
    "regions": _DOCUMENT,
    "text": _DOCUMENT,
    "capture": (*_PIXELS, "ConversionType", "PlanarConfiguration", "DerivationDescription"),
    NOTE: (*_TREE, "ContentTemplateSequence"),
    "presentation": (
        *_EQUIPMENT,
        *("ContentLabel", "PresentationCreationDate", "PresentationCreationTime"),
        *("ReferencedSeriesSequence", "DisplayedAreaSelectionSequence", "PresentationLUTShape"),
        *("GraphicAnnotationSequence", "GraphicLayerSequence"),
    ),
    "segmentation": (
        *_PIXELS,
        *("SegmentSequence", "NumberOfFrames", "SegmentationType", "ReferencedSeriesSequence"),
        *("DimensionIndexSequence", "PerFrameFunctionalGroupsSequence"),
    ),
}
_MEGABYTE = 1 << 20
#: Bytes of an item that is looked at once and remembered: codes, units, names of algorithms.
_SMALL = 320
#: What no region of ours is: the networks flag, they do not locate.
_FINDING = "121071"
#: TID 1500: what stands in its root, in this order.
_TID_1500 = ("121049", "121005", "121058", "111028", "126010")
#: Value types beyond those of every document (PS3.3 A.35.1, A.35.13).
_PLAIN = frozenset({"CONTAINER", "TEXT", "CODE", "UIDREF", "IMAGE"})
_VALUE_TYPES = {"text": _PLAIN, "sr": _PLAIN | {"NUM"}, "regions": _PLAIN | {"NUM", "SCOORD"}}
_WHO_AND_WHAT = (
    *("patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "study_date"),
    *("accession_number", "issuer_of_accession_number", "study_instance_uid"),
)


@dataclass(frozen=True, slots=True)
class _Element:
    """An encoded element; the items of a sequence are data sets of their own."""

    value: bytes | memoryview
    items: tuple[_DataSet, ...] = ()

    @property
    def text(self) -> str:
        return bytes(self.value).decode("ascii", "replace").strip(" \0")


_DataSet = dict[int, _Element]


def check(part10: bytes, described: ResultObject, source: pydicom.Dataset | bytes) -> None:
    """Raise UnfitObject with every fault in words unless the object may leave.

    `source` is the data set, or the file, whose patient and study are the current ones. No value of
    it stands in the text.
    """
    try:
        ds = _read_back(part10)
        faults = [*_of_second_reader(ds, part10), *_of_attributes(ds, described)]
        faults += _of_identity(part10, source)
        if described.kind in _VALUE_TYPES:
            faults += _of_document(ds, described.kind)
        if described.kind == NOTE:
            faults += _of_note(ds)
        if "PixelData" in _NEEDED[described.kind]:
            faults += _of_pixels(ds)
    except PrescreenError as error:  # our own words
        raise UnfitObject(f"{described.kind}: cannot be read back: {error}") from error
    except (struct.error, LookupError, ValueError) as error:
        # what others raise may quote a value
        name = type(error).__name__
        raise UnfitObject(f"{described.kind}: cannot be read back ({name})") from error
    if faults:
        raise UnfitObject(f"{described.kind}: {'; '.join(faults)}")


def _read_back(part10: bytes) -> _DataSet:
    """The data set, every length and every VR held against the standard."""
    view = memoryview(part10)
    if bytes(view[128:132]) != b"DICM":
        raise UnfitObject("no DICM at byte 128")
    (length,) = struct.unpack_from("<I", view, 140)
    meta = _data_set(view[132 : 144 + length])
    ds = _data_set(view[144 + length :])
    for ours, of_file in (
        ("SOPClassUID", "MediaStorageSOPClassUID"),
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
    ):
        if ds[_tag(ours)].text != meta[_tag(of_file)].text:
            raise UnfitObject(f"{ours} differs from that of the file")
    return ds


def _data_set(view: memoryview) -> _DataSet:
    found: _DataSet = {}
    position, last = 0, -1
    while position < len(view):
        group, number, letters = struct.unpack_from("<HH2s", view, position)
        tag, vr = group << 16 | number, letters.decode("ascii", "replace")
        start = position + (12 if vr in _LONG else 8)
        form = "<I" if vr in _LONG else "<H"
        (length,) = struct.unpack_from(form, view, start - struct.calcsize(form))
        position = start + length
        name = f"({group:04X},{number:04X})"
        if tag <= last:
            raise UnfitObject(f"{name} is out of order")
        if length % 2 or position > len(view):
            raise UnfitObject(f"{name} has an impossible length")
        if vr not in _vrs(tag):
            raise UnfitObject(f"{name} is no {vr}")
        value, last = view[start:position], tag
        found[tag] = _Element(value, tuple(_items(value)) if vr == "SQ" else ())
    return found


def _items(view: memoryview) -> Iterator[_DataSet]:
    position = 0
    while position < len(view):
        tag, length = struct.unpack_from("<4sI", view, position)
        if tag != b"\xfe\xff\x00\xe0" or position + 8 + length > len(view):
            raise UnfitObject("a sequence does not hold whole items")
        content = view[position + 8 : position + 8 + length]
        yield _small(bytes(content)) if length <= _SMALL else _data_set(content)
        position += 8 + length


@functools.lru_cache(maxsize=4096)
def _small(content: bytes) -> _DataSet:
    """The same for an item that stands in every report again: nobody changes what is returned."""
    return _data_set(memoryview(content))


@functools.lru_cache(maxsize=1024)
def _vrs(tag: int) -> tuple[str, ...]:
    return tuple(dictionary_VR(tag).split(" or ")) if dictionary_has_tag(tag) else ("UN",)


@functools.lru_cache(maxsize=256)
def _tag(keyword: str) -> int:
    return tag_for_keyword(keyword) or 0


def _text(ds: _DataSet, keyword: str) -> str:
    element = ds.get(_tag(keyword))
    return "" if element is None else element.text


def _of_second_reader(ds: _DataSet, part10: bytes) -> Iterator[str]:
    """What pydicom reads has the same attributes, and its sequences as many items."""
    try:
        # what is of megabytes is stepped over, not copied
        theirs = pydicom.dcmread(BytesIO(part10), defer_size=_MEGABYTE)
        same = set(map(int, theirs.keys())) == set(ds) and all(
            len(theirs[tag].value) == len(element.items)
            for tag, element in ds.items()
            if element.items
        )
    except Exception as error:  # it raises what it likes, with values in the text
        yield f"pydicom cannot read it ({type(error).__name__})"
        return
    if not same:
        yield "pydicom reads other attributes in it"


def _of_attributes(ds: _DataSet, described: ResultObject) -> Iterator[str]:
    for keyword in (*_EVERY, *_NEEDED[described.kind]):
        element = ds.get(_tag(keyword))
        if element is None or not len(element.value):
            yield f"{keyword} is missing or empty"
    yield from (f"{keyword} is missing" for keyword in _THERE if _tag(keyword) not in ds)
    for keyword, expected in (
        ("SOPClassUID", described.sop_class_uid),
        ("SOPInstanceUID", described.sop_instance_uid),
        ("SeriesInstanceUID", described.series_instance_uid),
    ):
        if _text(ds, keyword) != expected:
            yield f"{keyword} is not the one that was given to it"


def _of_identity(part10: bytes, source: pydicom.Dataset | bytes) -> Iterator[str]:
    """Decoded, so that one name in two character sets is one name."""
    current = identify(source) if isinstance(source, bytes) else identity_of(source)
    said = identify(part10)
    for name in _WHO_AND_WHAT:
        if getattr(current, name) != getattr(said, name):
            yield f"{name.replace('_', ' ')} is not that of the study"


def _of_document(ds: _DataSet, kind: str) -> Iterator[str]:
    if _text(ds, "VerificationFlag") != "UNVERIFIED":
        yield "it claims to be verified"
    items = list(_content(ds))
    known = {_reference(item) for item in _evidence(ds)}
    if kind != "text":
        yield from _of_tid_1500(ds)
    for item in items:
        value_type = _text(item, "ValueType")
        if value_type not in _VALUE_TYPES[kind]:
            yield f"a content item of type {value_type or 'none'}"
        if not _text(item, "RelationshipType"):
            yield f"a {value_type} item without a relationship"
        if _tag("ConceptNameCodeSequence") not in item:
            yield f"a {value_type} item without a name"
        if value_type == "IMAGE" and _reference(item) not in known:
            yield "an image is spoken of that is not listed as evidence"


def _of_note(ds: _DataSet) -> Iterator[str]:
    """TID 2010 with a title of CID 7011: the items name objects, all listed as evidence."""
    if _concept(ds) not in TITLES:
        yield "its title rejects nothing"
    template = ds[_tag("ContentTemplateSequence")].items[0]
    if _text(template, "TemplateIdentifier") != "2010":
        yield "its template is not TID 2010"
    study = _text(ds, "StudyInstanceUID")
    studies = _sequence(ds, "CurrentRequestedProcedureEvidenceSequence")
    if any(_text(one, "StudyInstanceUID") != study for one in studies):
        yield "it rejects objects of another study"
    known = {_reference(item) for item in _evidence(ds)}
    named = list(_content(ds))
    for item in named:
        if _text(item, "ValueType") not in ("IMAGE", "COMPOSITE"):
            yield f"a content item of type {_text(item, 'ValueType') or 'none'}"
        if _text(item, "RelationshipType") != "CONTAINS":
            yield "an object without a relationship"
    if {_reference(item) for item in named} != known:
        yield "what it names is not what it lists as evidence"


def _of_tid_1500(ds: _DataSet) -> Iterator[str]:
    children = ds[_tag("ContentSequence")].items
    names = [_concept(child) for child in children]
    places = [names.index(value) if value in names else -1 for value in _TID_1500]
    if places != sorted(places) or -1 in places:
        yield "its root is not that of TID 1500"
        return
    for group in children[places[-1]][_tag("ContentSequence")].items:
        within = group[_tag("ContentSequence")].items
        named = {_concept(item) for item in within}
        if not {"112039", "112040"} <= named:
            yield "a measurement group that is not tracked"
        template = group[_tag("ContentTemplateSequence")].items[0]
        is_planar = any(_text(item, "ValueType") == "SCOORD" for item in within)
        if is_planar != (_text(template, "TemplateIdentifier") == "1410"):
            yield "a measurement group whose template does not fit"
        if is_planar and _FINDING in named:
            yield "a region that is coded as a finding"


def _content(ds: _DataSet) -> Iterator[_DataSet]:
    sequence = ds.get(_tag("ContentSequence"))
    for item in sequence.items if sequence else ():
        yield item
        yield from _content(item)


def _evidence(ds: _DataSet) -> Iterator[_DataSet]:
    for study in _sequence(ds, "CurrentRequestedProcedureEvidenceSequence"):
        for series in _sequence(study, "ReferencedSeriesSequence"):
            for reference in _sequence(series, "ReferencedSOPSequence"):
                yield {_tag("ReferencedSOPSequence"): _Element(b"", (reference,))}


def _sequence(ds: _DataSet, keyword: str) -> Sequence[_DataSet]:
    element = ds.get(_tag(keyword))
    return () if element is None else element.items


def _reference(item: _DataSet) -> tuple[str, str]:
    (reference,) = _sequence(item, "ReferencedSOPSequence")
    return _text(reference, "ReferencedSOPClassUID"), _text(reference, "ReferencedSOPInstanceUID")


def _concept(item: _DataSet) -> str:
    names = _sequence(item, "ConceptNameCodeSequence")
    return _text(names[0], "CodeValue") if names else ""


def _of_pixels(ds: _DataSet) -> Iterator[str]:
    """Pixel Data is as long as it is said to be (PS3.5 8.1.1)."""
    rows, columns, samples, bits = (
        int.from_bytes(ds[_tag(keyword)].value, "little")
        for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    )
    frames = int(_text(ds, "NumberOfFrames") or 1)
    length = (rows * columns * samples * frames * bits + 7) // 8
    if len(ds[_tag("PixelData")].value) != length + length % 2:
        yield "PixelData is not as long as its description says"
