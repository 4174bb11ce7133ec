"""Rows W12 and D4 to D6: bytes of strangers end in an answer or an error of ours, quoting nothing.

hypothesis changes whole inputs here; `make soak` lets atheris hunt through the same targets.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fuzzing

ROOT = Path(__file__).parents[2]
#: Bytes that mean something in one of the formats.
WORDS = (
    b"\xff\xff\xff\xff",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0",
    b"\xfe\xff\xdd\xe0",
    b"SQ\0\0",
    b"UN\0\0",
    b"\0",
    b"\x04\0\0\0\0\x08",
    b"NaN",
    b"1e999",
    b"[[",
    b'"',
    b"\x1b$B",
    b"null",
)

edits = st.lists(
    st.tuples(
        st.floats(0, 1),  # where, of the whole
        st.integers(0, 8),  # how many bytes go
        st.one_of(st.sampled_from(WORDS), st.binary(max_size=6)),
    ),
    max_size=6,
)


def edited(whole: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for where, gone, new in changes:
        at = int(where * len(whole))
        whole = whole[:at] + new + whole[at + gone :]
    return whole


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_w12_changed_bytes_meet_errors_of_ours(target: str) -> None:
    @settings(max_examples=100)
    @given(st.sampled_from(fuzzing.seeds(target)), edits, st.floats(0, 1))
    def hold(seed: bytes, changes: list[tuple[float, int, bytes]], end: float) -> None:
        whole = edited(seed, changes)
        fuzzing.TARGETS[target](whole)
        fuzzing.TARGETS[target](whole[: int(end * len(whole))])

    hold()


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_w12_whole_inputs_are_taken(target: str) -> None:
    for seed in fuzzing.seeds(target):
        fuzzing.TARGETS[target](seed)


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_w12_what_was_found_once_stays_mended(target: str) -> None:
    for path in fuzzing.corpus(target):
        fuzzing.TARGETS[target](path.read_bytes())


@pytest.mark.soak
@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_w12_atheris_finds_nothing(target: str, tmp_path: Path) -> None:
    hunt = [sys.executable, "-m", "tests.hunting", target, "--seconds", "300"]
    said = subprocess.run(hunt, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert said.returncode == 0, said.stderr[-4000:]
