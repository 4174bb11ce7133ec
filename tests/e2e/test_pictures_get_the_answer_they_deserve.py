"""Rows D8 to D11 and D16 of the fault matrix, with the networks that are shipped.

However a picture is coded, its probabilities are those of the plain one; what is no chest gets no
finding; and what is written of a radiograph, its patient's name in any character set, is valid.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from prescreen import node
from prescreen.dicom.decode import Decoder
from prescreen.nets.screener import Screener
from prescreen.settings import load
from tests.parcels import Parcels, chest, element, with_element
from tests.peers.dicom3tools import errors_of

#: How far a probability may be from that of the plain coding.
CLOSE = 0.01


@pytest.fixture(scope="module")
def screener() -> Screener:
    return Screener(node.weights_dir(load(None)), "cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, screener: Screener) -> Iterator[Parcels]:
    with Decoder() as decoder:
        home = Parcels(tmp_path_factory.mktemp("house"), decoder)
        home.screener = screener  # type: ignore[method-assign]
        yield home
        home.bench.engine.dispose()


@cache
def _cells() -> npt.NDArray[np.int64]:
    """The stored values of the real chest, air dark: 15 bits, every second pixel each way."""
    return 32_767 - np.asarray(pydicom.dcmread(BytesIO(chest())).pixel_array[::2, ::2], np.int64)


def _coded(cells: npt.NDArray[Any], **attributes: Any) -> bytes:
    """The chest with other stored values, and a full window for them."""
    bits = 8 * cells.dtype.itemsize
    form: dict[str, Any] = {
        "Rows": cells.shape[0],
        "Columns": cells.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(cells.dtype.kind == "i"),
        "PhotometricInterpretation": "MONOCHROME2",
        "WindowCenter": None,
        "WindowWidth": None,
        "PixelData": cells.tobytes(),
    }
    return chest(**{**form, **attributes})


def _shifted(by: int) -> npt.NDArray[np.uint16]:
    return (_cells() << by).astype("<u2")


def _reduced(bits: int) -> npt.NDArray[Any]:
    top = int(_cells().max())
    kind = "<u1" if bits == 8 else "<u2"
    return np.rint(_cells() / top * ((1 << bits) - 1)).astype(kind)


def _padded() -> npt.NDArray[np.uint16]:
    cells = _shifted(0)
    cells[:40] = 65_535
    return cells


def _reference() -> bytes:
    return _coded(_shifted(0), BitsStored=16)


def _voi_lut() -> pydicom.Dataset:
    item = pydicom.Dataset()
    low, high = np.quantile(_cells(), [0.001, 0.999])
    entries = np.clip((np.arange(1 << 15) - low) / (high - low), 0, 1) * 65_535
    item.add_new("LUTDescriptor", "US", [1 << 15, 0, 16])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return item


#: Row D8: codings of one picture.
CODINGS: dict[str, Callable[[], bytes]] = {
    "MONOCHROME1": lambda: _coded(
        (65_535 - _cells()).astype("<u2"), PhotometricInterpretation="MONOCHROME1"
    ),
    "PresentationLUTShape INVERSE": lambda: _coded(
        (65_535 - _cells()).astype("<u2"), PresentationLUTShape="INVERSE"
    ),
    "8 bits": lambda: _coded(_reduced(8)),
    "10 bits": lambda: _coded(_reduced(10), BitsStored=10, HighBit=9),
    "12 bits": lambda: _coded(_reduced(12), BitsStored=12, HighBit=11),
    "signed": lambda: _coded((_cells() - 16_384).astype("<i2")),
    "HighBit 15 of 15 stored": lambda: _coded(_shifted(1), BitsStored=15, HighBit=15),
    "overlay bits above": lambda: _coded(
        (_cells() | 0x8000).astype("<u2"), BitsStored=15, HighBit=14
    ),
    "rescaled": lambda: _coded(_shifted(0), RescaleSlope="0.25", RescaleIntercept="-1024"),
    "VOI LUT": lambda: _coded(_shifted(0), VOILUTSequence=[_voi_lut()]),
}


@pytest.fixture(scope="module")
def plain(home: Parcels) -> dict[str, float]:
    return _probabilities(home, _reference())


def _probabilities(home: Parcels, parcel: bytes) -> dict[str, float]:
    assert home.outcome(parcel) == ("screened", None)
    return {f["label"]: float(f["probability"]) for f in home.record(parcel).findings}


@pytest.mark.parametrize("name", CODINGS)
def test_d8_the_same_picture_has_the_same_probabilities(
    name: str, home: Parcels, plain: dict[str, float]
) -> None:
    found = _probabilities(home, CODINGS[name]())
    assert found.keys() == plain.keys()
    apart = {label: abs(found[label] - plain[label]) for label in plain}
    assert max(apart.values()) <= CLOSE, apart


def test_d8_padding_is_outside_the_histogram(home: Parcels) -> None:
    dark = _padded()
    dark[:40] = np.quantile(_cells()[40:], 0.001)
    as_air = _probabilities(home, _coded(dark))
    padding = element(0x00280120, b"US", b"\xff\xff")
    padded = _probabilities(home, with_element(_coded(_padded()), 0x00280120, padding))
    assert max(abs(padded[label] - as_air[label]) for label in as_air) <= CLOSE


# --- D9, D10: what is no chest as it should be -----------------------------------------------


def _noise() -> npt.NDArray[np.uint16]:
    return np.random.default_rng(7).integers(0, 65_536, (900, 800)).astype("<u2")


def _text() -> npt.NDArray[np.uint16]:
    """White lines of letters' size on black."""
    page = np.zeros((900, 800), "<u2")
    for row in range(40, 860, 30):
        page[row : row + 12, 60:740] = 60_000 * (np.arange(680) // 7 % 3 > 0)
    return page


def _phantom() -> npt.NDArray[np.uint16]:
    """A step wedge and a disc."""
    rows, columns = np.mgrid[0:900, 0:800]
    wedge = (columns // 100) * 6_000
    disc = (rows - 450) ** 2 + (columns - 400) ** 2 < 200**2
    return np.where(disc, 65_000, wedge).astype("<u2")


NO_CHEST: dict[str, Callable[[], bytes]] = {
    "all black": lambda: _coded(np.zeros((900, 800), "<u2")),
    "all white": lambda: _coded(np.full((900, 800), 65_535, "<u2")),
    "noise": lambda: _coded(_noise()),
    "a phantom": lambda: _coded(_phantom()),
    "text": lambda: _coded(_text(), SOPClassUID=SecondaryCaptureImageStorage),
}
MISPLACED: dict[str, Callable[[], bytes]] = {
    "turned by 90 degrees": lambda: _coded(np.ascontiguousarray(np.rot90(_shifted(0)))),
    "turned by 180 degrees": lambda: _coded(np.ascontiguousarray(np.rot90(_shifted(0), 2))),
    "mirrored": lambda: _coded(np.ascontiguousarray(_shifted(0)[:, ::-1])),
    "inverted": lambda: _coded((65_535 - _cells()).astype("<u2")),
}


def _assert_a_notice_and_no_finding(home: Parcels, parcel: bytes) -> None:
    outcome, reason = home.outcome(parcel)
    assert outcome == "not_screened"
    assert reason is not None
    assert home.record(parcel).findings == ()


@pytest.mark.parametrize("name", MISPLACED)
def test_d9_a_chest_that_is_not_upright_gets_a_notice_and_no_finding(
    name: str, home: Parcels
) -> None:
    _assert_a_notice_and_no_finding(home, MISPLACED[name]())


@pytest.mark.parametrize("name", NO_CHEST)
def test_d10_what_is_no_chest_gets_a_notice_and_no_finding(name: str, home: Parcels) -> None:
    _assert_a_notice_and_no_finding(home, NO_CHEST[name]())


# --- D11, D16: what is written ---------------------------------------------------------------

NAMES = {
    "ISO_IR 100": "Müller^Jörg",
    "ISO_IR 144": "Люкceмбypг^Иван",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "GB18030": "Wang^XiaoDong=王^小东",
    "ISO_IR 192": "Wang^XiaoDong=王^小東=Ünïcode^Ж",
    "ISO_IR 127": "قباني^لنزار",
    "": "Plain^Name",
    "ISO_IR 192 ": "ÄÖ^Ü",
    "ISO_IR 100 ": "A" * 30 + "^" + "B" * 33,
}


def _objects(home: Parcels) -> list[Path]:
    return [p for p in home.files() if "results" in p.parts and p.suffix == ".dcm"]


@pytest.mark.parametrize("charset", NAMES)
def test_d11_d16_a_name_comes_back_in_valid_objects(charset: str, home: Parcels) -> None:
    home.forget()
    terms = charset.strip().split("\\") if "\\" in charset else charset.strip()
    # a picture that gets a notice: its report and capture cost no network
    parcel = _coded(
        np.zeros((300, 300), "<u2"),
        SpecificCharacterSet=terms or None,
        PatientName=NAMES[charset],
    )
    home.outcome(parcel)
    objects = _objects(home)
    assert len(objects) == 2
    for path in objects:
        written = path.read_bytes()
        assert _raw_name(written) == _raw_name(parcel)
        assert str(pydicom.dcmread(path).PatientName) == NAMES[charset]
        assert errors_of(path) == []


def _raw_name(part10: bytes) -> bytes:
    return bytes(pydicom.dcmread(BytesIO(part10)).get_item("PatientName").value).rstrip()


def test_d16_report_and_capture_of_a_screened_chest_are_valid(home: Parcels) -> None:
    home.forget()
    assert home.outcome(_reference()) == ("screened", None)
    objects = _objects(home)
    assert {pydicom.dcmread(path).Modality for path in objects} >= {"SR", "OT"}
    for path in objects:
        assert errors_of(path) == []
    for report in (path for path in objects if pydicom.dcmread(path).Modality == "SR"):
        said = subprocess.run(
            ["dsrdump", str(report)], capture_output=True, text=True, timeout=60, check=True
        )
        lines = said.stderr.splitlines()
        assert not [line for line in lines if line.startswith(("E:", "F:", "W:"))]
