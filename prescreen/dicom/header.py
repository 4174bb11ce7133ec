"""A data set → `study.Header`: the attributes that rules are made of."""

from __future__ import annotations

import datetime
import errno
import functools
import io
import os
import re
import stat
from pathlib import Path

import pydicom

from prescreen.dicom.attributes import Attributes, without_warnings
from prescreen.dicom.origin import is_own
from prescreen.dicom.reasons import ImageReason
from prescreen.dicom.structure import check_structure
from prescreen.errors import UnusableImage
from prescreen.study import Header

_OF_IMAGE = (("AcquisitionDate", "AcquisitionTime"), ("ContentDate", "ContentTime"))
_OF_OTHERS = (("SeriesDate", "SeriesTime"), ("StudyDate", "StudyTime"))
_REGIONS, _VIEWS = "cid4009", "cid4010"  # DX Anatomy Imaged, DX View
_DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
_TIME = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?")
_DATETIME = re.compile(r"(\d{8})(\d[\d.]*)?([+-]\d{4})?")
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DAYS_A_YEAR = 365.25
_UNITS = {"D": 1 / _DAYS_A_YEAR, "W": 7 / _DAYS_A_YEAR, "M": 1 / 12, "Y": 1.0}


class _Content(io.BufferedReader):
    """A file that makes no room for more than its size, however much a damaged length asks for."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self._size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None else min(size, self._size))


def _regular(path: str, flags: int) -> int:
    """A descriptor of a file; a pipe or a device is none, and would block whoever opens it."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return descriptor


def read_header(path: Path) -> pydicom.Dataset:
    """All of a Part 10 file but its pixel data.

    Raises UnusableImage (`unreadable`, `truncated`, `unparsable`, `implausible_data_set`,
    `unsupported_transfer_syntax`): no such file, not DICOM, or not to be read safely.
    """
    return parsed(path, stop_before_pixels=True)


def parsed(path: Path, stop_before_pixels: bool) -> pydicom.Dataset:
    """The data set of a Part 10 file; raises UnusableImage as `read_header` does."""
    try:
        with _Content(io.FileIO(path, opener=_regular)) as content, without_warnings():
            check_structure(content.fileno(), stop_before_pixels)
            ds = pydicom.dcmread(content, stop_before_pixels=stop_before_pixels)
        ds.buffer = None  # or the data set would take the file along in pickles
        len(ds.file_meta)
    except (MemoryError, UnusableImage):
        raise
    except Exception as error:  # pydicom raises what it likes, with values in the text
        raise _unparsable(error) from None
    return ds


def _unparsable(error: Exception) -> UnusableImage:
    """pydicom's complaint without its text, in which values of the data set may stand."""
    if isinstance(error, OSError) and error.errno is not None:
        return UnusableImage(f"the file cannot be read: {error.strerror}", ImageReason.UNREADABLE)
    if isinstance(error, EOFError):
        return UnusableImage(
            "the file is truncated: it ends within a data element; send it again",
            ImageReason.TRUNCATED,
        )
    return UnusableImage(
        f"the file does not parse as DICOM Part 10 ({type(error).__name__}): "
        "it is damaged, or it is not DICOM",
        ImageReason.UNPARSABLE,
    )


def header_of(ds: pydicom.Dataset) -> Header:
    """Every field of Header; never raises on what the sender wrote."""
    attributes = Attributes(ds)
    of_image = _acquired(attributes)
    acquired = of_image or _told(attributes, _OF_OTHERS)
    return Header(
        sop_class_uid=attributes.text("SOPClassUID") or "",
        sop_instance_uid=attributes.text("SOPInstanceUID") or "",
        series_instance_uid=attributes.text("SeriesInstanceUID") or "",
        study_instance_uid=attributes.text("StudyInstanceUID") or "",
        transfer_syntax_uid=_transfer_syntax_uid(ds),
        modality=attributes.code("Modality"),
        # one value, says the standard; who writes two of them names both
        body_part_examined=" ".join(attributes.codes("BodyPartExamined")).strip() or None,
        anatomic_region=_standard(attributes.concept("AnatomicRegionSequence"), _REGIONS),
        view_position=attributes.code("ViewPosition"),
        view_code=_standard(attributes.concept("ViewCodeSequence"), _VIEWS),
        patient_orientation=attributes.codes("PatientOrientation"),
        image_type=attributes.codes("ImageType"),
        presentation_intent_type=attributes.code("PresentationIntentType"),
        quality_control_image=attributes.code("QualityControlImage"),
        patient_species_description=attributes.text("PatientSpeciesDescription"),
        patient_species_code=attributes.concept("PatientSpeciesCodeSequence"),
        patient_age=_age(attributes, acquired),
        patient_sex=attributes.code("PatientSex"),
        acquired=acquired,
        acquired_itself=of_image is not None,
        study_description=attributes.text("StudyDescription"),
        series_description=attributes.text("SeriesDescription"),
        protocol_name=attributes.text("ProtocolName"),
        manufacturer=attributes.text("Manufacturer"),
        manufacturer_model_name=attributes.text("ManufacturerModelName"),
        photometric_interpretation=attributes.code("PhotometricInterpretation"),
        rows=attributes.integer("Rows"),
        columns=attributes.integer("Columns"),
        number_of_frames=attributes.integer("NumberOfFrames") or 1,
        burned_in_annotation=attributes.code("BurnedInAnnotation"),
        is_own_result=is_own(attributes),
    )


def _standard(told: tuple[str, str, str] | None, cid: str) -> tuple[str, str, str] | None:
    """Value, scheme and meaning; the meaning is the standard's, whatever the sender calls it."""
    if told is None:
        return None
    value, scheme, meaning = told
    return value, scheme, _meaning(value, scheme, cid) or meaning


@functools.lru_cache(maxsize=256)
def _meaning(value: str, scheme: str, cid: str) -> str | None:
    """What a context group calls a concept, by its SNOMED code, old or new."""
    # megabytes of codes, which the receiver has no use for
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    code = Code(value, scheme, "")
    known = getattr(codes, cid).concepts.values()
    found = (str(concept.meaning) for concept in known if concept == code)
    return next(found, None)


def _transfer_syntax_uid(ds: pydicom.Dataset) -> str | None:
    meta = getattr(ds, "file_meta", None)
    return None if meta is None else Attributes(meta).text("TransferSyntaxUID")


def _acquired(attributes: Attributes) -> datetime.datetime | None:
    """When this image was acquired, as far as it says so itself."""
    zone = _zone(attributes.text("TimezoneOffsetFromUTC"))
    moment = _datetime(attributes.text("AcquisitionDateTime"), zone)
    return moment or _told(attributes, _OF_IMAGE)


def _told(
    attributes: Attributes, keywords: tuple[tuple[str, str], ...]
) -> datetime.datetime | None:
    """The first date of those, with its time."""
    zone = _zone(attributes.text("TimezoneOffsetFromUTC"))
    for date_keyword, time_keyword in keywords:
        date = _date(attributes.text(date_keyword))
        if date is not None:
            time = _time(attributes.text(time_keyword)) or datetime.time()
            return datetime.datetime.combine(date, time, zone)
    return None


def _datetime(text: str | None, zone: datetime.tzinfo | None) -> datetime.datetime | None:
    match = _DATETIME.fullmatch(text or "")
    if match is None:
        return None
    date, time = _date(match[1]), _time(match[2])
    if date is None:
        return None
    return datetime.datetime.combine(date, time or datetime.time(), _zone(match[3]) or zone)


def _date(text: str | None) -> datetime.date | None:
    match = _DATE.fullmatch(text or "")
    try:
        return datetime.date(int(match[1]), int(match[2]), int(match[3])) if match else None
    except ValueError:
        return None


def _time(text: str | None) -> datetime.time | None:
    match = _TIME.fullmatch(text or "")
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    microsecond = int((match[4] or "").ljust(6, "0"))
    try:
        return datetime.time(hour, minute, min(second, 59), microsecond)  # 60 is a leap second
    except ValueError:
        return None


def _zone(text: str | None) -> datetime.timezone | None:
    match = _OFFSET.fullmatch(text or "")
    if match is None or int(match[2]) > 14 or int(match[3]) > 59:
        return None
    offset = datetime.timedelta(hours=int(match[2]), minutes=int(match[3]))
    return datetime.timezone(-offset if match[1] == "-" else offset)


def _age(attributes: Attributes, acquired: datetime.datetime | None) -> float | None:
    """Years at acquisition, from PatientAge (nnnD, W, M or Y) or else from the birth date."""
    match = _AGE.fullmatch(attributes.code("PatientAge") or "")
    if match is not None:
        return int(match[1]) * _UNITS[match[2]]
    born = _date(attributes.text("PatientBirthDate"))
    if born is None or acquired is None or acquired.date() < born:
        return None
    return (acquired.date() - born).days / _DAYS_A_YEAR
