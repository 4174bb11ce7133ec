"""The DICOM conformance statement, made from the code so that it cannot drift (PS3.2 Annex N).

`python -m prescreen.conformance > docs/conformance.md`; a test holds the page to this.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable, Iterator, Sequence

from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts

from prescreen import __version__, gate
from prescreen.dicom import (
    capture,
    entity,
    narrative,
    presentation,
    report,
    segmentation,
    verdict,
)
from prescreen.dicom.commitment import PUSH_MODEL, WAIT
from prescreen.dicom.image import TRANSFER_SYNTAXES
from prescreen.dicom.query import FIND
from prescreen.dicom.rejection import KEY_OBJECT_SELECTION, TITLES
from prescreen.dicom.send import UNCOMPRESSED
from prescreen.gate import RADIOGRAPH_CLASSES
from prescreen.settings import ReceiveTLS, Settings
from prescreen.store.commitments import CLASS_NOT_SUPPORTED, PASSING

_RECEIVED = (
    (0x0000, "Success", "the object is durable, and accounted for in the audit log"),
    (0x0117, "Invalid SOP Instance", "a UID is missing or malformed (PS3.5 9.1)"),
    (0xA700, "Out of Resources", "no room above the watermark, or the database is locked"),
    (0xA900, "Data Set does not match SOP Class", "the data set's UIDs differ from the command's"),
    (0xC000, "Cannot Understand", "the data set does not parse, or the node could not keep it"),
)
_SENT = (0x0000, 0xB000, 0xB006, 0xB007, 0xA700, 0xA900, 0xC000, 0x0110, 0x0117, 0x0122, 0x0124)
_EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_WHAT_FOLLOWS = {
    verdict.Verdict.STORED: "the object is delivered",
    verdict.Verdict.RETRY_SOON: "sent again with growing delay, for as long as it takes",
    verdict.Verdict.RETRY_SLOWLY: "sent again slowly for 24 hours, then parked for a person",
    verdict.Verdict.FALL_BACK: "a report is sent as Comprehensive SR; else parked for a person",
    verdict.Verdict.PARK: "parked for a person",
}


def statement() -> str:
    """The whole page as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    settings = Settings.model_construct()
    yield "# DICOM conformance statement"
    yield ""
    yield "<!-- made by `python -m prescreen.conformance > docs/conformance.md` -->"
    yield ""
    yield f"prescreen {__version__}. Not a medical device; for research and evaluation."
    yield ""
    yield "One application entity, by default `PRESCREEN` on port"
    yield f"{settings.receive.port}. Implementation Class UID"
    yield f"`{entity.IMPLEMENTATION_CLASS_UID}`,"
    yield f"version name `{entity.IMPLEMENTATION_VERSION_NAME}`."
    yield from _never()
    yield from _receiving(settings)
    yield from _sending()
    yield from _asking()
    yield from _objects()
    yield from _reasons()


def _never() -> Iterator[str]:
    yield from _section("What it never does")
    yield "- It is never the only destination of a modality, and never offers storage commitment"
    yield "  as a provider: what it keeps, it keeps for the retention time alone."
    yield "- It never moves or deletes anything in an archive, and queries for its own reports and"
    yield "  for the studies they belong to alone."
    yield "- It never changes an object it received, nor one it sent: another result is another"
    yield "  object that names the one before."
    yield "- It never marks a result as verified: VerificationFlag is UNVERIFIED."


def _receiving(settings: Settings) -> Iterator[str]:
    yield from _section("As SCP: Verification and Storage")
    yield "Associations are taken from configured peers only: called AE title, calling AE title and"
    yield "network must agree with one of them; a fresh configuration has none. At most"
    yield f"{settings.receive.max_associations} associations at a time, PDUs of at most"
    yield f"{settings.receive.max_pdu} bytes (both settings). No asynchronous operations, no user"
    yield "identity, no extended negotiation."
    yield ""
    yield "With `[receive.tls]` it listens by TLS on a port of its own"
    yield f"({ReceiveTLS.model_fields['port'].default} unless set otherwise), and with"
    yield "`clear = false` on that alone; destinations with `tls` are called by TLS. Profile:"
    yield "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection (PS3.15 B.12): TLS 1.2 or"
    yield "newer, of TLS 1.2 only suites with ephemeral key exchange and AES-GCM; both sides show"
    yield "a certificate, whose common name, DNS name or address must be the configured one."
    yield ""
    yield "An association is rejected, permanently: called AE title not recognised; calling AE"
    yield "title not recognised (also for an unknown network or certificate). Transiently: local"
    yield "limit exceeded (associations in all, and of one peer); temporary congestion (no room, or"
    yield "too many studies waiting; not if only Verification is proposed). It is aborted where a"
    yield f"PDU takes longer than {settings.receive.pdu_timeout:g} s, is longer than asked for, or"
    yield "breaks the protocol, where an object exceeds"
    yield f"{settings.receive.max_object_mb} MB (settings), and where a request is not the one of"
    yield "its presentation context (C-ECHO, C-STORE, N-EVENT-REPORT), names no instance or lacks a"
    yield "Message ID. C-CANCEL and responses to nothing are ignored, and so is a group length."
    yield ""
    yield "Verification, and every storage SOP class below, in these transfer syntaxes:"
    yield ""
    yield from _table(
        ("transfer syntax", "UID"), [(UID(uid).name, f"`{uid}`") for uid in TRANSFER_SYNTAXES]
    )
    yield ""
    rows = [(f"0x{status:04X}", meaning, when) for status, meaning, when in _RECEIVED]
    yield from _table(("C-STORE status", "meaning", "when"), rows)
    yield ""
    names = sorted(UID(uid).name for uid in RADIOGRAPH_CLASSES)
    yield f"Screened unless Modality names something other than CR or DX: {', '.join(names)}."
    yield "All others are kept for the retention time and audited as `instance.ignored`. Key Object"
    yield f"Selections that are rejection notes ({', '.join(TITLES)}; IHE IOCM) are obeyed."
    yield ""
    yield "<details><summary>All storage SOP classes</summary>"
    yield ""
    classes = sorted(
        (str(UID(str(c.abstract_syntax)).name), f"`{c.abstract_syntax}`")
        for c in AllStoragePresentationContexts
    )
    yield from _table(("SOP class", "UID"), classes)
    yield ""
    yield "</details>"


def _sending() -> Iterator[str]:
    yield from _section("As SCU: Storage and Verification")
    yield "Results are sent to configured destinations after `prescreen go-live`, over one"
    yield "association for as many objects as are due. A repeated send is byte-identical."
    yield ""
    rows = [
        (UID(uid).name, f"`{uid}`", " or ".join(UID(t).name for t in UNCOMPRESSED))
        for uid in (
            report.COMPREHENSIVE_3D_SR,
            report.COMPREHENSIVE_SR,
            narrative.BASIC_TEXT_SR,
            capture.SECONDARY_CAPTURE,
            presentation.GRAYSCALE_PRESENTATION_STATE,
            segmentation.SEGMENTATION,
            KEY_OBJECT_SELECTION,
        )
    ]
    yield from _table(("SOP class", "UID", "transfer syntax"), rows)
    yield ""
    yield "Comprehensive SR is sent, under a UID of its own, where the peer rejects the context of"
    yield "Comprehensive 3D SR, and never in addition to it."
    yield ""
    answers = [(f"0x{status:04X}", _WHAT_FOLLOWS[_verdict(status)]) for status in _SENT]
    yield from _table(("C-STORE status of the peer", "what follows"), answers)


def _asking() -> Iterator[str]:
    yield from _section("As SCU: Storage Commitment and Query")
    models = ((PUSH_MODEL, "Storage Commitment Push Model, SCU"), (FIND, "C-FIND, SCU"))
    rows = [
        (said, f"`{uid}`", " or ".join(UID(t).name for t in UNCOMPRESSED)) for uid, said in models
    ]
    yield from _table(("SOP class", "UID", "transfer syntax"), rows)
    yield ""
    yield "**Storage commitment** (PS3.4 Annex J) is asked for after delivery, unless the setting"
    yield "of a destination is `none`: N-ACTION over an association of its own, open for"
    yield f"{WAIT:g} s for an N-EVENT-REPORT. The report is also taken on an association"
    yield "that the peer opens, if it proposes the SCP role by role selection; as SCU of this class"
    yield "it is rejected. N-EVENT-REPORT is answered with 0x0000, 0x0110 (could not be written"
    yield "down), 0x0113 (no such event type) or 0x0115 (no such transaction)."
    yield ""
    passing = ", ".join(f"0x{reason:04X}" for reason in sorted(PASSING))
    reasons = (
        (passing, "asked again"),
        (f"0x{CLASS_NOT_SUPPORTED:04X}", "left as delivered"),
        ("any other", "sent again with the same UIDs, once; then parked for a person"),
    )
    yield from _table(("Failure Reason of the peer", "what follows"), reasons)
    yield ""
    yield "**C-FIND** at STUDY level comes before a report is sent: StudyInstanceUID; returned and"
    yield "compared, decoded: PatientID, PatientName, AccessionNumber where the peer has a value,"
    yield "IssuerOfPatientID and PatientBirthDate where both have one; PatientSex is returned. Of a"
    yield "name case, width, padding, a missing component group and replaced letters do not count."
    yield "What differs is taken over, with the sex, and the results are made again (not for a test"
    yield "destination, nor with the setting query = compare). At IMAGE level it takes the place"
    yield "of storage commitment where a peer offers none."


def _verdict(status: int) -> verdict.Verdict:
    return verdict.judge(status, None, _EPOCH)


def _objects() -> Iterator[str]:
    yield from _section("What is created")
    yield "**Findings** (`sr`): Comprehensive 3D SR, root template TID 1500 under the local title"
    yield "(pre-screening, 99PRESCREEN, AI pre-screening, not a report; CID 7021 may be"
    yield "extended), one a study and cumulative: TID 1001/1004 (device observer), TID 1204"
    yield "(language), TID 1600/1601 (image library), a TID 1501 measurement group for each"
    yield "image, for each finding and for the cardiothoracic ratio, TID 4019 (algorithm"
    yield "identification). (121071, DCM, Finding) stands for flagged findings only. Contributing"
    yield "Equipment (109102, DCM, Processing Equipment) has one item for each network."
    yield "Predecessor Documents names an earlier report with its purpose."
    yield ""
    yield "**Regions** (`regions`): Comprehensive 3D SR, TID 1500, (126000, DCM, Imaging"
    yield "Measurement Report): a TID 1410 group with a POLYLINE for the outline of each lung and"
    yield "of the heart, and for the two diameters of the cardiothoracic ratio. They are where"
    yield "the node measured, never where a finding lies. Where the setting attention asks for it"
    yield "and the weights have proven it, a group with a POLYLINE around where the network looked"
    yield "at a flagged finding: (130401, DCM, Visual explanation) = (130402, DCM, Class"
    yield "activation), and the heat of the line as a local number that says what it is; neither"
    yield "finding nor finding site."
    yield ""
    yield "**Text** (`text`): Basic Text SR under the same local title: the findings in"
    yield "sentences."
    yield ""
    yield "**Capture:** Secondary Capture, Modality OT, RGB, 8 bits, one for each image in scope,"
    yield "with attention also a series of pages of where the network looked; ImageType"
    yield "DERIVED\\SECONDARY, ConversionType WSD, ContentQualification RESEARCH."
    yield ""
    yield "**Rejection note** (`rejection`): Key Object Selection Document, TID 2010, whose title"
    yield f"is of CID 7011 ({', '.join(TITLES)}); names the node's own results of"
    yield "one study that the destination was sent."
    yield ""
    yield "**Presentation state** (`presentation`, off by default): Grayscale Softcopy"
    yield "Presentation State, one an image: the same lines on a layer named AI; rescale, window"
    yield "and polarity are those of the image. None for an image shown through a look-up table."
    yield ""
    yield "**Segmentation** (`segmentation`, off by default): Segmentation, BINARY, one an image:"
    yield "left lung, right lung and heart on the grid of the image, with its frame of reference"
    yield "where it has one."
    yield ""
    yield "Which of them a destination gets is a setting. All stand in the study of their source,"
    yield "in series of their own with high numbers. Tracking identifiers persist from report to"
    yield "report. Our own texts are ASCII; the patient's attributes are taken over with the"
    yield "source's Specific Character Set, but for a sequence or a number that stands where the"
    yield "standard has text: an object whose patient it would name is refused (0xC000), elsewhere"
    yield "it is left out. UIDs are made under 2.25 from random UUIDs (PS3.5 B.2)."


def _reasons() -> Iterator[str]:
    yield from _section("Why an image gets no findings")
    rows = [(f"`{reason}`", meaning) for reason, meaning in gate.MEANINGS.items()]
    yield from _table(("code", "meaning"), rows)


def _section(title: str) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    sys.stdout.write(statement())
