"""Whether two spellings are of one name: archives write one name in many ways."""

from __future__ import annotations

import re
import unicodedata

#: What stands where a character set had no place for a letter.
_LOST = re.compile("[?\ufffd]+")


def is_same_name(ours: str, theirs: str) -> bool:
    """Whether what an archive answers is our Person Name (PS3.5 6.2.1), both decoded.

    Case, padding, empty components at the end and the width of letters are no difference; nor is a
    component group (alphabetic, ideographic, phonetic) that one of them lacks, nor letters that
    the archive lost on their way into another character set.
    """
    pairs = zip(_groups(ours), _groups(theirs), strict=False)
    return all(_is_same(one, other) for one, other in pairs if one and other)


def _groups(name: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", name).casefold()
    return [_group(group) for group in plain.split("=")]


def _group(group: str) -> str:
    parts = (" ".join(part.split()) for part in group.split("^"))
    return "^".join(parts).rstrip("^")


def _is_same(ours: str, theirs: str) -> bool:
    if _LOST.search(theirs) is None:
        return ours == theirs
    some = ".+".join(re.escape(part) for part in _LOST.split(theirs))
    return re.fullmatch(some, ours) is not None
