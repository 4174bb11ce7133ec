"""What a data set is built of, walked over its raw bytes before anything is made of them.

A few bytes can ask for any depth, number and length. The walk holds each length against what is
there, never recurses and keeps nothing, so that a hostile object is refused for the price of a
look; only then may a parser build objects from it. It takes the bytes as pydicom will, VR guesses
included: what passed here is what is parsed there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STR_VR, VR

from prescreen.dicom.reasons import ImageReason
from prescreen.errors import UnusableImage

#: Sequences within sequences; the deepest structured report has about ten.
NESTING = 64
#: Data elements and items that are walked before it is given up (a quarter of a second).
STEPS = 50_000
#: Items that a radiograph may have in all its sequences: each becomes an object of a kilobyte.
ITEMS = 4_096
#: Data elements that a radiograph may have.
ELEMENTS = 32_768
#: Bytes of the longest text or sequence that is made anything of where it need not be.
LONGEST = 1 << 16
#: Bytes that a radiograph may have beside its pixels: sixteen overlays of 8 megapixels.
HEADER_BYTES = 16 << 20

#: VRs whose value is no text (PS3.5 6.2): UN may be any, and two letters that are none as well.
NO_TEXT = frozenset(str(vr.value) for vr in VR) - {str(vr.value) for vr in STR_VR} - {"UN"}
#: Texts that say whose an image is, and what their letters are.
_WHOSE = {
    tag_for_keyword(keyword): keyword
    for keyword in (
        "SpecificCharacterSet",
        "StudyDate",
        "AccessionNumber",
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
    )
}

UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010
_BEYOND_ALL = 1 << 32
_FIRST_OF_PIXELS = 0x7FE00008  # Float Pixel Data
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset(str(vr).encode("ascii") for vr in EXPLICIT_VR_LENGTH_32)
_FILE_META_START = 132
_WINDOW = 1 << 16

#: The bytes at a position, at most so many; fewer at the end.
At = Callable[[int, int], bytes]


def window(descriptor: int) -> At:
    """The bytes of a file, looked at through one buffer."""
    begin, held = 0, b""

    def at(position: int, count: int) -> bytes:
        nonlocal begin, held
        if not begin <= position <= position + count <= begin + len(held):
            begin, held = position, os.pread(descriptor, _WINDOW, position)
        return held[position - begin : position - begin + count]

    return at


@dataclass(frozen=True, slots=True)
class Element:
    """One data element: where its value starts, its length as written, and where the next begins.

    `vr` is None in Implicit VR, and where the two letters are none.
    """

    tag: int
    vr: str | None
    start: int
    length: int
    end: int
    is_sequence: bool


@dataclass(frozen=True, slots=True)
class _Level:
    """A sequence or an item being walked; `end` is that of what it lies in if it is delimited."""

    is_sequence: bool
    delimited: bool
    end: int
    implicit: bool


class Structure:
    """The structure of one Part 10 object of `size` bytes.

    All methods raise UnusableImage: `truncated` where it ends within an element, `unparsable`
    where lengths contradict each other, `implausible_data_set` beyond NESTING or `steps`. No
    value stands in the text.
    """

    def __init__(self, at: At, size: int, steps: int = STEPS) -> None:
        self._at = at
        self._size = size
        self._left = steps
        self.items = 0
        if at(_FILE_META_START - 4, 4) != b"DICM":
            raise _unparsable("it has no DICM at byte 128")
        self.transfer_syntax_uid, self._start = self._file_meta()
        self.is_implicit = self._is_implicit(self._start, self._says_implicit)

    @property
    def _says_implicit(self) -> bool:
        return self.transfer_syntax_uid == ImplicitVRLittleEndian

    @property
    def is_as_it_says(self) -> bool:
        """Whether the first element is encoded as the transfer syntax has it."""
        return self.is_implicit == self._says_implicit

    def elements(self, before: int = _BEYOND_ALL) -> Iterator[Element]:
        """The elements of the data set up to a tag, each once all that is in it was walked."""
        position = self._start
        while position < self._size and self._tag(position, self._size) < before:
            element = self._element(position, self._size, self.is_implicit)
            yield element
            position = element.end

    # --- file meta information ---------------------------------------------------------------

    def _file_meta(self) -> tuple[str | None, int]:
        """The transfer syntax, and where the data set begins (PS3.10 7.1)."""
        position, uid = _FILE_META_START, None
        implicit = self._is_implicit(position, False)
        while self._at(position, 2) == b"\x02\x00":
            element = self._element(position, self._size, implicit)
            if element.is_sequence:
                raise _unparsable("its file meta information has a sequence")
            if element.tag == 0x00020010 and element.length <= 64:
                value = self._at(element.start, element.length)
                uid = value.decode("ascii", "replace").strip(" \0") or None
            position = element.end
        if position == _FILE_META_START:
            raise _unparsable("it has no file meta information")
        return uid, position

    # --- the walk ----------------------------------------------------------------------------

    def _element(self, position: int, end: int, implicit: bool) -> Element:
        """The element at `position`, all within it walked."""
        tag, vr, start, length = self._head(position, end, implicit)
        undefined = length == UNDEFINED
        is_sequence = self._holds_items(tag, vr, start, undefined)
        if not undefined and start + length > end:
            raise _truncated()
        if is_sequence:
            after = self._past_sequence(start, length, end, implicit)
        elif not undefined:
            after = start + length
        elif tag == PIXEL_DATA:
            after = self._past_fragments(start, end)
        else:
            raise _unparsable("a data element that is no sequence has no length")
        return Element(tag, vr, start, length, after, is_sequence)

    def _head(self, position: int, end: int, implicit: bool) -> tuple[int, str | None, int, int]:
        """Tag, VR, start and length of the value (PS3.5 7.1.2 and 7.1.3)."""
        self._step()
        head = self._at(position, 12)
        if len(head) < 8 or position + 8 > end:
            raise _truncated()
        group, number, letters, length = struct.unpack_from("<HH2sH", head)
        if group == 0xFFFE:
            raise _unparsable("an item or a delimiter stands where a data element should")
        tag = group << 16 | number
        if implicit or not b"AA" <= letters <= b"ZZ":
            return tag, None, position + 8, int.from_bytes(head[4:8], "little")
        vr = letters.decode("latin-1")
        if letters not in _LONG:
            return tag, vr, position + 8, length
        if len(head) < 12 or position + 12 > end:
            raise _truncated()
        return tag, vr, position + 12, int.from_bytes(head[8:12], "little")

    def _holds_items(self, tag: int, vr: str | None, start: int, undefined: bool) -> bool:
        """Whether it is a sequence; UN without a length is one (PS3.5 6.2.2)."""
        if vr == "UN" and undefined:
            return True
        if vr not in (None, "UN"):
            return vr == "SQ"
        if dictionary_has_tag(tag):
            return dictionary_VR(tag) == "SQ"
        return undefined and self._at(start, 4) == b"\xfe\xff\x00\xe0"

    def _past_sequence(self, start: int, length: int, end: int, implicit: bool) -> int:
        """Where a sequence ends, everything in it walked.

        One of defined length that is not too long may be malformed inside: it can be passed
        over, and is read as if it were empty.
        """
        if length == UNDEFINED:
            return self._walk(start, _Level(True, True, end, implicit))
        try:
            self._walk(start, _Level(True, False, start + length, implicit))
        except UnusableImage as error:
            if error.reason == ImageReason.IMPLAUSIBLE_DATA_SET or length > LONGEST:
                raise
        return start + length

    def _walk(self, position: int, level: _Level) -> int:
        stack = [level]
        while stack:
            level = stack[-1]
            if not level.delimited and position == level.end:
                stack.pop()
            elif self._ends_here(position, level):
                stack.pop()
                position += 8
            elif level.is_sequence:
                position, inner = self._item(position, level)
                stack.append(inner)
            else:
                position, below = self._within_item(position, level)
                if below is not None:
                    stack.append(below)
                    self._check_nesting(stack)
        return position

    def _ends_here(self, position: int, level: _Level) -> bool:
        if not level.delimited:
            return False
        wanted = _SEQUENCE_END if level.is_sequence else _ITEM_END
        return self._tag(position, level.end) == wanted

    def _item(self, position: int, level: _Level) -> tuple[int, _Level]:
        """Behind the head of an item, and the item (PS3.5 7.5.1)."""
        self._step()
        self.items += 1
        if self._tag(position, level.end) != _ITEM:
            raise _unparsable("a sequence holds something that is no item")
        length = int.from_bytes(self._at(position + 4, 4), "little")
        position += 8
        implicit = level.implicit or self._is_implicit(position, False)
        if length == UNDEFINED:
            return position, _Level(False, True, level.end, implicit)
        if position + length > level.end:
            raise _truncated()
        return position, _Level(False, False, position + length, implicit)

    def _within_item(self, position: int, level: _Level) -> tuple[int, _Level | None]:
        """Past an element of an item, or at the start of the sequence that it is."""
        tag, vr, start, length = self._head(position, level.end, level.implicit)
        undefined = length == UNDEFINED
        if not undefined and start + length > level.end:
            raise _truncated()
        if self._holds_items(tag, vr, start, undefined):
            end = level.end if undefined else start + length
            return start, _Level(True, undefined, end, level.implicit)
        if not undefined:
            return start + length, None
        if tag == PIXEL_DATA:  # of an icon
            return self._past_fragments(start, level.end), None
        raise _unparsable("a data element that is no sequence has no length")

    def _past_fragments(self, position: int, end: int) -> int:
        """Where encapsulated pixel data end (PS3.5 A.4)."""
        while (tag := self._tag(position, end)) != _SEQUENCE_END:
            self._step()
            length = int.from_bytes(self._at(position + 4, 4), "little")
            position += 8 + length
            if tag != _ITEM or position > end:
                raise _truncated()
        return position + 8

    def _tag(self, position: int, end: int) -> int:
        head = self._at(position, 8)
        if len(head) < 8 or position + 8 > end:
            raise _truncated()
        group, number = struct.unpack_from("<HH", head)
        return int(group) << 16 | int(number)

    def _is_implicit(self, position: int, said: bool) -> bool:
        """Told by the first element's VR, as pydicom does; `said` where there is none."""
        letters = self._at(position + 4, 2)
        if len(letters) < 2:
            return said
        return not all(0x40 < letter < 0x5B for letter in letters)

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _implausible("it has more data elements than any radiograph")

    @staticmethod
    def _check_nesting(stack: list[_Level]) -> None:
        if len(stack) > 2 * NESTING:
            raise _implausible(f"its sequences are nested more than {NESTING} deep")


def check_structure(descriptor: int, stop_before_pixels: bool) -> None:
    """Raise UnusableImage unless a parser may read the Part 10 file: it is as small as it looks.

    Beyond `Structure`: refuses what is deflated or big endian (`unsupported_transfer_syntax`),
    what is encoded otherwise than it says and what is not in ascending order (`unparsable`), more
    than ITEMS, ELEMENTS or HEADER_BYTES and what `check_kind` finds (`implausible_data_set`).
    """
    structure = Structure(window(descriptor), os.fstat(descriptor).st_size)
    _check_encoding(structure)
    last, elements, beside_pixels = -1, 0, 0
    for element in structure.elements(_FIRST_OF_PIXELS if stop_before_pixels else _BEYOND_ALL):
        if element.tag <= last:  # a second Patient ID would be the one that counts (PS3.5 7.1)
            raise _unparsable("its data elements are not in ascending order")
        last, elements = element.tag, elements + 1
        check_kind(element)
        if element.tag != PIXEL_DATA:
            beside_pixels += element.end - element.start
        _check_size(structure.items, elements, beside_pixels)


def check_kind(element: Element) -> None:
    """Raise UnusableImage where no text stands in what says whose the image is.

    Its bytes would be taken for a name, and without one the result might be filed as another's.
    """
    if element.tag in _WHOSE and (element.is_sequence or element.vr in NO_TEXT):
        keyword = _WHOSE[element.tag]
        raise _implausible(f"{keyword} is a sequence or a number where text belongs")


def _check_encoding(structure: Structure) -> None:
    uid = structure.transfer_syntax_uid
    if uid in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        raise UnusableImage(
            f"transfer syntax {UID(uid).name} is not supported; "
            "let the sender use Explicit VR Little Endian",
            ImageReason.UNSUPPORTED_TRANSFER_SYNTAX,
        )
    if uid is not None and not structure.is_as_it_says:
        raise _unparsable("it is not encoded as its transfer syntax says")


def _check_size(items: int, elements: int, beside_pixels: int) -> None:
    if items > ITEMS:
        raise _implausible(f"it has more than {ITEMS} sequence items")
    if elements > ELEMENTS:
        raise _implausible(f"it has more than {ELEMENTS} data elements")
    if beside_pixels > HEADER_BYTES:
        raise _implausible(f"it has more than {HEADER_BYTES >> 20} MiB beside its pixels")


def _truncated() -> UnusableImage:
    return UnusableImage(
        "the file is truncated: it ends within a data element; send it again",
        ImageReason.TRUNCATED,
    )


def _unparsable(why: str) -> UnusableImage:
    return UnusableImage(
        f"the file does not parse as DICOM Part 10: {why}; it is damaged, or it is not DICOM",
        ImageReason.UNPARSABLE,
    )


def _implausible(why: str) -> UnusableImage:
    return UnusableImage(f"the data set is implausible: {why}", ImageReason.IMPLAUSIBLE_DATA_SET)
