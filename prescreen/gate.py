"""Is this a frontal chest radiograph that may be screened? Coded reasons, numpy only.

`before` reads the instance's own tags, then its pixels; `after` reads what the networks drew and
compares it with frontal radiographs (`prescreen.frontal`). Both judge the picture itself and are
always asked. `scope` is the node's own choice of studies and is not asked where somebody hands a
file over by hand. `companions` looks at all instances of a study together.

A missing, unknown or malformed tag never refuses: only one that positively names something else
does. Nothing here ever lowers a priority: what is refused is read without help.
"""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Iterable

from prescreen import frontal
from prescreen.settings import Scope
from prescreen.study import Header, Radiograph, Screening

#: Changes whenever an answer may change; frozen into a job beside the digest of the weights.
VERSION = f"1.{frontal.SHA256[:8]}"


class Reason(enum.StrEnum):
    """Why an instance gets no findings; MEANINGS has a sentence for each."""

    OWN_RESULT = "own_result"
    MODALITY = "modality"
    SOP_CLASS = "sop_class"
    MULTIPLE_FRAMES = "multiple_frames"
    SPECIES = "species"
    QUALITY_CONTROL = "quality_control"
    FOR_PROCESSING = "for_processing"
    COMPANION = "companion"
    DERIVED_VIEW = "derived_view"
    BODY_PART = "body_part"
    VIEW = "view"
    TOO_SMALL = "too_small"
    ASPECT = "aspect"
    CONTRAST = "contrast"
    INVERTED = "inverted"
    ROTATED = "rotated"
    ANATOMY_NOT_ASSESSABLE = "anatomy_not_assessable"
    NOT_FRONTAL_CHEST = "not_frontal_chest"
    UNLIKE_TRAINING = "unlike_training"
    CALLING_AE_TITLE = "calling_ae_title"
    PRIOR = "prior"
    AGE = "age"
    AGE_UNKNOWN = "age_unknown"

    @property
    def calls_for_notice(self) -> bool:
        """Whether somebody may be waiting for an answer: the tags did not rule the image out.

        A study of nothing but lateral views counts, because a chest was examined.
        """
        return self in _CALL_FOR_NOTICE


MEANINGS: dict[Reason, str] = {
    Reason.OWN_RESULT: "it was written by this software",
    Reason.MODALITY: "Modality names something other than CR or DX",
    Reason.SOP_CLASS: "the SOP class is not of a projection radiograph or a Secondary Capture",
    Reason.MULTIPLE_FRAMES: "it has more than one frame",
    Reason.SPECIES: "the species is not Homo sapiens",
    Reason.QUALITY_CONTROL: "it is a quality control image or shows a phantom",
    Reason.FOR_PROCESSING: "it is For Processing, not For Presentation",
    Reason.COMPANION: "it is derived from an exposure that has an image of its own",
    Reason.DERIVED_VIEW: "Image Type names a localizer, a reformat or a screen copy",
    Reason.BODY_PART: "the tags name a body part other than the chest",
    Reason.VIEW: "the tags name a view that is not frontal",
    Reason.TOO_SMALL: "it has too few rows or columns",
    Reason.ASPECT: "it is too narrow or too wide for a chest",
    Reason.CONTRAST: "it is blank, or has next to no contrast",
    Reason.INVERTED: "the picture looks like a chest only with its grey scale inverted",
    Reason.ROTATED: "the picture looks like a chest only when turned",
    Reason.ANATOMY_NOT_ASSESSABLE: "lungs and heart cannot be told where they should be",
    Reason.NOT_FRONTAL_CHEST: "the picture is unlike a frontal chest radiograph",
    Reason.UNLIKE_TRAINING: "the networks see something unlike what they were trained on",
    Reason.CALLING_AE_TITLE: "it came from a sender whose studies are not screened",
    Reason.PRIOR: "it was acquired too long ago (a prefetched prior)",
    Reason.AGE: "the patient was younger than the settings allow",
    Reason.AGE_UNKNOWN: "the patient's age is unknown and the settings ask for it",
}

_CALL_FOR_NOTICE = frozenset(
    {
        Reason.VIEW,
        Reason.TOO_SMALL,
        Reason.ASPECT,
        Reason.CONTRAST,
        Reason.INVERTED,
        Reason.ROTATED,
        Reason.ANATOMY_NOT_ASSESSABLE,
        Reason.NOT_FRONTAL_CHEST,
        Reason.UNLIKE_TRAINING,
    }
)


def before(header: Header, radiograph: Radiograph | None) -> Reason | None:
    """The first reason in tags, then pixels, not to show this to the networks; None: go on.

    Without a radiograph (not decoded yet) the tags alone are judged.
    """
    reason = by_tags(header)
    if reason is not None or radiograph is None:
        return reason
    return by_pixels(radiograph)


# ---------------------------------------------------------------- tags


def _words(text: str | None) -> list[str]:
    return re.findall(r"[A-Z]+", (text or "").upper())


_ROOT = "1.2.840.10008."
_FOR_PROCESSING_CLASS = "1.2.840.10008.5.1.4.1.1.1.1.1"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: Storage classes that carry radiographs. Whatever else arrives is kept and ignored.
RADIOGRAPH_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, For Presentation
        _FOR_PROCESSING_CLASS,
        _SECONDARY_CAPTURE,  # as collections of radiographs come
    }
)

#: A text with one of these in it names the chest, whatever else it names.
_CHEST = ("CHEST", "THORAX", "LUNG", "HEART", "MEDIASTIN")
#: Words of PS3.16 Annex L, CID 4009 and CID 7483 that name another part, and how vendors write
#: them. Ribs, sternum and thoracic spine are examinations of their own, exposed for bone.
_OTHER_PARTS = frozenset(
    _words(
        """ABD ABDOMEN ABDOMINAL ACROMIOCLAVICULAR ADRENAL ANKLE ANUS APPENDIX ARM ATLANTAL
        ATLANTO AUDITORY AXILLA BILE BILIARY BLADDER BRAIN BREAST BUTTOCK CALCANEAL CALCANEUS
        CALF CAROTID CARPUS CERVICAL CERVIX CLAVICLE COCCYGEAL COCCYX COLON CRANIUM DENTAL
        DIGIT DUODENUM EAR ELBOW ESOPHAGUS EXTREMITIE EXTREMITY EYE FACE FACIAL FALLOPIAN FEET
        FEMUR FETLOCK FIBULA FINGER FOOT FOREARM FOREFOOT GALLBLADDER GASTRO GLAND HAND HEAD
        HINDFOOT HIP HUMERUS ILEUM ILIUM INTESTINE JAW JEJUNUM KIDNEY KNEE KUB LARYNX LEG LIMB
        LIVER LUMBAR LUMBO LUMBOSACRAL MANDIBLE MANDIBULAR MASTOID MAXILLA MAXILLARY
        METACARPUS METATARSUS MOUTH NASAL NAVICULAR NECK NOSE OPTIC ORBIT ORBITAL OVARY
        PANCREAS PANCREATIC PAROTID PASTERN PATELLA PELVIC PELVIS PENIS PHALANX PHARYNX
        PROSTATE RADIUS RECTUM RIB SACRAL SACROILIAC SACRUM SCALP SCAPULA SCROTUM SELLA
        SESAMOID SHOULDER SIJOINT SINUS SKULL SPINE SPLEEN STERNOCLAVICULAR STERNUM STIFFLE
        STIFLE STOMACH SUBMANDIBULAR TARSAL TARSUS TEETH TEMPOROMANDIBULAR TESTIS THIGH
        THUMB THYROID TIBIA TMJ TOE TONGUE TOOTH ULNA URETER URETHRA URINARY UTERUS VAGINA
        VERTEBRA VERTEBRAL VULVA WRIST ZYGOMA"""
    )
)
#: Parts that vendors write together with a side or with another part.
_ENDINGS = tuple(
    _words(
        "ANKLE ELBOW EXTREMITY FEMUR FIBULA FOOT HAND KNEE NECK PELVIS SHOULDER SPINE ULNA WRIST"
    )
)
_SNOMED = ("SCT", "SRT", "SNM3")
_HUMAN = frozenset({"337915000", "L-85B00"})
_NO_ANIMAL = re.compile(
    r".{0,2}|HUM.*|HOMO.*|MENSCH|PERSON|UNKNOWN|UNSPECIFIED|OTHER|NONE|NULL|N/A|\W*"
    r"|NOT (KNOWN|SPECIFIED|APPLICABLE)"
)
_NOT_FRONTAL = frozenset(
    _words(
        """CAUDAL CC LAO LAT LATERAL LATERO LL LLO LM LPO ML MLO OBL OBLIQUE OCCLUSAL RAO RL RLO
        RPO SAGITTAL TANGENTIAL XCCL"""
    )
)
_LATERAL_CODES = frozenset({"399067008", "399173006", "399198007", "R-10236", "R-10232"})
_DERIVED_VIEWS = frozenset(
    _words(
        """AXIAL CORONAL CPR CSAMPR DOSEINFO LOCALIZER MINIP MIP MPR REFORMATTED SAGITTAL
        SCREENSHOT SCREENSAVE VOLUME"""
    )
)
_COMPANION = re.compile(
    r"(?<!\bNO\W)(?<!\bNON\W)(?<!WITHOUT\W)"  # what a picture is told apart from
    r"((BONE|RIB)S?\W?(SUPPRESS|SUBTRACT|REMOV)|SUPPRESSED\W(BONE|RIB)|EDGE\W?ENHANC"
    r"|(TEMPORAL|ENERGY)\W?SUBTRACT|CLEAR\W?READ)"
)


#: Defined terms of Modality (PS3.3 C.7.3.1.1.1, retired ones among them) and of devices (CID 30)
#: but CR and DX.
_OTHER_MODALITIES = frozenset(
    re.findall(
        r"\w+",
        """ANN AR ARCHIVE AS ASMT AU BDUS BI BMD CAD CAPTURE CD CF CFM COMP CP CS CT CTPROTOCOL DD
        DF DG DM DMS DOC DS DSS EC ECG EEG EMG EOG EPS ES FA FID FILMD FS GM HC HD IO IOL IVOCT
        IVUS KER KO LEN LOG LP LS M3D MA MCD MG MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF
        OPV OSS OT PA PLAN POS PR PRINT PT PX REG RESP RF RG RT RTDOSE RTIMAGE RTINTENT RTPLAN
        RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN TEXTUREMAP TG US VA VF
        WSD XA XAPROTOCOL XC""",
    )
)


def is_other_modality(modality: str | None, sop_class_uid: str) -> bool:
    """Whether Modality names something else than a radiograph.

    What is no term of the standard ("DR") names nothing: the class of the image says that it is a
    radiograph. A Secondary Capture's does not, so that it is one by its Modality alone.
    """
    if modality in (None, "CR", "DX"):
        return False
    return sop_class_uid == _SECONDARY_CAPTURE or modality in _OTHER_MODALITIES


def by_tags(header: Header) -> Reason | None:
    """The first reason that the tags alone give, or None."""
    rules = (
        (Reason.OWN_RESULT, header.is_own_result),
        (Reason.MODALITY, is_other_modality(header.modality, header.sop_class_uid)),
        (Reason.SOP_CLASS, _is_other_class(header.sop_class_uid)),
        (Reason.MULTIPLE_FRAMES, header.number_of_frames > 1),
        (Reason.SPECIES, _is_animal(header)),
        (Reason.QUALITY_CONTROL, _is_quality_control(header)),
        (Reason.FOR_PROCESSING, _is_for_processing(header)),
        (Reason.COMPANION, _is_named_companion(header)),
        (Reason.DERIVED_VIEW, _is_derived_view(header)),
        (Reason.BODY_PART, any(_is_other_part(text) for text in _parts(header))),
        (Reason.VIEW, _is_other_view(header)),
    )
    return next((reason for reason, applies in rules if applies), None)


def _is_other_class(uid: str) -> bool:
    """A class of the standard that is not a radiograph's; an unknown one is left to the pixels."""
    return uid.startswith(_ROOT) and uid not in RADIOGRAPH_CLASSES


def _is_animal(header: Header) -> bool:
    code, text = header.patient_species_code, header.patient_species_description
    if code is not None and code[0] and code[1] in _SNOMED:
        return code[0] not in _HUMAN
    names = (text, None if code is None else code[2])
    return any(name and not _NO_ANIMAL.fullmatch(name.strip().upper()) for name in names)


def _is_quality_control(header: Header) -> bool:
    phantom = any("PHANTOM" in text.upper() for text in _parts(header))
    return header.quality_control_image == "YES" or phantom


def _is_for_processing(header: Header) -> bool:
    intent = header.presentation_intent_type
    return intent == "FOR PROCESSING" or header.sop_class_uid == _FOR_PROCESSING_CLASS


def _is_named_companion(header: Header) -> bool:
    texts = (*header.image_type[2:], header.series_description or "")
    return any(_COMPANION.search(text.upper().replace("_", " ")) for text in texts)


def _is_derived_view(header: Header) -> bool:
    return any("".join(_words(value)) in _DERIVED_VIEWS for value in header.image_type[2:])


def _parts(header: Header) -> tuple[str, ...]:
    region = header.anatomic_region
    return header.body_part_examined or "", region[2] if region else ""


def _is_other_part(text: str) -> bool:
    """Another part is named, and the chest is not: a chest with abdomen is for the pixels."""
    words = _words(text)
    if any(chest in "".join(words) for chest in _CHEST):
        return False
    forms = [form for word in words for form in (word, word.removesuffix("S"))]
    return any(form in _OTHER_PARTS or form.endswith(_ENDINGS) for form in forms)


def _is_other_view(header: Header) -> bool:
    """Lateral or oblique by position, code or orientation; a decubitus film is frontal."""
    code = header.view_code or ("", "", "")
    words = {*_words(header.view_position), *_words(code[2])}
    if "DECUBITUS" in words:
        return False
    named = header.view in ("LATERAL", "OBLIQUE") or bool(words & _NOT_FRONTAL)
    return named or code[0] in _LATERAL_CODES or _is_seen_from_the_side(header.patient_orientation)


def _is_seen_from_the_side(orientation: tuple[str, ...]) -> bool:
    """Rows or columns run to the front or back of the patient (PS3.3 C.7.6.1.1.1)."""
    return len(orientation) == 2 and any(letters[:1] in ("A", "P") for letters in orientation)


# ---------------------------------------------------------------- pixels

#: The least of 2,250 frontal radiographs had 345 pixels a side and a contrast of 0.17.
_LEAST_SIDE = 200
_LEAST_CONTRAST = 0.04
#: The whitest of 912 radiographs had 0.16; where one side is white from about 0.27 on, it is that
#: which fits better once turned, not what is left of a chest.
_MOST_WHITE = 0.25
#: 112,120 frontal radiographs had 0.56 to 1.85.
_ROWS_PER_COLUMN = (0.5, 2.0)


def by_pixels(radiograph: Radiograph) -> Reason | None:
    """The first reason that the pixels give, or None."""
    rows, columns = radiograph.pixels.shape
    if min(rows, columns) < _LEAST_SIDE:
        return Reason.TOO_SMALL
    if not _ROWS_PER_COLUMN[0] <= rows / columns <= _ROWS_PER_COLUMN[1]:
        return Reason.ASPECT
    picture = frontal.coarse_of(radiograph)
    if not frontal.contrast(picture) >= _LEAST_CONTRAST:  # also where it is not a number
        return Reason.CONTRAST
    turned = frontal.shipped().turned(picture)
    if turned == Reason.ROTATED and frontal.white(picture) > _MOST_WHITE:
        return Reason.ANATOMY_NOT_ASSESSABLE
    return None if turned is None else Reason(turned)


# ---------------------------------------------------------------- anatomy

#: A picture this far beyond the limit is no chest; nearer, it may be a chest no network can read.
_FAR = 1.6
#: The feature distance counts beyond this many times its limit, which holds for the hospitals of
#: the training; radiographs of others lay up to 1.13 times the limit.
_UNLIKE = 1.3


def after(screening: Screening, radiograph: Radiograph) -> Reason | None:
    """The first reason in what the networks drew and felt to drop the findings, or None."""
    cut = frontal.cut(frontal.coarse_of(radiograph), screening.anatomy)
    if cut is None:
        return Reason.ANATOMY_NOT_ASSESSABLE
    fitted = frontal.shipped()
    distance = fitted.distance(cut)
    if not distance <= _FAR:
        return Reason.NOT_FRONTAL_CHEST
    if distance > 1 or not frontal.is_plausible(screening.anatomy) or not fitted.leans_left(cut):
        return Reason.ANATOMY_NOT_ASSESSABLE
    limit = screening.model.feature_distance_limit
    if limit is not None and not screening.feature_distance <= _UNLIKE * limit:
        return Reason.UNLIKE_TRAINING
    return None


# ---------------------------------------------------------------- the node's own choice


def scope(
    header: Header, settings: Scope, calling_ae_title: str, now: datetime.datetime
) -> Reason | None:
    """The first rule of the node's settings that leaves this instance out, or None.

    `now` has a time zone; a time of acquisition without one is in that of this machine. What is
    not known of the time leaves nothing out.
    """
    if settings.calling_ae_titles and calling_ae_title not in settings.calling_ae_titles:
        return Reason.CALLING_AE_TITLE
    elapsed = _elapsed(header.acquired, now)
    if elapsed is not None and elapsed > datetime.timedelta(hours=settings.acquired_within_hours):
        return Reason.PRIOR
    if header.patient_age is None:
        return Reason.AGE_UNKNOWN if settings.unknown_age == "out_of_scope" else None
    return Reason.AGE if header.patient_age < settings.minimum_age else None


def _elapsed(
    acquired: datetime.datetime | None, now: datetime.datetime
) -> datetime.timedelta | None:
    """At least so long; a date without a time of day may mean its last minute."""
    if acquired is None:
        return None
    unknown = datetime.timedelta(days=1 if acquired.time() == datetime.time() else 0)
    try:
        return now - acquired.astimezone(datetime.UTC) - unknown
    except (OverflowError, ValueError, OSError):  # a year that no calendar here knows
        return None


def companions(headers: Iterable[Header]) -> frozenset[str]:
    """SOP Instance UIDs of derived images whose exposure has an original image among `headers`.

    One exposure is one study, view and time of acquisition to the second. Two originals are both
    kept, and so is all without a time of day of its own, as the exposures of a study share that of
    the study: better two answers than none.
    """
    known = [header for header in headers if _exposure(header) is not None]
    originals = {_exposure(header) for header in known if not _is_derived(header)}
    return frozenset(
        header.sop_instance_uid
        for header in known
        if _is_derived(header) and _exposure(header) in originals
    )


def _is_derived(header: Header) -> bool:
    return header.image_type[:1] == ("DERIVED",)


def _exposure(header: Header) -> tuple[str, str | None, datetime.datetime] | None:
    acquired = header.acquired
    if acquired is None or not header.acquired_itself or acquired.time() == datetime.time():
        return None
    return header.study_instance_uid, header.view, acquired.replace(microsecond=0)
