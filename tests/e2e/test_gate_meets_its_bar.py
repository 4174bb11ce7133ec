"""The gate with the shipped networks, on pictures whose tags all say chest PA."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from prescreen.dicom.image import Decoder
from prescreen.nets.screener import Screener
from tests.canaries import sample
from train import gate_check

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
BAR = 0.95

#: What is no frontal chest among the files of pydicom-data: limb, head, neck, abdomen.
OTHERS = ("RG3_UNCR", "RG3_J2KI", "693_UNCI", "MR2_UNCI", "bad_sequence", "explicit_VR-UN")


@pytest.fixture(scope="module")
def screener() -> Screener:
    return Screener(WEIGHTS, "cpu")


def dicom(name: str) -> Path:
    return sample(f"{name}.dcm")


def decided(listed: list[tuple[str, Path]], screener: Screener) -> list[gate_check.Decision]:
    with Decoder(workers=1, seconds=60) as decoder:
        return list(gate_check.decisions(listed, decoder, screener))


def test_the_chest_is_screened_and_the_leg_is_not(screener: Screener) -> None:
    listed = [("frontal", dicom("RG1_UNCR")), *(("other", dicom(name)) for name in OTHERS)]
    reasons = {decision.path: decision.reason for decision in decided(listed, screener)}
    assert reasons.pop("RG1_UNCR.dcm") == gate_check.SCREENED
    assert gate_check.SCREENED not in reasons.values()
    assert len(reasons) == len(OTHERS)


@pytest.mark.data
def test_views_at_hand(screener: Screener, data_dir: Path) -> None:
    listed = [pair for pair in gate_check.known(data_dir) if pair[0].endswith("views")]
    decisions = decided(listed, screener)
    shares = {kind: row["share"] for kind, row in gate_check.figures(decisions).items()}
    assert Counter(decision.kind for decision in decisions) == {
        "frontal, views": 20,
        "lateral, views": 14,
        "ct, views": 6,
    }
    assert all(share >= BAR for share in shares.values()), shares
