"""The languages that results are written in: one catalogue of words each, and a font for them.

The catalogues are prescreen/languages/*.toml. English is the default, and the measure: another
language has the same keys with the same {placeholders}, which a test looks at.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import ImageFont

from prescreen.errors import SettingsError
from prescreen.study import LABELS

FOLDER = Path(__file__).parents[1] / "languages"
ENGLISH = "en"

#: Where fontconfig looks for the fonts of a machine and of its user.
FONT_FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path.home() / ".local" / "share" / "fonts",
    Path.home() / ".fonts",
)


@dataclass(frozen=True)
class Says:
    """Sentences and parts of sentences."""

    between: str
    because: str
    banner: str
    purpose: str
    composed: str
    nothing_flagged: str
    nothing_evaluated: str
    flagged: str
    undetermined: str
    flagged_are: str
    undetermined_are: str
    no_exclusion: str
    left_out: str
    never_looked_for: str
    not_screened: str
    images_not_screened: str
    out_of_scope: str
    other_view: str
    read_without: str
    not_evaluated: str
    not_evaluated_one: str
    below_release_bar: str
    below_release_bar_are: str
    no_reason: str
    ratio: str
    ratio_is: str
    not_measured_view: str
    not_measured: str
    decimal: str
    calibrated: str
    not_calibrated: str
    sensitivities: str
    tenths: str
    unknown: str


@dataclass(frozen=True)
class Titles:
    """Descriptions of series and layers, labels of segments."""

    capture: str
    capture_looked: str
    findings: str
    regions: str
    regions_looked: str
    presentation: str
    segmentation: str
    text: str
    notice: str
    withdrawn: str
    left_lung: str
    right_lung: str
    heart: str


@dataclass(frozen=True)
class PageWords:
    """What stands on the page of a capture alone."""

    flagged: str
    undetermined: str
    not_flagged: str
    not_evaluated: str
    threshold: str
    sensitivity: str
    no_picture: str
    outlines: str
    lungs: str
    heart: str
    lines: str
    undetermined_why: str
    made: str
    replaces: str


@dataclass(frozen=True)
class Looked:
    """Where the network looked: on a page of its own, and beside the regions."""

    name: str
    is_not: str
    unmarked: str
    region: str
    line: str
    composed: str
    least: str
    most: str
    scaled: str
    hits: str
    hit: str
    not_proven: str


@dataclass(frozen=True)
class Changes:
    """What is different from an earlier report."""

    since: str
    unchanged: str
    finding: str
    image: str
    outcome: str
    flagged: str
    undetermined: str
    not_flagged: str
    not_evaluated: str
    screened: str
    not_screened: str
    ratio: str
    weights: str


@dataclass(frozen=True)
class Typeface:
    """A font file: of a Python package, or by its name in a folder of fonts; `bold` beside it.

    `scale` makes its letters as large as those of the font that the page was drawn up with.
    """

    file: str
    package: str = ""
    bold: str = ""
    index: int = 0
    scale: float = 1.0
    install: str = ""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All words of one language; `tag` is of RFC 5646, `meaning` the standard's name of it."""

    name: str
    tag: str
    meaning: str
    says: Says
    titles: Titles
    page: PageWords
    looked: Looked
    changes: Changes
    headings: Mapping[str, str]
    findings: Mapping[str, str]
    undetermined: Mapping[str, str]
    reasons: Mapping[str, str]
    ascii: Mapping[str, str]
    fonts: tuple[Typeface, ...]

    @property
    def letters(self) -> frozenset[str]:
        """Every character that a page in this language may need."""
        printable = {chr(number) for number in range(32, 127)}
        return frozenset(printable.union(*self.texts().values()))

    def texts(self) -> dict[str, str]:
        """Every text by its place in the file: `says.banner`."""
        found = {}
        for section in _SECTIONS:
            for key, text in vars(getattr(self, section)).items():
                found[f"{section}.{key}"] = text
        for section in ("headings", "findings", "undetermined", "reasons"):
            for key, text in getattr(self, section).items():
                found[f"{section}.{key}"] = text
        return found


_SECTIONS: Mapping[str, type[Any]] = {
    "says": Says,
    "titles": Titles,
    "page": PageWords,
    "looked": Looked,
    "changes": Changes,
}


@functools.cache
def catalogue(language: str) -> Catalogue:
    """The words of one language, as its file has them. SettingsError where there is no such file,
    or where it lacks a text or has one too many."""
    path = FOLDER / f"{language}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        known = ", ".join(sorted(found.stem for found in FOLDER.glob("*.toml")))
        raise SettingsError(
            f"language {language!r}: there is no such catalogue ({known})"
        ) from None
    return _read(content, path.name)


def _read(content: dict[str, Any], name: str) -> Catalogue:
    try:
        for section, kind in _SECTIONS.items():
            content[section] = kind(**content[section])
        faces = tuple(Typeface(**face) for face in content.pop("fonts", ()))
        found = Catalogue(**{"ascii": {}, **content}, fonts=faces)
    except (KeyError, TypeError) as error:
        raise SettingsError(f"{name}: a section is not as that of en.toml: {error}") from None
    if set(found.findings) != set(LABELS):
        raise SettingsError(f"{name}: [findings] names each of the 14 findings once")
    return found


@functools.cache
def in_ascii(language: str) -> Catalogue:
    """The same words without letters beyond ASCII, for data sets that have none.

    English where the language has no such way of writing.
    """
    words = catalogue(language)
    if not words.ascii and not all(text.isascii() for text in words.texts().values()):
        return catalogue(ENGLISH)
    table = str.maketrans(dict(words.ascii))

    def plain(texts: Mapping[str, str]) -> dict[str, str]:
        return {key: text.translate(table) for key, text in texts.items()}

    sections = {s: k(**plain(vars(getattr(words, s)))) for s, k in _SECTIONS.items()}
    more = ("headings", "findings", "undetermined", "reasons")
    changed: dict[str, Any] = {s: plain(getattr(words, s)) for s in more}
    return replace(words, **sections, **changed)


# --- fonts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Face:
    """A font file at hand; without a path the one that Pillow carries within itself (Aileron).

    Without a `bold` one its letters are drawn bold by a stroke around them.
    """

    path: str = ""
    bold: str = ""
    index: int = 0
    scale: float = 1.0


@functools.cache
def face(language: str, chosen: Path | None = None) -> Face:
    """What the pages of a language are written in: the file `chosen`, else the first of its own.

    Raises SettingsError, with the way out, where none is there or has all of its letters.
    """
    words = catalogue(language)
    if chosen is not None:
        found = Face(str(chosen))
        lacking = _lacking(found, words)
        if lacking is None:
            raise SettingsError(f"report.font = {str(chosen)!r}: cannot be read as a font")
        if lacking:
            raise SettingsError(
                f"report.font = {str(chosen)!r}: lacks letters of {words.name} ({lacking[:8]})"
            )
        return found
    if not words.fonts:
        return Face()
    for typeface in words.fonts:
        path = _find(typeface, typeface.file)
        if path is not None:
            bold = _find(typeface, typeface.bold) if typeface.bold else None
            found = Face(str(path), str(bold or ""), typeface.index, typeface.scale)
            if _lacking(found, words) == "":
                return found
    names = ", ".join(typeface.file.split("/")[-1] for typeface in words.fonts)
    ways = [typeface.install for typeface in words.fonts if typeface.install]
    raise SettingsError(
        f"report.language = {language!r}: no font with its letters is installed ({names}); "
        f"{'; or '.join([*ways, 'name a font file in report.font'])}"
    )


def _find(typeface: Typeface, file: str) -> Path | None:
    """The file of a typeface, None where it is not there."""
    if typeface.package:
        try:
            found = metadata.distribution(typeface.package).locate_file(
                f"{typeface.package}/{file}"
            )
        except metadata.PackageNotFoundError:
            return None
        return Path(str(found)) if Path(str(found)).is_file() else None
    for folder in FONT_FOLDERS:
        for path in sorted(folder.rglob(file)):
            return path
    return None


def _lacking(found: Face, words: Catalogue) -> str | None:
    """Letters of a language that a font draws as it draws what it does not have; None: no font."""
    try:
        font = ImageFont.truetype(found.path, 20, found.index)
    except OSError:
        return None
    nothing = bytes(font.getmask("\U0010ffff"))
    letters = sorted(words.letters - {" "})
    return "".join(letter for letter in letters if bytes(font.getmask(letter)) == nothing)
