"""A data set in Unicode: what lets words of ours in any language stand beside a patient's name.

(0008,0005) governs a whole data set (PS3.5 6.1.2): words that its character set lacks can only be
written where all of its text goes over to UTF-8 (ISO_IR 192). What a text says stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydicom
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import BaseTag, Tag

from prescreen.dicom.attributes import Attributes, by_escapes, without_warnings

UNICODE = "ISO_IR 192"

_CHARSET = Tag("SpecificCharacterSet")
_IN_CHARSET = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.2
_GRAPHICS = 0x5000  # curves, overlays and pixels: nothing is taken over from there


def is_unicode(ds: pydicom.Dataset) -> bool:
    """Whether the data set says that its text is in UTF-8."""
    return Attributes(ds).text("SpecificCharacterSet") == UNICODE


def in_unicode(ds: pydicom.Dataset) -> pydicom.Dataset:
    """The standard elements below group 5000, their text in UTF-8; `ds` is not changed.

    `ds` itself where that takes guessing: bytes beyond ASCII under no character set, under one
    that no standard knows, or under one that they do not fit.
    """
    try:
        found = _converted(ds, _encodings(ds))
    except (UnicodeError, LookupError):
        return ds
    found.SpecificCharacterSet = UNICODE
    return found


def beside(ds: pydicom.Dataset, patient: pydicom.Dataset) -> pydicom.Dataset:
    """`ds` as its text may be taken over into one data set with the patient of another image.

    Under another character set than the patient's it would say something else: what is ASCII is
    left of it.
    """
    charsets = {Attributes(one).text("SpecificCharacterSet") for one in (ds, patient)}
    return ds if len(charsets) == 1 else without_guesses(ds)


def without_guesses(ds: pydicom.Dataset) -> pydicom.Dataset:
    """The standard elements whose text is ASCII, said to be in UTF-8; sequences are left out.

    What is left of a data set of which nothing tells what its other letters are.
    """
    found = pydicom.Dataset()
    for tag in list(ds.keys()):
        element = ds.get_item(tag)
        vr = element.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
        if tag.is_private or tag.group >= _GRAPHICS or vr == "SQ":
            continue
        value = element.value
        if vr not in _IN_CHARSET or (isinstance(value, bytes) and value.isascii()):
            found[tag] = element
    found.SpecificCharacterSet = UNICODE
    return found


def _encodings(ds: pydicom.Dataset) -> tuple[str, ...]:
    """Python's names of the character sets; LookupError where one of them is unknown."""
    terms = Attributes(ds).text("SpecificCharacterSet") or ""
    names = [python_encoding[term.strip()] for term in terms.split("\\")]
    # the default repertoire has nothing beyond ASCII, which pydicom reads as Latin-1
    return tuple("ascii" if name == "iso8859" else name for name in names)


def _converted(ds: pydicom.Dataset, encodings: tuple[str, ...]) -> pydicom.Dataset:
    found = pydicom.Dataset()
    for tag in list(ds.keys()):
        if tag.is_private or tag.group >= _GRAPHICS or tag == _CHARSET:
            continue
        element = ds.get_item(tag)
        vr = element.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
        if vr == "SQ":
            _put_sequence(found, ds, tag, encodings)
        elif vr in _IN_CHARSET and element.value:
            text = _text(element, encodings).encode("utf-8")
            found[tag] = RawDataElement(tag, vr, len(text), text, 0, False, True, True, False)
        else:
            found[tag] = element
    return found


def _put_sequence(
    found: pydicom.Dataset, ds: pydicom.Dataset, tag: BaseTag, encodings: tuple[str, ...]
) -> None:
    try:
        with without_warnings():
            value = ds[tag].value
    except Exception:  # whatever a malformed sequence makes pydicom raise: it is left out
        return
    items = [_converted(item, _encodings_within(item, encodings)) for item in value or ()]
    found[tag] = DataElement(tag, "SQ", pydicom.Sequence(items))


def _encodings_within(item: pydicom.Dataset, encodings: tuple[str, ...]) -> tuple[str, ...]:
    """Those of an item that says so itself (PS3.5 6.1.2.1), else those of what it stands in."""
    return _encodings(item) if _CHARSET in item else encodings


def _text(element: RawDataElement | DataElement, encodings: tuple[str, ...]) -> str:
    value = element.value
    original = getattr(value, "original_string", None)  # a person's name has its bytes
    raw = value if isinstance(value, bytes) else original
    if not isinstance(raw, bytes):
        parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return "\\".join(str(part or "") for part in parts)
    if b"\x1b" not in raw:
        return raw.decode(encodings[0])
    with without_warnings():
        text = by_escapes(raw, encodings)
    if "\x1b" in text or "\ufffd" in text:
        raise UnicodeError("a text that does not fit its character set")
    return text
