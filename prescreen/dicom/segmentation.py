"""Screening → a segmentation of one image: left lung, right lung and heart (PS3.3 A.51).

Binary, one frame an organ, on the grid of the image itself, as viewers want it. Where the image
states the size of its pixels and which way it faces, the segments lie on a plane in a frame of
reference of their own, without which OHIF and 3D Slicer show none; its origin means nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pydicom

from prescreen.dicom import codes, wording
from prescreen.dicom.attributes import Attributes
from prescreen.dicom.codes import Concept
from prescreen.dicom.content import concept_item, reference_item
from prescreen.dicom.document import Document
from prescreen.dicom.elements import Elements, part10, pixel_data_head
from prescreen.dicom.groups import tracking
from prescreen.dicom.language import Titles
from prescreen.dicom.modules import (
    IMPLEMENTATION,
    local_time,
    patient_and_study,
    put_equipment,
    put_times,
)
from prescreen.dicom.regions import ORGANS
from prescreen.study import Anatomy, BoolArray, Header, ImageResult, Model

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"

#: L*, a*, b* as PCS values (PS3.3 C.10.7.1.1): blue for the lungs, red for the heart.
_COLOURS = ((47_500, 28_000, 20_000), (47_500, 26_000, 24_000), (36_000, 45_000, 38_000))


def segmentation(
    document: Document, anatomy: Anatomy, *, patient: pydicom.Dataset | None = None
) -> bytes:
    """The segmentation of the document's one image; the same arguments give the same bytes.

    At least one mask is not empty; empty ones are left out. `patient` is the data set that patient,
    study and time zone are taken from, where another one of the study was corrected since.
    """
    source, result = document.sources[0], document.results[0]
    titles = wording.fitting(document.settings.language, patient or source).catalogue.titles
    found = [place for place, mask in enumerate(anatomy.masks) if mask.any()]
    local = local_time(patient or source, document.made)
    elements = patient_and_study(patient or source, result.header.study_instance_uid)
    elements.put("SOPClassUID", SEGMENTATION)
    elements.put("SOPInstanceUID", document.sop_instance_uid)
    put_times(elements, local)
    put_equipment(elements, document.settings.manufacturer, document.model, local)
    elements.put("DeviceSerialNumber", document.model.lungs_heart.sha256[:16])
    document.put_series(elements, "SEG", 5, titles.segmentation)
    plane = _plane(source, result.pixel_spacing)
    if plane is not None:
        _, frame = tracking(result.header.sop_instance_uid, "Plane")
        elements.put("FrameOfReferenceUID", frame)
        elements.put("PositionReferenceIndicator", "")
    elements.copy(source, ["PatientOrientation"])
    elements.put_default("PatientOrientation")
    _put_image(elements, result.header, len(found), titles.segmentation)
    _put_segments(elements, result, document, found, titles)
    _put_frames(elements, result.header, plane, document.sop_instance_uid, len(found))
    bits = _bits(anatomy.masks[found], result.header)
    encoded = (elements.encoded(), pixel_data_head(bits.nbytes), bits.data)
    return part10(SEGMENTATION, document.sop_instance_uid, IMPLEMENTATION, encoded)


def _put_image(elements: Elements, header: Header, frames: int, title: str) -> None:
    """Segmentation Image and Common Instance Reference (C.8.20.2, C.12.2)."""
    elements.put("ImageType", "DERIVED\\PRIMARY")
    elements.put("ContentLabel", "LUNGS_AND_HEART")
    elements.put("ContentDescription", title.encode())
    elements.put("ContentCreatorName", "")
    elements.put("SamplesPerPixel", 1)
    elements.put("PhotometricInterpretation", "MONOCHROME2")
    elements.put("NumberOfFrames", str(frames))
    elements.put("Rows", header.rows or 0)
    elements.put("Columns", header.columns or 0)
    elements.put("BitsAllocated", 1)
    elements.put("BitsStored", 1)
    elements.put("HighBit", 0)
    elements.put("PixelRepresentation", 0)
    elements.put("LossyImageCompression", "00")
    elements.put("SegmentationType", "BINARY")
    elements.put("SegmentsOverlap", "NO")
    series = Elements(
        SeriesInstanceUID=header.series_instance_uid,
        ReferencedInstanceSequence=[reference_item(header.sop_class_uid, header.sop_instance_uid)],
    )
    elements.put("ReferencedSeriesSequence", [series.item()])


def _put_segments(
    elements: Elements,
    result: ImageResult,
    document: Document,
    found: Sequence[int],
    titles: Titles,
) -> None:
    model, manufacturer = document.model, document.settings.manufacturer
    labels = (titles.left_lung, titles.right_lung, titles.heart)
    segments = []
    for number, place in enumerate(found, start=1):
        subject, organ, side = ORGANS[place]
        segment = _segment(result, model, manufacturer, subject, organ, side)
        segment.put("SegmentNumber", number)
        segment.put("SegmentLabel", labels[place].encode())
        segment.put("RecommendedDisplayCIELabValue", struct.pack("<3H", *_COLOURS[place]))
        segments.append(segment.item())
    elements.put("SegmentSequence", segments)


def _segment(
    result: ImageResult,
    model: Model,
    manufacturer: str,
    subject: str,
    organ: Concept,
    side: Concept | None,
) -> Elements:
    """One organ (C.8.20.4), tracked as its outline in the regions is."""
    network = model.lungs_heart
    identifier, unique_identifier = tracking(result.header.sop_instance_uid, subject)
    kind = Elements(**_coded(organ))
    if side is not None:
        kind.put("SegmentedPropertyTypeModifierCodeSequence", [concept_item(side)])
    algorithm = Elements(
        AlgorithmFamilyCodeSequence=[concept_item(codes.ARTIFICIAL_INTELLIGENCE)],
        AlgorithmName=network.name[:64],
        AlgorithmVersion=network.version[:64],
        AlgorithmParameters=f"weights sha256 {network.sha256}",
        AlgorithmSource=manufacturer,
    )
    return Elements(
        SegmentAlgorithmType="AUTOMATIC",
        SegmentAlgorithmName=f"{network.name} {network.version}"[:64],
        SegmentationAlgorithmIdentificationSequence=[algorithm.item()],
        SegmentedPropertyCategoryCodeSequence=[concept_item(codes.ANATOMICAL_STRUCTURE)],
        SegmentedPropertyTypeCodeSequence=[kind.item()],
        TrackingID=identifier,
        TrackingUID=unique_identifier,
    )


def _coded(concept: Concept) -> dict[str, str]:
    return {
        "CodeValue": concept.value,
        "CodingSchemeDesignator": concept.scheme,
        "CodeMeaning": concept.meaning,
    }


def _put_frames(
    elements: Elements,
    header: Header,
    plane: Plane | None,
    sop_instance_uid: str,
    frames: int,
) -> None:
    """Multi-frame Functional Groups and Dimension (C.7.6.16, C.7.6.17): by segment alone."""
    _, organization = tracking(sop_instance_uid, "Segment numbers")
    segment_number, identification = struct.pack("<2H", 0x62, 0x0B), struct.pack("<2H", 0x62, 0x0A)
    index = Elements(
        DimensionOrganizationUID=organization,
        DimensionIndexPointer=segment_number,
        FunctionalGroupPointer=identification,
        DimensionDescriptionLabel="Segment Number",
    )
    organizations = [Elements(DimensionOrganizationUID=organization).item()]
    elements.put("DimensionOrganizationSequence", organizations)
    elements.put("DimensionIndexSequence", [index.item()])
    elements.put("SharedFunctionalGroupsSequence", [_shared(plane)])
    groups = [_of_frame(number, header, plane) for number in range(1, frames + 1)]
    elements.put("PerFrameFunctionalGroupsSequence", groups)


@dataclass(frozen=True)
class Plane:
    """The size of pixels (rows, columns) in mm, and the directions of rows and columns as text."""

    spacing: tuple[float, float]
    orientation: str


def _plane(source: pydicom.Dataset, spacing: tuple[float, float] | None) -> Plane | None:
    """How the image lies in the patient (PS3.3 C.7.6.1.1.1), None where it does not say."""
    ways = [_TOWARDS.get(way.upper()) for way in Attributes(source).texts("PatientOrientation")]
    if spacing is None or len(ways) != 2 or None in ways or ways[0] == ways[1]:
        return None
    return Plane(spacing, "\\".join(str(way) for way in ways))


#: Unit vectors towards left, head and back of the patient, and away from them (PS3.3 C.7.6.2.1.1).
_TOWARDS = {
    "L": "1\\0\\0",
    "R": "-1\\0\\0",
    "P": "0\\1\\0",
    "A": "0\\-1\\0",
    "H": "0\\0\\1",
    "F": "0\\0\\-1",
}


def _shared(plane: Plane | None) -> bytes:
    """Size of the pixels and orientation of the plane, where they are known."""
    if plane is None:
        return Elements().item()
    size = f"{plane.spacing[0]:.6g}\\{plane.spacing[1]:.6g}"
    measures = Elements(PixelSpacing=size, SliceThickness="1")
    orientation = Elements(ImageOrientationPatient=plane.orientation)
    return Elements(
        PixelMeasuresSequence=[measures.item()], PlaneOrientationSequence=[orientation.item()]
    ).item()


def _of_frame(number: int, header: Header, plane: Plane | None) -> bytes:
    """Which segment a frame is, and what it is derived from."""
    content = Elements(DimensionIndexValues=struct.pack("<I", number))
    identified = Elements(ReferencedSegmentNumber=number)
    source = Elements(
        ReferencedSOPClassUID=header.sop_class_uid,
        ReferencedSOPInstanceUID=header.sop_instance_uid,
        PurposeOfReferenceCodeSequence=[concept_item(codes.SOURCE_IMAGE)],
        SpatialLocationsPreserved="YES",
    )
    derivation = Elements(
        SourceImageSequence=[source.item()],
        DerivationCodeSequence=[concept_item(codes.SEGMENTATION)],
    )
    groups = Elements(
        DerivationImageSequence=[derivation.item()],
        FrameContentSequence=[content.item()],
        SegmentIdentificationSequence=[identified.item()],
    )
    if plane is not None:
        position = Elements(ImagePositionPatient="0\\0\\0")
        groups.put("PlanePositionSequence", [position.item()])
    return groups.item()


def _bits(masks: BoolArray, header: Header) -> npt.NDArray[np.uint8]:
    """The masks at the size of the image, eight pixels a byte, the first the lowest (PS3.5 8.2)."""
    rows, columns = header.rows or 0, header.columns or 0
    down = (np.arange(rows) + 0.5) / rows * masks.shape[1]
    across = (np.arange(columns) + 0.5) / columns * masks.shape[2]
    large = masks[:, down.astype(np.intp)][:, :, across.astype(np.intp)]
    bits = np.packbits(large.reshape(-1), bitorder="little")
    return np.pad(bits, (0, bits.size % 2))
