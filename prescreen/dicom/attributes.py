"""Reading a data set with forbearance: what is missing, empty or malformed is None.

pydicom converts a value when it is first touched, and on a malformed one it raises, or warns with
the value in the text: a patient's data on its way into a log. Here text and numbers are read from
the bytes as received, so neither happens.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import threading
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement

from prescreen.dicom.structure import LONGEST, NO_TEXT

Concept = tuple[str, str, str]

_BINARY = {"US": "<u2", "SS": "<i2", "UL": "<u4", "SL": "<i4", "US or SS": "<u2"}
_PADDING = " \0\t\r\n"
# Code extensions fall back to the first character set after these (PS3.5 6.1.2.5.3).
DELIMITERS = set(b"^=\\\r\n\t\f")
_TO_GB_2312 = "\x1b$)A"


_one_at_a_time = threading.RLock()  # the filters of `warnings` belong to the process


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """pydicom parses without warning: what a sender wrote stands in the texts."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Attributes:
    """The attributes of `ds`, each by its keyword; no method raises on what a sender wrote."""

    def __init__(self, ds: pydicom.Dataset, charset: tuple[str, ...] | None = None) -> None:
        self._ds = ds
        self._charset = charset

    def text(self, keyword: str) -> str | None:
        """The decoded text without its padding; several values stay joined by backslashes."""
        element = self._element(keyword)
        raw = None if element is None or is_no_text(element) else element.value
        if raw is None or _is_too_long(raw):
            return None
        text = _decoded(raw, self.encodings) if isinstance(raw, bytes) else _joined(raw)
        return text.strip(_PADDING) or None

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Each value of a multi-valued text, stripped; empty ones stay, as places count."""
        text = self.text(keyword)
        return tuple(part.strip(_PADDING) for part in text.split("\\")) if text else ()

    def code(self, keyword: str) -> str | None:
        """The first value of a code string, upper case."""
        codes = self.codes(keyword)
        return codes[0] or None if codes else None

    def codes(self, keyword: str) -> tuple[str, ...]:
        """All values of a code string, upper case."""
        return tuple(part.upper() for part in self.texts(keyword))

    def number(self, keyword: str) -> float | None:
        """The first value of a DS, IS, US or SS, finite."""
        numbers = self.numbers(keyword)
        return numbers[0] if numbers else None

    def integer(self, keyword: str) -> int | None:
        """The first value, where it is a whole number."""
        number = self.number(keyword)
        return int(number) if number is not None and number == int(number) else None

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """All values of a DS, IS, US or SS; empty where one of them is no finite number."""
        try:
            found = tuple(float(part) for part in self._numerals(keyword))
        except ValueError:
            return ()
        return found if all(math.isfinite(number) for number in found) else ()

    def words(self, keyword: str) -> npt.NDArray[np.uint16]:
        """The value of a US, SS or OW as unsigned 16-bit words, a last odd byte left out.

        For the "US or SS" attributes, whose sign only the reader knows (PS3.5 A.1).
        """
        element = self._element(keyword)
        value = None if element is None else element.value
        if isinstance(value, bytes):
            return np.frombuffer(value[: len(value) // 2 * 2], "<u2")
        try:
            integers = np.asarray([] if value is None else value, dtype=np.int64)
        except (TypeError, ValueError, OverflowError):
            integers = np.zeros(0, np.int64)
        return (np.atleast_1d(integers) & 0xFFFF).astype(np.uint16)

    def content(self, keyword: str) -> bytes:
        """The bytes of an OB or OW as they are, not copied; empty where there are none."""
        element = self._element(keyword)
        value = None if element is None else element.value
        return value if isinstance(value, bytes) else b""

    def items(self, keyword: str) -> list[Attributes]:
        """The items of a sequence."""
        if keyword not in self._ds:
            return []
        try:
            with without_warnings():
                value = self._ds[keyword].value
        except Exception:  # whatever a malformed sequence makes pydicom raise: there are no items
            return []
        if not isinstance(value, pydicom.Sequence):
            return []
        return [Attributes(item, self._terms) for item in value]

    def concept(self, keyword: str) -> Concept | None:
        """The first item of a code sequence: value, scheme, meaning (PS3.3 8.1 to 8.3)."""
        for item in self.items(keyword):
            value = item.text("CodeValue") or item.text("LongCodeValue")
            scheme = item.text("CodingSchemeDesignator")
            if value and scheme:
                return value, scheme, item.text("CodeMeaning") or ""
        return None

    @property
    def _terms(self) -> tuple[str, ...]:
        """The terms of Specific Character Set; an item without one has its parent's."""
        element = self._element("SpecificCharacterSet")
        if element is None:
            return self._charset or ()
        raw = element.value
        text = raw.decode("ascii", "replace") if isinstance(raw, bytes) else _joined(raw)
        return tuple(part.strip(_PADDING) for part in text.split("\\"))

    @functools.cached_property
    def encodings(self) -> tuple[str, ...]:
        """Python's names of the character sets, latin-1 where there is none or it is unknown."""
        known = [python_encoding.get(_repaired(term)) for term in self._terms]
        return tuple(name for name in known if name) or ("latin-1",)

    def _element(self, keyword: str) -> DataElement | RawDataElement | None:
        tag = tag_for_keyword(keyword)
        if tag is None or tag not in self._ds:
            return None
        try:
            return self._ds.get_item(tag)
        except Exception:  # a VR that no standard knows: the element cannot be read
            return None

    def _numerals(self, keyword: str) -> Sequence[str | int]:
        element = self._element(keyword)
        if element is None or element.value is None:
            return ()
        if isinstance(element.value, bytes) and not _is_too_long(element.value):
            vr = element.VR if element.VR not in (None, "UN") else dictionary_VR(element.tag)
            if vr in _BINARY:
                return _binary(element.value, _BINARY[vr])
        text = self.text(keyword)
        return text.split("\\") if text else ()


def is_no_text(element: DataElement | RawDataElement) -> bool:
    """A sequence, or bytes of numbers, where text is asked for."""
    return element.VR == "SQ" or (element.VR in NO_TEXT and isinstance(element.value, bytes))


def _is_too_long(raw: object) -> bool:
    """Longer than Explicit VR can write most text: each of its values becomes an object."""
    return isinstance(raw, bytes) and len(raw) > LONGEST


def _binary(value: bytes, dtype: str) -> Sequence[int]:
    size = np.dtype(dtype).itemsize
    whole = np.frombuffer(value[: len(value) // size * size], dtype)
    return [int(number) for number in whole]


def _joined(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    return "\\".join("" if part is None else str(part) for part in value)


def _repaired(term: str) -> str:
    """ISO-IR 100 and ISO IR 100 are common misspellings of ISO_IR 100."""
    return re.sub(r"^ISO[- ]IR[ _-]?(?=\d)", "ISO_IR ", term)


def by_escapes(raw: bytes, encodings: tuple[str, ...]) -> str:
    """Text that changes its character set by escape sequences (PS3.5 6.1.2.5).

    pydicom leaves that of ISO 2022 IR 58 (GB 2312) in the text: of each name there would be two.
    """
    return str(decode_bytes(raw, encodings, DELIMITERS)).replace(_TO_GB_2312, "")


def _decoded(raw: bytes, encodings: tuple[str, ...]) -> str:
    """Text in the declared character sets; in latin-1, which keeps every byte, if it is not."""
    try:
        if b"\x1b" in raw:
            return by_escapes(raw, encodings)
        return raw.decode(encodings[0])
    except (UnicodeError, LookupError, ValueError, UserWarning):
        return raw.decode("latin-1")
