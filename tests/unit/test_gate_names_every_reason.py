"""Every reason of the gate has an example that meets it, and a sentence."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prescreen import gate
from prescreen.gate import Reason
from prescreen.settings import Scope
from prescreen.study import Anatomy, FloatArray
from tests import chests

NOW = datetime.datetime(2026, 3, 4, 12, tzinfo=datetime.UTC)
SCOPE = Scope(calling_ae_titles=("MODALITY",))
Answer = Callable[[], Reason | None]


def tags(**values: Any) -> Answer:
    return lambda: gate.before(replace(chests.HEADER, **values), None)


def pixels(change: Callable[[FloatArray], FloatArray]) -> Answer:
    def answer() -> Reason | None:
        changed = np.ascontiguousarray(change(chests.whole().pixels), dtype=np.float32)
        return gate.before(chests.HEADER, chests.radiograph(changed))

    return answer


def anatomy(change: Callable[[Anatomy], Anatomy], distance: float = 0.8) -> Answer:
    def answer() -> Reason | None:
        screening = chests.screening(change(chests.anatomy()), distance)
        return gate.after(screening, chests.cut())

    return answer


def scope(calling_ae_title: str = "MODALITY", **values: Any) -> Answer:
    header = replace(chests.HEADER, **{"patient_age": 50.0, "acquired": NOW, **values})
    return lambda: gate.scope(header, SCOPE, calling_ae_title, NOW)


def without_heart(drawn: Anatomy) -> Anatomy:
    masks = drawn.masks.copy()
    masks[2] = False
    return Anatomy(masks, (0.93, 0.93, 0.0))


EXAMPLES: dict[Reason, Answer] = {
    Reason.OWN_RESULT: tags(is_own_result=True),
    Reason.MODALITY: tags(modality="CT"),
    Reason.SOP_CLASS: tags(sop_class_uid="1.2.840.10008.5.1.4.1.1.2"),
    Reason.MULTIPLE_FRAMES: tags(number_of_frames=2),
    Reason.SPECIES: tags(patient_species_description="Canine"),
    Reason.QUALITY_CONTROL: tags(quality_control_image="YES"),
    Reason.FOR_PROCESSING: tags(presentation_intent_type="FOR PROCESSING"),
    Reason.COMPANION: tags(series_description="PA Bone Suppressed"),
    Reason.DERIVED_VIEW: tags(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")),
    Reason.BODY_PART: tags(body_part_examined="HIP"),
    Reason.VIEW: tags(view_position="LL"),
    Reason.TOO_SMALL: pixels(lambda chest: chest[:150]),
    Reason.ASPECT: pixels(lambda chest: np.hstack([chest] * 3)),
    Reason.CONTRAST: pixels(lambda chest: chest * 0 + 0.5),
    Reason.INVERTED: pixels(lambda chest: 1 - chest),
    Reason.ROTATED: pixels(np.rot90),
    Reason.ANATOMY_NOT_ASSESSABLE: anatomy(lambda drawn: replace(drawn, certainty=(0.9, 0.6, 0.9))),
    Reason.NOT_FRONTAL_CHEST: anatomy(lambda drawn: replace(drawn, masks=drawn.masks[:, ::-1])),
    Reason.UNLIKE_TRAINING: anatomy(lambda drawn: drawn, distance=9.0),
    Reason.CALLING_AE_TITLE: scope(calling_ae_title="ELSEWHERE"),
    Reason.PRIOR: scope(acquired=NOW - datetime.timedelta(hours=49)),
    Reason.AGE: scope(patient_age=17.9),
    Reason.AGE_UNKNOWN: scope(patient_age=None),
}


@pytest.mark.parametrize("reason", EXAMPLES, ids=str)
def test_each_reason_is_reached(reason: Reason) -> None:
    assert EXAMPLES[reason]() is reason


def test_every_reason_has_an_example_and_a_meaning() -> None:
    assert set(EXAMPLES) == set(gate.MEANINGS) == set(Reason)
    assert len(set(gate.MEANINGS.values())) == len(Reason)


@pytest.mark.parametrize(
    "answer",
    [
        tags(),
        pixels(lambda chest: chest),
        anatomy(lambda drawn: drawn),
        lambda: gate.after(
            chests.without_limit(chests.screening(chests.anatomy(), 9.0)), chests.cut()
        ),
        scope(),
    ],
    ids=["tags", "pixels", "anatomy", "no limit of distance", "scope"],
)
def test_an_ordinary_chest_is_screened(answer: Answer) -> None:
    assert answer() is None


@pytest.mark.parametrize(
    "change", [without_heart, lambda drawn: replace(drawn, masks=drawn.masks & False)]
)
def test_a_missing_organ_is_not_assessable(change: Callable[[Anatomy], Anatomy]) -> None:
    assert anatomy(change)() in (Reason.ANATOMY_NOT_ASSESSABLE, Reason.NOT_FRONTAL_CHEST)


def test_a_heart_on_the_right_is_not_assessable() -> None:
    """Dextrocardia, or a mirrored film: somebody must read it unaided."""
    turned = chests.radiograph(np.ascontiguousarray(chests.cut().pixels[:, ::-1]))
    screening = chests.screening(chests.mirrored(chests.anatomy()))
    assert gate.after(screening, turned) is Reason.ANATOMY_NOT_ASSESSABLE


def half_white(quarters: int, share: float) -> Callable[[FloatArray], FloatArray]:
    """The chest with white from one side on: the left, the bottom, the right or the top."""

    def change(chest: FloatArray) -> FloatArray:
        turned = np.rot90(chest, quarters).copy()
        turned[:, : int(share * turned.shape[1])] = 1
        return np.rot90(turned, -quarters)

    return change


@pytest.mark.parametrize("share", [0.4, 0.5])
@pytest.mark.parametrize("quarters", [0, 2], ids=["left", "right"])
def test_a_chest_of_which_one_half_is_white_is_not_said_to_be_turned(
    quarters: int, share: float
) -> None:
    assert pixels(half_white(quarters, share))() is Reason.ANATOMY_NOT_ASSESSABLE


@pytest.mark.parametrize("quarters", range(4))
def test_a_turned_chest_with_a_white_margin_is_said_to_be_turned(quarters: int) -> None:
    margin = half_white(quarters, 0.1)
    assert pixels(lambda chest: np.rot90(margin(chest)))() is Reason.ROTATED


def test_what_somebody_may_wait_for_calls_for_a_notice() -> None:
    waiting = {reason for reason in Reason if reason.calls_for_notice}
    assert Reason.VIEW in waiting and Reason.ANATOMY_NOT_ASSESSABLE in waiting
    assert not waiting & {Reason.BODY_PART, Reason.PRIOR, Reason.FOR_PROCESSING, Reason.SPECIES}
