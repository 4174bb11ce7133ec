"""The images of a study on their way through `screen`: opened, asked, decoded, looked at, answered.

What is refused on the way keeps the reason and gets no findings. However many images a study has,
few of them lie decoded at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from prescreen import gate
from prescreen.dicom.attributes import Attributes
from prescreen.dicom.correcting import corrected
from prescreen.dicom.image import header_of, read_header
from prescreen.errors import UnusableImage
from prescreen.lightbox import HELD, PORTION, Decoder, Image, Lightbox, portions
from prescreen.settings import Scope
from prescreen.store.spool import Spool
from prescreen.study import (
    ANOTHER_PATIENT,
    Disposition,
    ImageResult,
    Instance,
    Outcome,
    Radiograph,
    Screening,
)

Screener = Callable[[Sequence[Radiograph]], list[Screening]]
#: What is kept under a SOP Instance UID, oldest first.
Versions = Callable[[str], Sequence[Instance]]


def screen(
    instances: Sequence[Instance],
    decoder: Decoder,
    screener: Screener,
    *,
    scope: Scope | None,
    spool: Spool | None = None,
    versions: Versions | None = None,
    portion: int = PORTION,
    held: int = HELD,
) -> list[Image]:
    """Look at instances, of one study or several, and answer for each, in order.

    The tags are asked first, then the pixels, then the networks, then the anatomy they drew; what
    is refused on the way gets no findings. `scope` None: the node's own rules (age, sender, time)
    are not asked. With `spool` the bytes are compared with what was received; `versions` tells
    what is kept under a SOP Instance UID, to tell apart what arrived again. At most `held`
    radiographs lie decoded at a time, of which `portion` are worked on; `decoder` must live for as
    long as `picture` of the others is asked for.
    """
    images = [_opened(instance, spool) for instance in instances]
    images = _without_companions([_asked(image, scope, versions) for image in images])
    lightbox = Lightbox.of(images, decoder, held - portion)
    if lightbox.digested:
        seen = (lightbox.cleared(lightbox.laid(some)) for some in portions(images, portion))
        images = [image for some in seen for image in some]
    if versions is not None:
        images = [_told_apart(image, images, decoder, versions) for image in images]
    patients = _patients(images)

    def answered(some: Sequence[Image]) -> list[Image]:
        here = [_of_one_patient(image, patients) for image in lightbox.laid(some)]
        return lightbox.cleared(_through_networks([_looked_at(i) for i in here], screener))

    return [image for some in portions(images, portion) for image in answered(some)]


def _opened(instance: Instance, spool: Spool | None) -> Image:
    try:
        if spool is not None:
            spool.verify(instance.path, instance.sha256, instance.received_at)
        source = read_header(instance.path)
    except UnusableImage as error:
        return Image(instance, refused=(Outcome.NOT_SCREENED, error.reason))
    return _under_its_name(Image(instance, source, header_of(source)))


def _under_its_name(image: Image) -> Image:
    """Where an archive has corrected patient or order, as it has them.

    An age that can no longer be told from the birth date is the one that the modality knew.
    """
    told, header = image.instance.correction, image.header
    if told is None or header is None:
        return image
    source = corrected(image.source, told)
    now = header_of(source)
    if now.patient_age is None:
        now = replace(now, patient_age=header.patient_age)
    return replace(image, source=source, header=now)


def _asked(image: Image, scope: Scope | None, versions: Versions | None) -> Image:
    """Scope first: what the node leaves out gets no notice, whatever else its tags say.

    The age of a radiograph counts to the moment it first came: an answer that is made again
    later is in scope as the first one was.
    """
    if image.header is None:
        return image
    came = image.instance.received_at
    if versions is not None and image.instance.disposition is not Disposition.NEW:
        kept = versions(image.instance.sop_instance_uid)
        came = min([came, *(version.received_at for version in kept)])
    reason = None
    if scope is not None:
        reason = gate.scope(image.header, scope, image.instance.calling_ae_title, came)
    return _refused(image, reason or gate.before(image.header, None))


def _refused(image: Image, reason: gate.Reason | None) -> Image:
    if reason is None or image.refused is not None:
        return image
    outcome = Outcome.NOT_SCREENED if reason.calls_for_notice else Outcome.OUT_OF_SCOPE
    return replace(image, refused=(outcome, str(reason)))


def _without_companions(images: Sequence[Image]) -> list[Image]:
    """Of one exposure one image is screened: derived companions are left out (per study)."""
    headers = [image.header for image in images if image.header and not image.refused]
    companions = gate.companions(headers)
    return [
        _refused(image, gate.Reason.COMPANION)
        if image.header and image.header.sop_instance_uid in companions
        else image
        for image in images
    ]


def _told_apart(
    image: Image,
    images: Sequence[Image],
    decoder: Decoder,
    versions: Versions,
) -> Image:
    """Duplicate, revision or conflict: told by decoded pixels and identity (first come counts).

    What does not decode takes nothing back that was said of the first; where the first did not
    decode, this is the first picture there is.
    """
    if image.instance.disposition is not Disposition.AGAIN:
        return image
    first = _first_version(image, versions(image.instance.sop_instance_uid))
    if first is None:
        return replace(image, disposition=Disposition.NEW)
    if image.radiograph is None:
        return _in_conflict(image)
    pixels = _pixels_of(first, images, decoder)
    if pixels is None:
        return replace(image, disposition=Disposition.NEW)
    if pixels != image.radiograph.pixel_sha256:
        return _in_conflict(image)
    if first.identity_digest == image.instance.identity_digest:
        refused = (Outcome.OUT_OF_SCOPE, str(Disposition.DUPLICATE))
        return replace(image, disposition=Disposition.DUPLICATE, refused=refused)
    return replace(image, disposition=Disposition.REVISION)


def _patients(images: Sequence[Image]) -> dict[str, str]:
    """Of each study the Patient ID of its newest image, whose name the report carries.

    `images` of a study come in the order in which they were received.
    """
    current: dict[str, str] = {}
    for image in images:
        aside = image.disposition in (Disposition.CONFLICT, Disposition.DUPLICATE)
        if not aside and (patient := _patient_id(image)):
            current[image.instance.study_instance_uid] = patient
    return current


def _of_one_patient(image: Image, patients: Mapping[str, str]) -> Image:
    """An image of another patient than its study's is refused.

    Another Patient ID under the same study may be a correction on its way, or a mistake: nothing is
    said of one patient under the name of another.
    """
    if _patient_id(image) in (None, patients.get(image.instance.study_instance_uid)):
        return image
    return replace(image, refused=image.refused or (Outcome.NOT_SCREENED, ANOTHER_PATIENT))


def _patient_id(image: Image) -> str | None:
    return None if image.source is None else Attributes(image.source).text("PatientID")


def _in_conflict(image: Image) -> Image:
    refused = (Outcome.NOT_SCREENED, str(Disposition.CONFLICT))
    return replace(image, disposition=Disposition.CONFLICT, refused=refused)


def _first_version(image: Image, kept: Iterable[Instance]) -> Instance | None:
    here = image.instance.instance_id
    settled = (Disposition.NEW, Disposition.REVISION)
    earlier = [v for v in kept if v.instance_id < here and v.disposition in settled]
    return earlier[-1] if earlier else None


def _pixels_of(version: Instance, images: Sequence[Image], decoder: Decoder) -> str | None:
    if version.pixel_sha256 is not None:
        return version.pixel_sha256
    for other in images:
        if other.instance.instance_id == version.instance_id and other.radiograph is not None:
            return other.radiograph.pixel_sha256
    reading = decoder.read_all([version.path])[0]
    return None if isinstance(reading, UnusableImage) else reading.pixel_sha256


def _looked_at(image: Image) -> Image:
    if image.radiograph is None or image.header is None or image.refused is not None:
        return image
    return _refused(image, gate.before(image.header, image.radiograph))


def _through_networks(images: Sequence[Image], screener: Screener) -> list[Image]:
    wanted = [i for i in images if i.refused is None and i.radiograph is not None]
    answers = iter(_screenings([i.radiograph for i in wanted if i.radiograph], screener))
    return [_judged(i, next(answers)) if i in wanted else i for i in images]


def _screenings(
    radiographs: Sequence[Radiograph], screener: Screener
) -> Sequence[Screening | UnusableImage]:
    """All together; where that fails for one of them, each alone, so that only that one fails."""
    try:
        return screener(radiographs)
    except UnusableImage as error:
        if len(radiographs) == 1:
            # without its traceback, whose frames hold the pixels
            return [UnusableImage(str(error), error.reason)]
    return [_screenings([radiograph], screener)[0] for radiograph in radiographs]


def _judged(image: Image, answer: Screening | UnusableImage) -> Image:
    """A failure of the gate drops the findings: nobody shall read numbers it does not stand by."""
    if isinstance(answer, UnusableImage):
        return replace(image, refused=(Outcome.NOT_SCREENED, answer.reason))
    image = replace(image, screening=answer)
    if image.radiograph is None:
        return image
    return _refused(image, gate.after(answer, image.radiograph))


def outcome_of(results: Sequence[ImageResult]) -> tuple[Outcome, str | None]:
    """What became of a study whose images ended so: the best that can be said of any of them.

    Screened, else not screened, else failed, else out of scope; the reason is the first such one.
    """
    best = (Outcome.SCREENED, Outcome.NOT_SCREENED, Outcome.FAILED, Outcome.OUT_OF_SCOPE)
    for outcome in best:
        reasons = [result.reason for result in results if result.outcome is outcome]
        if reasons:
            return outcome, None if outcome is Outcome.SCREENED else reasons[0]
    return Outcome.FAILED, "no_image"


def given_up(
    instance: Instance, reason: str, scope: Scope | None, outcome: Outcome = Outcome.FAILED
) -> Image:
    """An image that gets no answer: why, unless its tags leave it out in any case."""
    image = _asked(_opened(instance, None), scope, None)
    if image.refused is not None and image.refused[0] is Outcome.OUT_OF_SCOPE:
        return image
    return replace(image, refused=(outcome, reason))
