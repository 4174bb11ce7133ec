"""Every error of prescreen, drawn as a tree. The docstring of a class is what its reader may do.

::

    PrescreenError                 retryable = False
    ├── SettingsError              names key, value, rule
    ├── WeightsError               checksum or manifest
    ├── StoreError                 data directory, database or spool cannot be used
    │   └── NotThere               a study, job or finding of that name is not known
    ├── Refusal                    an incoming instance that is not kept;   .status
    │   ├── CannotUnderstand  0xC000
    │   ├── DoesNotMatch      0xA900
    │   ├── InvalidInstance   0x0117
    │   └── OutOfResources    0xA700
    ├── UnusableImage              can never be screened; a person must look;   .reason
    ├── PictureLost                decoded once, and not again;   retryable = True
    ├── UnfitObject                a result that did not pass the last look; it leaves nowhere
    ├── LeaseLost                  someone else owns the job
    └── DeliveryError
        ├── PeerUnavailable        retryable = True
        ├── StudyDiffers           the archive has no such study, or under another patient
        └── PeerRefused            .status; retryable depends on it
            └── ContextRejected  0x0122   takes no such object, or not so encoded

A worker settles an error of ours that is not retryable at once, with its reason; anything else is
tried again with growing delay and then settled with the traceback kept.
"""

from __future__ import annotations

import traceback


class PrescreenError(Exception):
    """Something prescreen can name. The text says what, and the way out."""

    retryable = False


class SettingsError(PrescreenError):
    """A setting is unknown, of the wrong type or impossible. Correct the named key."""


class WeightsError(PrescreenError):
    """Weights or their manifest are missing, damaged or do not belong together. Reinstall them."""


class StoreError(PrescreenError):
    """The data directory, its database or its spool cannot be used as they are."""


class NotThere(StoreError):
    """What was asked for is not there. Correct the name; the text says where to look."""


class Refusal(PrescreenError):
    """An incoming instance is not kept; the sender is told `status` (PS3.4 Annex B.2.3)."""

    status = 0xC000


class CannotUnderstand(Refusal):
    """The data set does not parse (0xC000). The sender's file is damaged or not DICOM."""

    status = 0xC000


class DoesNotMatch(Refusal):
    """The data set's SOP class or instance differs from the command's (0xA900)."""

    status = 0xA900


class InvalidInstance(Refusal):
    """A UID is malformed (0x0117, PS3.7 C.5.12)."""

    status = 0x0117


class OutOfResources(Refusal):
    """No room, or the database is locked (0xA700). The sender should try again later."""

    retryable = True
    status = 0xA700


class UnusableImage(PrescreenError):
    """This image can never be screened; a person must look. `reason` is the audit code."""

    def __init__(self, message: str, reason: str = "unusable_image") -> None:
        super().__init__(message)
        self.reason = reason


class PictureLost(PrescreenError):
    """A picture that was decoded before could not be decoded again. Its study is tried again."""

    retryable = True


class UnfitObject(PrescreenError):
    """A result that did not pass the last look before it is published; it leaves nowhere.

    It lies in `spool/quarantine` with the reason; its study gets a notice.
    """


class LeaseLost(PrescreenError):
    """Another worker owns the job now; whatever this one did does not count."""


class DeliveryError(PrescreenError):
    """An object did not reach its destination."""


class PeerUnavailable(DeliveryError):
    """The peer could not be reached, or broke off. Tried again for as long as it takes."""

    retryable = True


class StudyDiffers(DeliveryError):
    """The destination has no such study, or has it under another patient or order.

    Nothing was sent. Waited for; after a day a person looks.
    """

    retryable = True


class PeerRefused(DeliveryError):
    """The peer answered with a failure status; see the peer's log for what it disliked."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ContextRejected(PeerRefused):
    """The peer takes no such object, or not in this transfer syntax: send the fallback, or park.

    Decided in the negotiation (PS3.8 9.3.3.2), or by 0x0122, SOP Class Not Supported (PS3.7 C.5).
    """

    def __init__(self, message: str, status: int = 0x0122) -> None:
        super().__init__(message, status)


def trace_of(error: BaseException) -> str:
    """Where an error and what caused it came from, with the texts that are ours or the system's.

    The text of any other may quote values of a data set: of it the type alone is told.
    """
    frames = "".join(traceback.format_tb(error.__traceback__))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = "" if cause is None else f"{trace_of(cause)}then "
    text = f": {error}" if isinstance(error, PrescreenError | OSError) else ""
    return f"{before}{type(error).__name__}{text} at\n{frames}"
