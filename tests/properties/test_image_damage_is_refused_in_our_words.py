"""Whatever bytes of a file are damaged: an answer or an error of ours, quoting nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prescreen.dicom.decode import read_image
from prescreen.dicom.image import header_of, identify, read_header
from prescreen.errors import CannotUnderstand, InvalidInstance, UnusableImage
from tests.pictures import data_set, part10, ramp

DS = data_set(
    ramp(), WindowCenter="2000", WindowWidth="4000", RescaleSlope="1", RescaleIntercept="0"
)
FILES = [part10(DS), part10(DS, implicit=True)]
HEADER = 900  # bytes from the start that hold everything but pixels

damages = st.lists(
    st.tuples(st.integers(128, HEADER), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x5C, 0x1B])),
    min_size=1,
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILES), damages, st.one_of(st.none(), st.integers(0, HEADER)))
def test_damage_is_refused_or_read(
    whole: bytes, damage: list[tuple[int, int]], end: int | None
) -> None:
    damaged = bytearray(whole)
    for position, byte in damage:
        damaged[position] = byte
    content = bytes(damaged[:end])
    try:
        identify(content)
    except (CannotUnderstand, InvalidInstance) as refusal:
        assert "Canary" not in str(refusal)
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(content)
        try:
            header_of(read_header(path))
            read_image(path, 64, lambda shape: np.empty(shape, np.float32))
        except UnusableImage as refusal:
            assert "Canary" not in str(refusal)
