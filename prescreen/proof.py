"""What a destination is asked before and after it is sent something.

Before: is the study still there, under the same patient and order? Where the archive has others by
now, they count. After: does it promise to keep
what it took, or does it at least list it? What a destination turns out not to offer is not asked
for again for an hour.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence

from prescreen.dicom import commitment, query
from prescreen.errors import ContextRejected, DeliveryError, PeerRefused, StudyDiffers
from prescreen.settings import Destination
from prescreen.store.commitments import Commitments, Question
from prescreen.store.corrections import Unheeded
from prescreen.study import Delivery

logger = logging.getLogger(__name__)

#: Seconds between two looks for what is to be asked.
LOOK_EVERY = datetime.timedelta(seconds=2)
#: How long it is believed that a destination does not offer something.
BELIEVED = datetime.timedelta(hours=1)
#: How long a study that was found as expected is not asked for again.
CHECKED = datetime.timedelta(minutes=1)
#: Questions by C-FIND after which an object that is not listed counts as lost.
PATIENCE = 3

_COMMITMENT, _QUERY = "storage commitment", "C-FIND"

#: Study Instance UID -> patient and order as the node knows them now.
Identify = Callable[[str], Mapping[str, str]]
#: Takes over what a destination says; see `Corrections.correct`.
Correct = Callable[[Delivery, Mapping[str, str], Mapping[str, str], str | None], Unheeded | None]


class Proof:
    """The questions to one destination, asked by the thread that sends to it."""

    def __init__(
        self,
        destination: Destination,
        calling_ae_title: str,
        commitments: Commitments,
        identify: Identify,
        correct: Correct,
        clock: Callable[[], datetime.datetime],
    ) -> None:
        self._destination = destination
        self._calling = calling_ae_title
        self._commitments = commitments
        self._identify = identify
        self._correct = correct
        self._clock = clock
        self._not_offered: dict[str, datetime.datetime] = {}
        self._checked: dict[str, tuple[datetime.datetime, Mapping[str, str]]] = {}
        self._next_look: datetime.datetime | None = None

    # --- before ------------------------------------------------------------------------------

    def check(self, delivery: Delivery) -> bool:
        """Whether to send: the study is there as we know it, where that can be asked.

        A report must not bring a deleted study back, nor reach a patient it is not of: StudyDiffers
        then. Where the destination has another patient or order by now, that is taken over: False,
        as the row is cancelled and the report made again. What takes a result back is sent in any
        case. PeerUnavailable where the peer does not answer.
        """
        uid, now = delivery.study_instance_uid, self._clock()
        if delivery.kind == "rejection" or not self._may_ask(_QUERY):
            return True
        known = dict(self._identify(uid))
        if self._was_checked(uid, known, now):
            return True
        try:
            listed = query.study(self._destination, self._calling, uid)
        except PeerRefused as error:
            logger.warning("%s: it is sent to unasked", error)
            self._believe_not_offered(_QUERY)
            return True
        changes = self._changes(listed, known, uid)
        if changes:
            self._take_over(delivery, listed[0], known, changes)
            return False
        self._checked[uid] = now, known
        return True

    def _was_checked(self, uid: str, known: Mapping[str, str], now: datetime.datetime) -> bool:
        self._checked = {u: one for u, one in self._checked.items() if abs(now - one[0]) < CHECKED}
        return uid in self._checked and self._checked[uid][1] == known

    def _changes(
        self, listed: Sequence[query.Listed], known: Mapping[str, str], uid: str
    ) -> dict[str, str]:
        """What the one answer says otherwise; StudyDiffers where there is none, or several."""
        if not listed:
            raise StudyDiffers(
                f"{self._destination.name}: has no study {uid}: not there yet, or deleted; "
                'an archive of results alone gets query = "none" in its settings'
            )
        found = [one.changes(known) for one in listed]
        if len(listed) > 1 and any(found):
            raise StudyDiffers(
                f"{self._destination.name}: has study {uid} more than once, under several patients "
                "or orders; bring it together there"
            )
        return found[0]

    def _take_over(
        self,
        delivery: Delivery,
        told: query.Listed,
        known: Mapping[str, str],
        changes: Mapping[str, str],
    ) -> None:
        """Let the study be the one the destination has; StudyDiffers where that cannot be."""
        uid, who = delivery.study_instance_uid, self._destination.name
        words = " and ".join(_WORDS[name] for name in changes)
        if self._destination.test or self._destination.query == "compare":
            why = "what this destination says is not taken over"
        else:
            another = {"patient_id", "issuer_of_patient_id"} & set(changes)
            sex = told.patient_sex or ("" if another else None)
            refused = self._correct(delivery, known, changes, sex)
            if refused is None:
                logger.warning("%s: has study %s under another %s; made again", who, uid, words)
                return
            why = str(refused)
        raise StudyDiffers(
            f"{who}: has study {uid} under another {words}; {why}; "
            "send the corrected images to this node: the report is made again"
        )

    # --- after -------------------------------------------------------------------------------

    @property
    def is_wanted(self) -> bool:
        """Whether what is delivered now is to be asked for afterwards."""
        if self._destination.commitment == "none":
            return False
        required = self._destination.commitment == "required"
        return required or self._may_ask(_COMMITMENT) or self._may_ask(_QUERY)

    def look(self) -> None:
        """Ask for what is due; what the peer does not answer is asked again later."""
        now = self._clock()
        due = self._next_look
        if self._destination.commitment == "none":
            return
        if due is not None and due - LOOK_EVERY <= now < due:
            return
        self._next_look = now + LOOK_EVERY
        given_up = self._commitments.expire(
            self._destination.name, self._destination.commitment_days
        )
        if given_up:
            logger.error(
                "%s: gave no promise for %d objects within %g days; they are asked for no more",
                self._destination.name,
                given_up,
                self._destination.commitment_days,
            )
        again = self._destination.commitment_again
        question = self._commitments.question(self._destination.name, again)
        if question is not None:
            self._ask(question)

    def _ask(self, question: Question) -> None:
        try:
            if self._may_ask(_COMMITMENT):
                self._ask_to_keep(question)
            else:
                self._prove_otherwise(question)
        except ContextRejected as error:
            logger.warning("%s", error)
            self._believe_not_offered(_COMMITMENT)
            self._prove_otherwise(question)
        except DeliveryError as error:
            logger.warning("%s; asked again later", error)

    def _ask_to_keep(self, question: Question) -> None:
        commitment.ask(
            self._destination,
            self._calling,
            question.transaction_uid,
            question.references,
            self._commitments.answered,
        )

    def _prove_otherwise(self, question: Question) -> None:
        """Without commitment: what the peer lists is there; where it must commit, ask on."""
        if self._destination.commitment == "required":
            return
        try:
            if self._may_ask(_QUERY):
                listed = query.present(self._destination, self._calling, question.references)
                self._commitments.found(question, listed, PATIENCE)
                return
        except ContextRejected:
            self._believe_not_offered(_QUERY)
        except DeliveryError as error:
            logger.warning("%s; asked again later", error)
            return
        self._commitments.give_up(question, "the peer offers neither commitment nor C-FIND")

    # --- what it offers ----------------------------------------------------------------------

    def _may_ask(self, what: str) -> bool:
        if what == _QUERY and self._destination.query == "none":
            return False
        until = self._not_offered.get(what)
        return until is None or not until - BELIEVED <= self._clock() < until

    def _believe_not_offered(self, what: str) -> None:
        self._not_offered[what] = self._clock() + BELIEVED


_WORDS = {
    "patient_id": "Patient ID",
    "issuer_of_patient_id": "issuer of the Patient ID",
    "patient_name": "Patient's Name",
    "patient_birth_date": "birth date",
    "accession_number": "Accession Number",
}
