from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import results
from tests.peers.made import KINDS, every_kind
from tests.peers.orthanc import Orthanc, running


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    return every_kind(results.chest())


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_every_kind_byte_for_byte(
    kind: str, made: dict[str, bytes], orthanc: Orthanc
) -> None:
    stored = orthanc.post("/instances", made[kind])
    assert stored["Status"] == "Success"
    assert orthanc.get(f"/instances/{stored['ID']}/file") == made[kind]


def test_they_join_the_study_of_their_source(made: dict[str, bytes], orthanc: Orthanc) -> None:
    source = orthanc.post("/instances", Path(results.chest_path()).read_bytes())
    study = orthanc.json(f"/instances/{source['ID']}/study")["ID"]
    for part10 in made.values():
        stored = orthanc.post("/instances", part10)
        assert orthanc.json(f"/instances/{stored['ID']}/study")["ID"] == study
    assert len(orthanc.json(f"/studies/{study}")["Series"]) == 1 + sum(
        "fallback" not in kind for kind in KINDS
    )


def test_it_shows_the_capture(made: dict[str, bytes], orthanc: Orthanc) -> None:
    stored = orthanc.post("/instances", made["capture"])
    assert orthanc.get(f"/instances/{stored['ID']}/preview").startswith(b"\x89PNG")
