"""The objects of one study for one audience: which there are, and what they are made with."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prescreen.audience import attention_of, for_audience, reaches_bar
from prescreen.dicom import capture, narrative, presentation, regions, report, segmentation
from prescreen.dicom.attention_page import portions
from prescreen.dicom.attributes import Attributes
from prescreen.dicom.capture import Sheet
from prescreen.dicom.document import Document, Predecessor
from prescreen.dicom.language import ENGLISH
from prescreen.dicom.transcoding import in_unicode
from prescreen.dicom.wording import is_other_view
from prescreen.lightbox import Image
from prescreen.settings import MODERN, Report
from prescreen.study import (
    ANOTHER_PATIENT,
    LABELS,
    Anatomy,
    Audience,
    FloatArray,
    ImageResult,
    Model,
    Outcome,
    ResultObject,
    generate_uid,
)


@dataclass(frozen=True)
class Replaced:
    """The objects of this study and audience that came before, by kind.

    `made` is when their job was settled.
    """

    by_kind: Mapping[str, ResultObject]
    made: datetime.datetime | None


@dataclass(frozen=True)
class Edition:
    """What all objects of one study for one audience share; `made` is aware."""

    model: Model
    settings: Report
    audience: Audience
    made: datetime.datetime
    held: frozenset[str] = frozenset()
    replaced: Replaced | None = None
    kinds: frozenset[str] = frozenset(MODERN)

    def shown(self, result: ImageResult) -> ImageResult:
        """The result as this audience may see it."""
        return for_audience(result, self.model, self.audience, self.settings, self.held)

    def below_bar(self, result: ImageResult) -> frozenset[str]:
        """Labels to be marked as evaluation only on an image of this view."""
        model, view = self.model.behind(result), result.header.view
        return frozenset(
            label for label in LABELS if not reaches_bar(model, label, view, self.settings)
        )


@dataclass(frozen=True, eq=False)
class Written:
    """One object: what it is, its Part 10 bytes, and its page (RGB pixels) where it has one."""

    described: ResultObject
    part10: bytes
    page: Any = None


@dataclass(frozen=True, eq=False)
class _Study:
    """The images of one study with what this audience may see of them.

    `images` have a source each, oldest first; `shown` is said of them, `kept` of images that only
    earlier reports spoke of.
    """

    images: Sequence[Image]
    shown: Sequence[ImageResult]
    kept: Sequence[ImageResult]
    edition: Edition
    #: what earlier reports said, of the images at hand too
    earlier: Sequence[ImageResult] = ()

    @property
    def anatomies(self) -> Mapping[str, Anatomy]:
        """Lungs and heart of the images that were screened, by SOP Instance UID."""
        return {
            result.header.sop_instance_uid: image.screening.anatomy
            for image, result in zip(self.images, self.shown, strict=True)
            if image.screening is not None and result.outcome is Outcome.SCREENED
        }

    @property
    def attention(self) -> dict[str, Mapping[str, FloatArray]]:
        """The attention maps that may leave, by SOP Instance UID of images that have any."""
        settings = self.edition.settings
        found = {
            result.header.sop_instance_uid: attention_of(result, image.screening, settings)
            for image, result in zip(self.images, self.shown, strict=True)
            if image.screening is not None and result.outcome is Outcome.SCREENED
        }
        return {uid: maps for uid, maps in found.items() if maps}

    def document(self, item: ResultObject, results: Sequence[ImageResult]) -> Document:
        """A document that speaks of `results`.

        Patient and study are those of the newest image, which carries the corrections.
        """
        edition = self.edition
        return Document(
            [image.source for image in reversed(self.images)],
            results,
            edition.model,
            edition.settings,
            edition.made,
            item.series_instance_uid,
            item.sop_instance_uid,
            self._predecessors(item.kind),
            self.earlier,
        )

    def _predecessors(self, kind: str) -> list[Predecessor]:
        replaced = self.edition.replaced
        before = replaced.by_kind.get(kind) if replaced else None
        if before is None:
            return []
        study = self.shown[0].header.study_instance_uid
        uids = (before.sop_class_uid, before.sop_instance_uid, before.series_instance_uid)
        return [Predecessor(*uids, study, addended=self._is_addition)]

    @property
    def _is_addition(self) -> bool:
        """Whether what was said before stands: it is carried over, and of no image said anew."""
        told = {result.header.sop_instance_uid for result in self.earlier}
        said = {result.header.sop_instance_uid for result in self.shown}
        stands = bool(self.kept) and not any(map(_is_of_another, self.kept))
        return stands and not told & said


def carried_over(new: Sequence[ImageResult], earlier: Sequence[ImageResult]) -> list[ImageResult]:
    """Of earlier answers those on images that are not answered anew."""
    uids = {result.header.sop_instance_uid for result in new}
    return [result for result in earlier if result.header.sop_instance_uid not in uids]


def objects(
    images: Sequence[Image], edition: Edition, earlier: Sequence[ImageResult] = ()
) -> Iterator[Written]:
    """The documents of one study, then what there is of each of its images that is in scope.

    `images` have a source each, oldest first. `earlier` are the answers of the study's earlier
    reports: those on images that are not among `images` are carried over.
    """
    if edition.settings.language != ENGLISH or _are_mixed(images):
        images = [_in_unicode(image) for image in images]
    kept = carried_over([image.result for image in images], earlier)
    shown = [edition.shown(image.result) for image in images]
    before = [edition.shown(result) for result in earlier]
    study = _Study(images, shown, [edition.shown(result) for result in kept], edition, before)
    for kind, document in _DOCUMENTS.items():
        if kind in edition.kinds:
            yield from document(study)
    if "capture" in edition.kinds:
        yield from _captures(study)
    for kind, overlay in _OVERLAYS.items():
        if kind in edition.kinds:
            yield from overlay(study)


def _are_mixed(images: Sequence[Image]) -> bool:
    """Whether the images are in several character sets: an object may have text of two of them."""
    return len({Attributes(image.source).text("SpecificCharacterSet") for image in images}) > 1


def _in_unicode(image: Image) -> Image:
    """Words beyond ASCII need a data set whose character set has them, all of it."""
    return replace(image, source=in_unicode(image.source))


def _sr(study: _Study) -> Iterator[Written]:
    item = _described("sr", report.COMPREHENSIVE_3D_SR, study.edition, "report")
    document = study.document(item, [*study.shown, *study.kept])
    yield Written(item, report.measurement_report(document, study.edition.below_bar))


def _regions(study: _Study) -> Iterator[Written]:
    """Of the images at hand; those of an earlier report have theirs."""
    anatomies, attention = study.anatomies, study.attention
    drawn = [result for result in study.shown if result.header.sop_instance_uid in anatomies]
    if attention or regions.has_regions(drawn, anatomies):
        item = _described("regions", report.COMPREHENSIVE_3D_SR, study.edition, "regions")
        document, below_bar = study.document(item, drawn), study.edition.below_bar
        yield Written(item, regions.regions_report(document, anatomies, attention, below_bar))


def _text(study: _Study) -> Iterator[Written]:
    item = _described("text", narrative.BASIC_TEXT_SR, study.edition, "text")
    document = study.document(item, [*study.shown, *study.kept])
    yield Written(item, narrative.narrative_report(document, study.edition.below_bar))


_DOCUMENTS = {"sr": _sr, "regions": _regions, "text": _text}


def _described(kind: str, sop_class_uid: str, edition: Edition, name: str) -> ResultObject:
    """A document of its own series; one that an archive may refuse has a UID to fall back to."""
    falls_back = sop_class_uid == report.COMPREHENSIVE_3D_SR
    return ResultObject(
        kind=kind,
        audience=edition.audience,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=generate_uid(),
        series_instance_uid=generate_uid(),
        file_name=f"{edition.audience}-{name}.dcm",
        fallback_sop_instance_uid=generate_uid() if falls_back else None,
    )


def _presentations(study: _Study) -> Iterator[Written]:
    """Of an image whose way to the screen is a table there is none: it would look otherwise."""
    kind, uid = "presentation", presentation.GRAYSCALE_PRESENTATION_STATE
    for item, image, document in _overlays(study, kind, uid):
        if presentation.can_be_presented(image.source):
            anatomy = study.anatomies[document.results[0].header.sop_instance_uid]
            patient = study.images[-1].source
            yield Written(item, presentation.presentation_state(document, anatomy, patient=patient))


def _segmentations(study: _Study) -> Iterator[Written]:
    kind, uid = "segmentation", segmentation.SEGMENTATION
    for item, _, document in _overlays(study, kind, uid):
        anatomy = study.anatomies[document.results[0].header.sop_instance_uid]
        if anatomy.masks.any():
            patient = study.images[-1].source
            yield Written(item, segmentation.segmentation(document, anatomy, patient=patient))


_OVERLAYS = {"presentation": _presentations, "segmentation": _segmentations}


def _overlays(
    study: _Study, kind: str, sop_class_uid: str
) -> Iterator[tuple[ResultObject, Image, Document]]:
    """One object for each image that was screened; an image each, so a series each."""
    anatomies = study.anatomies
    for number, (image, result) in enumerate(zip(study.images, study.shown, strict=True), start=1):
        uid = result.header.sop_instance_uid
        if uid in anatomies:
            item = _described(kind, sop_class_uid, study.edition, f"{kind}-{number}")
            item = replace(item, source_sop_instance_uid=uid)
            document = study.document(item, [result])
            yield item, image, replace(document, sources=[image.source], predecessors=())


def _captures(study: _Study) -> Iterator[Written]:
    """Beside a frontal image that was screened a lateral one stands in the report alone.

    It needs no notice. The pages of where the network looked come after all others, in a series of
    their own.
    """
    series = generate_uid()
    results = [*study.shown, *study.kept]
    is_screened = any(result.outcome is Outcome.SCREENED for result in results)
    for number, (image, result) in enumerate(zip(study.images, study.shown, strict=True), start=1):
        listed_only = is_screened and is_other_view(result)
        if result.outcome is not Outcome.OUT_OF_SCOPE and not listed_only:
            yield _capture(study, image, result, series, number)
    yield from _attention_captures(study)


def _page(
    edition: Edition, result: ImageResult, series: str, number: int, name: str = "capture"
) -> ResultObject:
    return ResultObject(
        kind="capture",
        audience=edition.audience,
        sop_class_uid=capture.SECONDARY_CAPTURE,
        sop_instance_uid=generate_uid(),
        series_instance_uid=series,
        file_name=f"{edition.audience}-{name}-{number}.dcm",
        source_sop_instance_uid=result.header.sop_instance_uid,
    )


def _sheet(
    study: _Study, item: ResultObject, image: Image, result: ImageResult, number: int
) -> Sheet:
    """What a page of an image is made with, whatever it shows."""
    edition, patient = study.edition, study.images[-1].source
    return Sheet(
        patient if _is_of_another(result) else image.source,
        result,
        edition.model,
        settings=edition.settings,
        made=edition.made,
        series_instance_uid=item.series_instance_uid,
        sop_instance_uid=item.sop_instance_uid,
        instance_number=number,
        replaces=edition.replaced.made if edition.replaced else None,
        below_bar=edition.below_bar(result),
        patient=patient,
    )


def _is_of_another(result: ImageResult) -> bool:
    """Whether the image is of another patient than the page: nothing of it is shown there."""
    return result.reason == ANOTHER_PATIENT


def _capture(study: _Study, image: Image, result: ImageResult, series: str, number: int) -> Written:
    item = _page(study.edition, result, series, number)
    anatomy = image.screening.anatomy if image.screening else None
    sheet = _sheet(study, item, image, result, number)
    picture = None if _is_of_another(result) else image.picture()
    page = capture.capture(sheet, picture, anatomy)
    return Written(item, page.part10, page.pixels)


def _attention_captures(study: _Study) -> Iterator[Written]:
    """The pages of where the network looked at each image; they need its picture."""
    series, attention, numbers = generate_uid(), study.attention, itertools.count(1)
    for image, result in zip(study.images, study.shown, strict=True):
        pages = portions(attention.get(result.header.sop_instance_uid, {}))
        radiograph = image.picture() if pages else None
        if radiograph is None:
            continue
        for place, maps in enumerate(pages, start=1):
            number = next(numbers)
            item = _page(study.edition, result, series, number, "attention")
            sheet = _sheet(study, item, image, result, number)
            page = capture.attention_capture(sheet, radiograph, maps, (place, len(pages)))
            yield Written(item, page.part10, page.pixels)
