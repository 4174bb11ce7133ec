"""Screenings → Secondary Captures: the page of a result, for eyes (PS3.3 A.8.1).

One for each image, and where the settings ask for it one more: where the network looked.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import pydicom
from PIL import Image

from prescreen.dicom import wording
from prescreen.dicom.attention_page import Looked
from prescreen.dicom.attention_page import draw as draw_attention
from prescreen.dicom.attributes import Attributes
from prescreen.dicom.codes import SOURCE_IMAGE
from prescreen.dicom.content import concept_item
from prescreen.dicom.elements import Elements, part10, pixel_data_head
from prescreen.dicom.ink import Page
from prescreen.dicom.modules import (
    IMPLEMENTATION,
    local_time,
    patient_and_study,
    put_equipment,
    put_times,
)
from prescreen.dicom.page import draw
from prescreen.dicom.transcoding import beside
from prescreen.settings import Report
from prescreen.study import Anatomy, FloatArray, ImageResult, Model, Outcome, Radiograph

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: Added to the series number of the settings for the pages of where the network looked.
SERIES_OF_ATTENTION = 6


@dataclass(frozen=True)
class Capture:
    """One capture: the DICOM file, and its pixels, uint8, (rows, columns, 3), RGB."""

    part10: bytes
    pixels: Page


@dataclass(frozen=True, eq=False)
class Sheet:
    """What a page is of, and how it is filed; the same sheet gives the same bytes.

    `source` is the image's data set, `result` what is said of it, as the audience may see it;
    `made` is when, and `replaces` when the page that this one replaces was made (aware). Findings
    in `below_bar` are marked as evaluation only. `patient` is the data set that patient, study and
    time zone are taken from, where another one of the study was corrected since.
    """

    source: pydicom.Dataset
    result: ImageResult
    model: Model
    _: KW_ONLY
    settings: Report
    made: datetime.datetime
    series_instance_uid: str
    sop_instance_uid: str
    instance_number: int = 1
    replaces: datetime.datetime | None = None
    below_bar: frozenset[str] = frozenset()
    patient: pydicom.Dataset | None = None

    @property
    def local_made(self) -> datetime.datetime:
        """When it is made, in the time zone that the data set states."""
        return local_time(self._patient, self.made)

    @property
    def local_replaces(self) -> datetime.datetime | None:
        """When the page that it replaces was made, by the same clock."""
        return None if self.replaces is None else local_time(self._patient, self.replaces)

    @property
    def words(self) -> wording.Words:
        """The words of the settings' language that the study's character set has."""
        return wording.fitting(self.settings.language, self._patient)

    @property
    def _patient(self) -> pydicom.Dataset:
        return self.patient or self.source

    def filed(self, pixels: Page, composed: str, title: str, offset: int) -> Capture:
        """The page as a DICOM file; `composed` says in words what it is made of.

        `offset` is added to the series number of the settings. Native Explicit VR Little Endian:
        RLE would halve the bytes and take four times the processor time of all the rest.
        """
        elements = patient_and_study(self._patient, self.result.header.study_instance_uid)
        elements.put("SOPClassUID", SECONDARY_CAPTURE)
        elements.put("SOPInstanceUID", self.sop_instance_uid)
        put_times(elements, self.local_made)
        put_equipment(elements, self.settings.manufacturer, self.model, self.local_made)
        _put_series(elements, beside(self.source, self._patient), title)
        elements.put("SeriesInstanceUID", self.series_instance_uid)
        elements.put("SeriesNumber", str(self.settings.series_number + offset))
        banner = self.words.catalogue.says.banner
        elements.put("DerivationDescription", f"{banner}: {composed}".encode())
        _put_image(elements, self.source, self.result, self.instance_number)
        _put_pixel_description(elements, pixels)
        # Pixel Data is the last element: five megabytes that are copied once, not at every joint
        encoded = (elements.encoded(), pixel_data_head(pixels.nbytes), pixels.data)
        file = part10(SECONDARY_CAPTURE, self.sop_instance_uid, IMPLEMENTATION, encoded)
        return Capture(file, pixels)


def capture(sheet: Sheet, radiograph: Radiograph | None, anatomy: Anatomy | None) -> Capture:
    """The capture of one image.

    Where it is not screened the page is a notice that says so and why, with the radiograph if there
    is one.
    """
    pixels = draw(
        sheet.result,
        radiograph,
        anatomy,
        sheet.model,
        sheet.settings,
        sheet.local_made,
        replaces=sheet.local_replaces,
        below_bar=sheet.below_bar,
    )
    words = sheet.words.catalogue
    is_screened = sheet.result.outcome is Outcome.SCREENED
    title = words.titles.capture if is_screened else words.titles.notice
    return sheet.filed(pixels, words.says.composed, title, 1)


def attention_capture(
    sheet: Sheet,
    radiograph: Radiograph,
    maps: Mapping[str, FloatArray],
    number: tuple[int, int] = (1, 1),
) -> Capture:
    """A page of where the network looked, in a series of its own.

    Many viewers list a series under the picture of one of its images: under that of the findings
    stands what was found.
    `maps` are attention maps, (h, w) of 0…1, that may leave, by label and in order; `number` is
    which of how many such pages it is.
    """
    looked = Looked(
        sheet.result,
        maps,
        sheet.model,
        sheet.local_made,
        sheet.local_replaces,
        sheet.below_bar,
        number,
    )
    pixels = draw_attention(looked, radiograph, sheet.settings)
    words = sheet.words.catalogue
    composed, title = words.looked.composed, words.titles.capture_looked
    return sheet.filed(pixels, composed, title, SERIES_OF_ATTENTION)


def png(pixels: Page) -> bytes:
    """The page as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def _put_series(elements: Elements, source: pydicom.Dataset, description: str) -> None:
    """General Series (C.7.3.1) and SC Equipment (C.8.6.1). No Laterality: the chest has none."""
    elements.put("Modality", "OT")
    elements.put("SeriesDescription", description.encode())
    elements.put("BodyPartExamined", "CHEST")
    elements.put("ConversionType", "WSD")
    elements.copy(source, ["ReferencedRequestSequence", "RequestAttributesSequence"])


def _put_image(
    elements: Elements, source: pydicom.Dataset, result: ImageResult, instance_number: int
) -> None:
    """General Image (C.7.6.1) and SC Image (C.8.6.2).

    No Pixel Spacing, and Patient Orientation (type 2C) empty: a page is not in the patient's space.
    BurnedInAnnotation is about identifying the patient, so it is the source's: we add no such
    text, and the radiograph may hold some.
    """
    reference = Elements(
        ReferencedSOPClassUID=result.header.sop_class_uid,
        ReferencedSOPInstanceUID=result.header.sop_instance_uid,
        PurposeOfReferenceCodeSequence=[concept_item(SOURCE_IMAGE)],
    )
    elements.put("InstanceNumber", str(instance_number))
    elements.put("PatientOrientation", "")
    elements.put("ImageType", "DERIVED\\SECONDARY")
    elements.put("SourceImageSequence", [reference.item()])
    elements.put("ContentQualification", "RESEARCH")
    burned_in = Attributes(source).code("BurnedInAnnotation")
    if burned_in in ("YES", "NO"):
        elements.put("BurnedInAnnotation", burned_in)
    if Attributes(source).code("LossyImageCompression") == "01":
        elements.copy(source, ["LossyImageCompression", "LossyImageCompressionRatio"])
        elements.copy(source, ["LossyImageCompressionMethod"])


def _put_pixel_description(elements: Elements, pixels: Page) -> None:
    """Image Pixel (C.7.6.3): RGB, 8 bits, by pixel."""
    rows, columns, samples = pixels.shape
    elements.put("SamplesPerPixel", samples)
    elements.put("PhotometricInterpretation", "RGB")
    elements.put("PlanarConfiguration", 0)
    elements.put("Rows", rows)
    elements.put("Columns", columns)
    elements.put("BitsAllocated", 8)
    elements.put("BitsStored", 8)
    elements.put("HighBit", 7)
    elements.put("PixelRepresentation", 0)
