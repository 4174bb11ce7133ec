"""What every structured report of ours has in common: its modules, its context, its images.

PS3.3 A.35: SR Document Series, SR Document General and the root of SR Document Content, with the
observer, the language and the procedure (TID 1001, 1204) and the image library (TID 1600) that
stand first in the tree.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import pydicom

from prescreen.dicom import codes, wording
from prescreen.dicom.attributes import Attributes
from prescreen.dicom.codes import Concept
from prescreen.dicom.content import (
    CONTAINS,
    HAS_ACQ_CONTEXT,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    code,
    code_taken_over,
    concept_item,
    container,
    image,
    number,
    reference_item,
    template_item,
    text,
    uid_reference,
)
from prescreen.dicom.elements import Elements, copied_items, part10
from prescreen.dicom.language import Titles
from prescreen.dicom.modules import (
    IMPLEMENTATION,
    local_time,
    patient_and_study,
    put_coding_scheme,
    put_equipment,
    put_times,
)
from prescreen.dicom.origin import OWN_MODEL
from prescreen.dicom.wording import Words
from prescreen.errors import PrescreenError
from prescreen.settings import Report
from prescreen.study import ImageResult, Model, Outcome

#: Which findings of an image are marked as evaluation only: that depends on its view.
BelowBar = Callable[[ImageResult], frozenset[str]]


def none_below(result: ImageResult) -> frozenset[str]:
    """No finding is marked, whatever the image."""
    return frozenset()


@dataclass(frozen=True)
class Predecessor:
    """An earlier report of the study, for Predecessor Documents (PS3.3 C.17.2).

    `addended` where the new report adds an image to it and leaves the rest as it is, otherwise it
    replaces it (CID 7009).
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    addended: bool = False

    @property
    def purpose(self) -> Concept:
        return codes.ADDENDED_REPORT if self.addended else codes.REPLACED_REPORT


@dataclass(frozen=True)
class Kind:
    """One kind of document: its SOP class, its title, its template, and where its series stands.

    `offset` is added to the series number of the settings, so that each kind has a series of its
    own; `description` finds that of the series among the titles of a language.
    """

    sop_class_uid: str
    title: Concept
    template: str | None
    offset: int
    description: Callable[[Titles], str]


@dataclass(frozen=True, eq=False)
class Document:
    """One document on its way: what it speaks of, by whom and when.

    `sources` are data sets of the images (pixels are not read); the first gives patient and
    study. `results` are as the audience may see them, one an image. Raises PrescreenError where
    there is no source or no result.
    """

    sources: Sequence[pydicom.Dataset]
    results: Sequence[ImageResult]
    model: Model
    settings: Report
    made: datetime.datetime
    series_instance_uid: str
    sop_instance_uid: str
    predecessors: Sequence[Predecessor] = ()
    #: what the predecessors said of images, as the audience may see it today
    earlier: Sequence[ImageResult] = ()

    def __post_init__(self) -> None:
        if not self.sources or not self.results:
            raise PrescreenError("a report needs at least one image that parses")

    @functools.cached_property
    def words(self) -> Words:
        """The words of the settings' language that fit the character set of the patient's name."""
        return wording.fitting(self.settings.language, self.sources[0])

    def changes(self, result: ImageResult) -> str | None:
        """What this document says of an image otherwise than its predecessor; None without one.

        An answer that was carried over is the same.
        """
        if not self.predecessors or result.carried_over:
            return None
        known = {earlier.header.sop_instance_uid: earlier for earlier in self.earlier}
        return self.words.changes(known.get(result.header.sop_instance_uid), result)

    def by_urgency(self, result: ImageResult) -> ImageResult:
        """The result with its findings in the order in which they are told."""
        findings = wording.ordered(result.findings, self.settings.urgency)
        return replace(result, findings=tuple(findings))

    def part10(self, kind: Kind, content: Iterable[bytes]) -> bytes:
        """The document with `content` in its root, as a DICOM file."""
        source = self.sources[0]
        local = local_time(source, self.made)
        elements = patient_and_study(source, self.results[0].header.study_instance_uid)
        elements.put("SOPClassUID", kind.sop_class_uid)
        elements.put("SOPInstanceUID", self.sop_instance_uid)
        put_times(elements, local)
        earlier = [result.network for result in self.results if result.network is not None]
        put_equipment(elements, self.settings.manufacturer, self.model, local, earlier)
        put_coding_scheme(elements, self.settings.manufacturer)
        self._put_document_series(elements, kind)
        self._put_general(elements)
        _put_root(elements, kind, self.words)
        elements.put("ContentSequence", content)
        encoded = [elements.encoded()]
        return part10(kind.sop_class_uid, self.sop_instance_uid, IMPLEMENTATION, encoded)

    def context(self) -> list[bytes]:
        """Language (TID 1204), the device observer (TID 1004), procedure (TID 1500 rows 2 to 4)."""
        network = self.model.findings
        observer, manufacturer = codes.DEVICE_OBSERVER_UID, self.settings.manufacturer
        return [
            code(HAS_CONCEPT_MOD, codes.LANGUAGE, self.words.language),
            code(HAS_OBS_CONTEXT, codes.OBSERVER_TYPE, codes.DEVICE),
            uid_reference(HAS_OBS_CONTEXT, observer, network.device_uid),
            text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_NAME, OWN_MODEL),
            text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MANUFACTURER, manufacturer),
            text(HAS_OBS_CONTEXT, codes.DEVICE_OBSERVER_MODEL_NAME, network.name),
            _procedure_reported(self.sources[0]),
        ]

    def put_series(self, elements: Elements, modality: str, offset: int, description: str) -> None:
        """General Series (C.7.3.1); `offset` is added to the series number of the settings."""
        elements.put("Modality", modality)
        elements.put("SeriesInstanceUID", self.series_instance_uid)
        elements.put("SeriesNumber", str(self.settings.series_number + offset))
        elements.put("SeriesDescription", description.encode())
        elements.put("InstanceNumber", "1")

    def _put_document_series(self, elements: Elements, kind: Kind) -> None:
        """SR Document Series (C.17.1)."""
        is_notice = all(result.outcome is not Outcome.SCREENED for result in self.results)
        titles = self.words.catalogue.titles
        description = titles.notice if is_notice else kind.description(titles)
        self.put_series(elements, "SR", kind.offset, description)
        elements.put("ReferencedPerformedProcedureStepSequence", [])

    def _put_general(self, elements: Elements) -> None:
        """SR Document General (C.17.2)."""
        _put_completion(elements, self.results, self.words)
        elements.put("VerificationFlag", "UNVERIFIED")
        elements.put("PreliminaryFlag", "PRELIMINARY")
        if self.predecessors:
            documents = [_predecessor(p) for p in self.predecessors]
            elements.put("PredecessorDocumentsSequence", documents)
        elements.copy(self.sources[0], ["ReferencedRequestSequence"])
        elements.put("PerformedProcedureCodeSequence", [])
        elements.put("CurrentRequestedProcedureEvidenceSequence", evidence(self.results))


def _put_root(elements: Elements, kind: Kind, words: Words) -> None:
    """The root of SR Document Content (C.17.3)."""
    elements.put("ValueType", "CONTAINER")
    elements.put("ConceptNameCodeSequence", [concept_item(words.heading(kind.title))])
    elements.put("ContinuityOfContent", "SEPARATE")
    if kind.template is not None:
        elements.put("ContentTemplateSequence", [template_item(kind.template)])


def _put_completion(elements: Elements, results: Sequence[ImageResult], words: Words) -> None:
    """PARTIAL where an image in scope was not screened; a lateral is none of those."""
    missing = sum(wording.left_out(result) for result in results)
    elements.put("CompletionFlag", "PARTIAL" if missing else "COMPLETE")
    if missing:
        said = words.catalogue.says.images_not_screened.format(number=missing, all=len(results))
        elements.put("CompletionFlagDescription", said.encode())


def _predecessor(predecessor: Predecessor) -> bytes:
    """One item of Predecessor Documents with its purpose (C.17.2.3, table C.17-3)."""
    document = Elements(
        ReferencedSOPClassUID=predecessor.sop_class_uid,
        ReferencedSOPInstanceUID=predecessor.sop_instance_uid,
        PurposeOfReferenceCodeSequence=[concept_item(predecessor.purpose)],
    )
    series = Elements(
        ReferencedSOPSequence=[document.item()],
        SeriesInstanceUID=predecessor.series_instance_uid,
    )
    return Elements(
        ReferencedSeriesSequence=[series.item()],
        StudyInstanceUID=predecessor.study_instance_uid,
    ).item()


def evidence(results: Sequence[ImageResult]) -> list[bytes]:
    """All images spoken of, by study and series (C.17.2.3)."""
    headers = sorted(
        (result.header for result in results),
        key=lambda h: (h.study_instance_uid, h.series_instance_uid, h.sop_instance_uid),
    )
    return [
        Elements(
            StudyInstanceUID=study,
            ReferencedSeriesSequence=[
                Elements(
                    SeriesInstanceUID=series,
                    ReferencedSOPSequence=[
                        reference_item(h.sop_class_uid, h.sop_instance_uid) for h in of_series
                    ],
                ).item()
                for series, of_series in groupby(of_study, lambda h: h.series_instance_uid)
            ],
        ).item()
        for study, of_study in groupby(headers, lambda h: h.study_instance_uid)
    ]


def _procedure_reported(source: pydicom.Dataset) -> bytes:
    """What the archive calls the procedure, or a local code where it says nothing complete."""
    keyword = "ProcedureCodeSequence"
    described = Attributes(source).items(keyword)
    for item, encoded in zip(described, copied_items(source, keyword), strict=False):
        if all(item.text(k) for k in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")):
            return code_taken_over(HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, encoded)
    return code(HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, codes.CHEST_RADIOGRAPH)


def image_library(results: Sequence[ImageResult]) -> bytes:
    """TID 1600, its entries with modality, rows and columns (TID 1601, 1602)."""
    entries = [_library_entry(result) for result in results]
    group = container(CONTAINS, codes.IMAGE_LIBRARY_GROUP, entries)
    return container(CONTAINS, codes.IMAGE_LIBRARY, [group])


def _library_entry(result: ImageResult) -> bytes:
    header = result.header
    modality = codes.MODALITIES.get(header.modality or "", codes.MODALITIES["OT"])
    described = [code(HAS_ACQ_CONTEXT, codes.MODALITY, modality)]
    sizes = ((codes.PIXEL_DATA_ROWS, header.rows), (codes.PIXEL_DATA_COLUMNS, header.columns))
    for name, size in sizes:
        if size:
            described.append(number(HAS_ACQ_CONTEXT, name, size, codes.PIXELS, 0))
    return image(CONTAINS, codes.SOURCE, header.sop_class_uid, header.sop_instance_uid, described)
