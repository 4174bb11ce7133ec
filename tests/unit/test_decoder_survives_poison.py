"""A file that kills, blocks or bloats its decoding process costs that image and no other."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from prescreen.dicom.decode import Decoder, read_image
from prescreen.dicom.image import ImageReason, header_of, read_header, render
from prescreen.dicom.render import Allocate
from prescreen.errors import UnusableImage
from prescreen.study import Radiograph
from tests.pictures import data_set, ramp, saved


def _toil() -> None:
    while True:
        pass


def poisonous(path: Path, max_megapixels: float, allocate: Allocate, digested: bool) -> Radiograph:
    """What the name of the file asks for; anything else is read as it should be."""
    deeds: dict[str, Callable[[], object]] = {
        "exit": lambda: os._exit(7),
        "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "hang": lambda: time.sleep(600),
        "toil": _toil,
        "wait": lambda: time.sleep(3),
        "bloat": lambda: np.ones(1 << 32, np.uint8),
        "raise": lambda: {"": 0}["Canary^Bird"],
        "torch": lambda: os._exit(8 if "torch" in sys.modules else 9),
    }
    deed = deeds.get(path.stem)
    if deed is not None:
        deed()
    return read_image(path, max_megapixels, allocate, digested)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(workers=1, seconds=1, memory_mb=512, read=poisonous) as decoder:
        yield decoder


POISON = [
    ("exit", ImageReason.DECODE_CRASHED, "ended with exit status 7"),
    ("segfault", ImageReason.DECODE_CRASHED, "ended by signal 11"),
    ("hang", ImageReason.DECODE_TIMEOUT, "longer than decode_seconds = 1"),
    ("toil", ImageReason.DECODE_TIMEOUT, "longer than decode_seconds = 1"),
    ("bloat", ImageReason.DECODE_MEMORY, "more memory than decode_memory_mb allows"),
    ("raise", ImageReason.DECODE_FAILED, r"KeyError at test_decoder_survives_poison\.py:\d+"),
]


@pytest.mark.parametrize(("name", "reason", "words"), POISON)
def test_poison_is_refused_and_the_next_image_is_read(
    decoder: Decoder, tmp_path: Path, name: str, reason: ImageReason, words: str
) -> None:
    poison = saved(tmp_path, data_set(ramp()), f"{name}.dcm")
    healthy = saved(tmp_path, data_set(ramp()), "healthy.dcm")
    with pytest.raises(UnusableImage, match=words) as refusal:
        decoder.read(poison)
    assert refusal.value.reason == reason
    assert "Canary" not in str(refusal.value)
    radiograph = decoder.read(healthy)
    assert np.array_equal(radiograph.pixels, render(data_set(ramp())).pixels)


def test_a_picture_that_waits_for_a_processor_is_read(decoder: Decoder, tmp_path: Path) -> None:
    """Three times the limit by the clock, and next to nothing of a processor."""
    radiograph = decoder.read(saved(tmp_path, data_set(ramp()), "wait.dcm"))
    assert radiograph.pixels.shape == (64, 48)


def test_a_damaged_length_asks_for_no_memory(decoder: Decoder, tmp_path: Path) -> None:
    ds = data_set(ramp(), PatientComments="0123456789")
    path = saved(tmp_path, ds)
    whole = path.read_bytes()
    start = whole.index(b"LT\x0a\x000123")
    for damage in (b"UN\0\0\xf0\xff\xff\xff", b"OB\0\0\xf0\xff\xff\xff"):
        path.write_bytes(whole[:start] + damage + whole[start + 4 :])
        with pytest.raises(UnusableImage) as refusal:
            decoder.read(path)
        assert refusal.value.reason != ImageReason.DECODE_MEMORY


def test_one_poison_among_many_is_the_only_one_lost(decoder: Decoder, tmp_path: Path) -> None:
    names = ["a", "b", "exit", "c", "d"]
    paths = [
        saved(tmp_path, data_set(ramp(top=100 * n + 100)), f"{x}.dcm") for n, x in enumerate(names)
    ]
    answers = decoder.read_all(paths)
    assert [isinstance(answer, UnusableImage) for answer in answers] == [x == "exit" for x in names]
    for path, answer in zip(paths, answers, strict=True):
        if not isinstance(answer, UnusableImage):
            assert answer.header == header_of(read_header(path))


def children() -> list[int]:
    """The processes that this one has spawned to decode."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(encoding="ascii")
    return [pid for pid in map(int, found.split()) if b"spawn_main" in _command(pid)]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_child_killed_while_idle_costs_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, data_set(ramp()))
    before = set(children())
    with Decoder() as own:
        own.read(path)
        for _ in range(2):
            for pid in set(children()) - before:
                os.kill(pid, signal.SIGKILL)
            assert own.read(path).pixels.shape == (64, 48)


def test_refusals_pass_through_with_their_reason(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(UnusableImage, match="Pixel Data has 6144 bytes") as refusal:
        decoder.read(saved(tmp_path, data_set(ramp(), Columns=47)))
    assert refusal.value.reason == ImageReason.IMPLAUSIBLE_PIXELS
    with pytest.raises(UnusableImage, match="No such file") as refusal:
        decoder.read(tmp_path / "missing.dcm")
    assert refusal.value.reason == ImageReason.UNREADABLE


def test_the_child_carries_no_networks(decoder: Decoder, tmp_path: Path) -> None:
    sys.modules.setdefault("torch", sys)  # as in the process that screens
    try:
        with pytest.raises(UnusableImage, match="exit status 9"):
            decoder.read(tmp_path / "torch.dcm")
    finally:
        if sys.modules["torch"] is sys:
            del sys.modules["torch"]


def test_pixels_stay_as_they_are_while_others_are_read(decoder: Decoder, tmp_path: Path) -> None:
    paths = [saved(tmp_path, data_set(ramp(top=50 * n + 50)), f"{n}.dcm") for n in range(12)]
    kept = [decoder.read(path).pixels for path in paths]
    copies = [pixels.copy() for pixels in kept]
    for path in reversed(paths):
        decoder.read(path)
    gc.collect()
    decoder.read_all(paths)
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_no_descriptor_is_left(decoder: Decoder, tmp_path: Path) -> None:
    path = saved(tmp_path, data_set(ramp()))
    decoder.read(path)
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        decoder.read(path)
        with pytest.raises(UnusableImage):
            decoder.read(tmp_path / "missing.dcm")
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_the_header_comes_back_whole(decoder: Decoder, tmp_path: Path) -> None:
    path = saved(tmp_path, data_set(ramp(), PatientAge="040Y"))
    assert decoder.read(path).header == header_of(read_header(path))


def test_results_outlive_the_decoder(tmp_path: Path) -> None:
    path = saved(tmp_path, data_set(ramp()))
    with Decoder() as decoder:
        radiograph = decoder.read(path)
    with pytest.raises(RuntimeError):
        decoder.read(path)
    assert np.array_equal(radiograph.pixels, render(data_set(ramp())).pixels)
