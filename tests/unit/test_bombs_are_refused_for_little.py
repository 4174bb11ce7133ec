"""Rows D4 and D5 of the fault matrix: what asks for gigabytes is refused for the price of a look.

Each file is looked at as the receiver, the screener and the decoding child look at it, in a
process of its own that tells how far it grew. How long it takes is told by `python -m tests.costs`,
not asserted.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from prescreen.dicom.image import Decoder, identify, read_header
from tests.bombs import BOMBS, NESTED, deep
from tests.costs import hostile

#: MiB that one hostile object may cost before it is refused.
BOUND = 64


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[str, float]]]:
    """What every file cost: file, way in → what was said, and MiB."""
    found: dict[str, dict[str, tuple[str, float]]] = {}
    for line in hostile(tmp_path_factory.mktemp("bombs")):
        found.setdefault(line["file"], {})[line["way"]] = (line["said"], line["mib"])
    return found


@pytest.mark.parametrize("name", BOMBS)
def test_d4_a_bomb_is_not_decoded(
    name: str, costs: dict[str, dict[str, tuple[str, float]]]
) -> None:
    assert costs[name]["decoded"][0] == BOMBS[name][1]


@pytest.mark.parametrize("name", NESTED)
def test_d5_nesting_beyond_64_is_refused(
    name: str, costs: dict[str, dict[str, tuple[str, float]]]
) -> None:
    assert {way: said for way, (said, _) in costs[name].items()} == {
        "received": "0xC000",
        "tags read": NESTED[name][1],
        "decoded": NESTED[name][1],
    }


@pytest.mark.parametrize("name", [*BOMBS, *NESTED])
def test_d4_d5_no_hostile_object_costs_more_than_64_mib(
    name: str, costs: dict[str, dict[str, tuple[str, float]]]
) -> None:
    assert {way: mib for way, (_, mib) in costs[name].items() if mib > BOUND} == {}


def test_d5_nesting_of_64_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep.dcm"
    for defined in (False, True):
        path.write_bytes(deep(64, defined)())
        identify(path.read_bytes())
        read_header(path)
        with Decoder() as decoder:
            assert decoder.read(path).pixels.shape == (64, 48)
