"""The page of a capture, for eyes: the radiograph with outlines, beside it what is said of it.

For a dark reading room: dark ground, large type, one loud colour. Bars are drawn relative to each
finding's threshold, which lies at the same place in every row, because the networks' numbers do
not compare across findings; so no number is shown. Flagged and undetermined findings stand first,
each group by urgency. No colour means that all is well.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prescreen import __version__
from prescreen.dicom import ink, language, wording
from prescreen.dicom.ink import AILERON, Colour, Page
from prescreen.dicom.language import ENGLISH, Face
from prescreen.dicom.outlines import inside, outlines
from prescreen.dicom.wording import Words
from prescreen.settings import Report
from prescreen.study import (
    Anatomy,
    Finding,
    FindingState,
    ImageResult,
    LabelFigures,
    Model,
    Outcome,
    Radiograph,
)

GROUND: Colour = (9, 11, 15)
BAND: Colour = (54, 46, 96)
WHITE: Colour = (240, 242, 247)
TEXT: Colour = (206, 212, 222)
DIM: Colour = (146, 154, 170)
GREYED: Colour = (130, 137, 150)
RULE: Colour = (52, 58, 70)
LOUD: Colour = (255, 190, 60)
LOUD_GROUND: Colour = (60, 45, 12)
BAR: Colour = (98, 116, 152)
TRACK: Colour = (26, 30, 38)
LUNGS: Colour = (105, 185, 255)
HEART: Colour = (240, 140, 225)

#: The page is this many times as wide as it is high.
ASPECT = 1.6
#: Where the threshold lies on every bar, as a share of its length.
THRESHOLD_AT = 0.6

_ORGAN_COLOURS = (LUNGS, LUNGS, HEART)


@dataclass(frozen=True)
class Grid:
    """Where things stand, in pixels, for a page of `rows` rows, and what they are written in.

    Drawn up for 1080 rows.
    """

    rows: int
    words: Words = field(default_factory=functools.partial(wording.words, ENGLISH))
    face: Face = AILERON

    def __call__(self, length: float) -> int:
        return round(length * self.rows / 1080)

    @property
    def columns(self) -> int:
        return self(1080 * ASPECT)

    @property
    def band(self) -> int:
        return self(58)

    @property
    def panel(self) -> int:
        """First column of what stands beside the radiograph."""
        return self(908)

    @property
    def right(self) -> int:
        return self.columns - self(24)

    def write(
        self,
        page: Page,
        x: int,
        y: int,
        text: str,
        size: int,
        colour: Colour,
        ground: Colour = GROUND,
        bold: bool = False,
    ) -> int:
        """Write in the language's font; the column after it."""
        return ink.write(page, x, y, text, size, colour, ground=ground, bold=bold, face=self.face)

    def width_of(self, text: str, size: int, bold: bool = False) -> int:
        """Columns that a text takes."""
        return ink.width_of(text, size, bold, self.face)

    def wrapped(self, text: str, size: int) -> list[str]:
        """A text in lines as wide as what stands beside the radiograph."""
        return ink.wrapped(text, size, self.right - self.panel, self.face)


def grid_of(settings: Report) -> Grid:
    """The grid for the size, the language and the font of the settings.

    Raises SettingsError where there is no font for the language.
    """
    face = language.face(settings.language, settings.font)
    return Grid(settings.capture_rows, wording.words(settings.language), face)


def state_in_words(words: Words, state: FindingState) -> str:
    """A state as it stands beside a finding."""
    return str(getattr(words.catalogue.page, state.value))


def bar_share(probability: float, threshold: float) -> float:
    """How much of a bar is filled: 0…1, below THRESHOLD_AT exactly where below the threshold."""
    if probability < threshold:
        return THRESHOLD_AT * probability / threshold
    rest = 1 - threshold
    return THRESHOLD_AT + (1 - THRESHOLD_AT) * ((probability - threshold) / rest if rest else 1)


def draw(
    result: ImageResult,
    radiograph: Radiograph | None,
    anatomy: Anatomy | None,
    model: Model,
    settings: Report,
    made: datetime.datetime,
    *,
    replaces: datetime.datetime | None = None,
    below_bar: frozenset[str] = frozenset(),
) -> Page:
    """The page, uint8, (settings.capture_rows, ASPECT times as many, 3), RGB.

    `anatomy` is None where it is not to be shown. Times are shown as they are given.
    """
    grid = grid_of(settings)
    page = blank(grid).copy()
    _draw_radiograph(page, grid, result, radiograph, anatomy)
    if result.outcome is Outcome.SCREENED:
        y = _draw_headline(page, grid, result)
        y = _draw_findings(page, grid, y, result, model, settings, below_bar)
        _draw_ratio(page, grid, y, result)
    else:
        _draw_notice(page, grid, result)
    _draw_foot(page, grid, result, model, made, replaces)
    return page


@functools.lru_cache(maxsize=4)
def blank(grid: Grid) -> Page:
    """What is the same on every page: ground and the banner above and below."""
    says = grid.words.catalogue.says
    page = np.full((grid.rows, grid.columns, 3), GROUND, np.uint8)
    for y in (0, grid.rows - grid.band):
        ink.fill(page, 0, y, grid.columns, grid.band, BAND)
        large, small = grid(38), grid(25)
        grid.write(page, grid(24), _middle(grid, y, large), says.banner, large, WHITE, BAND, True)
        x = grid.right - grid.width_of(says.purpose, small)
        grid.write(page, x, _middle(grid, y, small), says.purpose, small, WHITE, BAND)
    return page


def _middle(grid: Grid, y: int, size: int) -> int:
    return y + (grid.band - ink.height_of(size)) // 2


# --- the radiograph ------------------------------------------------------------------------------


def _draw_radiograph(
    page: Page,
    grid: Grid,
    result: ImageResult,
    radiograph: Radiograph | None,
    anatomy: Anatomy | None,
) -> None:
    top, left = grid.band + grid(12), grid(24)
    height = grid.rows - 2 * grid.band - grid(24) - grid(40)
    width = grid.panel - left - grid(28)
    if radiograph is None:
        ink.fill(page, left, top, width, height, TRACK)
        grid.write(
            page,
            left + grid(40),
            top + height // 2,
            grid.words.catalogue.page.no_picture,
            grid(34),
            DIM,
        )
        return
    screened = result.outcome is Outcome.SCREENED
    share = 1.0 if screened else 0.6
    picture = ink.fitted(radiograph.pixels, int(height * share), int(width * share))
    top += 0 if screened else (height - picture.shape[0]) // 2
    left += (width - picture.shape[1]) // 2
    area = page[top : top + picture.shape[0], left : left + picture.shape[1]]
    for channel in range(3):
        area[..., channel] = picture
    if anatomy is not None and screened:
        for line, colour in zip(outlines(anatomy, *picture.shape), _ORGAN_COLOURS, strict=True):
            if line is not None:
                ink.draw_line(area, inside(line, grid(3) / 2), colour, grid(3))
        _draw_diameters(area, grid, result, radiograph)
        _draw_legend(page, grid, result)


def _draw_diameters(area: Page, grid: Grid, result: ImageResult, radiograph: Radiograph) -> None:
    """The two lines the cardiothoracic ratio is made of, from stored to page coordinates."""
    rows, columns = radiograph.stored_shape
    down, across = area.shape[0] / rows, area.shape[1] / columns
    both = ((result.cardiac_diameter, HEART), (result.thoracic_diameter, LUNGS))
    for ends, colour in both:
        if ends is not None and result.cardiothoracic_ratio is not None:
            row, first, last = round(ends[0] * down), round(ends[1] * across), ends[2] * across
            ink.measure(area, row, first, round(last), colour, grid(3))


def _draw_legend(page: Page, grid: Grid, result: ImageResult) -> None:
    """From the edge on, however narrow the picture: it takes all the room there is."""
    size, y, says = grid(24), grid.rows - grid.band - grid(46), grid.words.catalogue.page
    x = grid.write(page, grid(24), y, says.outlines, size, DIM) + grid(18)
    for name, colour in ((says.lungs, LUNGS), (says.heart, HEART)):
        ink.fill(page, x, y + ink.height_of(size) // 2 - grid(2), grid(34), grid(4), colour)
        x = grid.write(page, x + grid(44), y, name, size, TEXT) + grid(26)
    if result.cardiothoracic_ratio is not None:
        grid.write(page, x, y, says.lines, size, DIM)


# --- beside it -----------------------------------------------------------------------------------


def _draw_headline(page: Page, grid: Grid, result: ImageResult) -> int:
    """The headline and what it does not mean; the row after it."""
    y = grid.band + grid(10)
    loud = bool(wording.in_state(result.findings, *wording.LOUD))
    says, headline = grid.words.catalogue.says, grid.words.headline(result)
    grid.write(page, grid.panel, y, headline, grid(52), LOUD if loud else WHITE, bold=True)
    left = len(wording.in_state(result.findings, FindingState.NOT_EVALUATED))
    said = says.no_exclusion
    said += f" {says.left_out.format(number=left, all=len(result.findings))}" if left else ""
    grid.write(page, grid.panel, y + grid(66), said, grid(31), WHITE)
    return y + grid(116)


def _draw_findings(
    page: Page,
    grid: Grid,
    y: int,
    result: ImageResult,
    model: Model,
    settings: Report,
    below_bar: frozenset[str],
) -> int:
    """Heads, one row a finding, the threshold through all of them, notes; the row after it."""
    figures = {f.label: f for f in model.figures}
    _draw_heads(page, grid, y)
    y += grid(34)
    for finding in wording.ordered(result.findings, settings.urgency):
        marked = finding.label in below_bar
        _draw_row(page, grid, y, finding, figures.get(finding.label), marked)
        y += grid(38)
    return _draw_notes(page, grid, y, result.findings, below_bar)


def _columns(grid: Grid) -> tuple[int, int, int, int]:
    """First columns of name, bar, state and sensitivity."""
    return grid.panel + grid(14), grid.panel + grid(300), grid.panel + grid(516), grid.right


def _draw_heads(page: Page, grid: Grid, y: int) -> None:
    _, bar, _, right = _columns(grid)
    size, length = grid(22), _bar_length(grid)
    at, found = grid.words.catalogue.page.threshold, grid.words.catalogue.page.sensitivity
    x = bar + round(THRESHOLD_AT * length) - grid.width_of(at, size) // 2
    grid.write(page, x, y, at, size, DIM)
    grid.write(page, right - grid.width_of(found, size), y, found, size, DIM)


def _bar_length(grid: Grid) -> int:
    _, bar, state, _ = _columns(grid)
    return state - bar - grid(18)


def _draw_row(
    page: Page, grid: Grid, y: int, finding: Finding, figures: LabelFigures | None, marked: bool
) -> None:
    sensitivity = None if figures is None else figures.sensitivity
    row = _row(grid, finding.label, finding.state, finding.reason, sensitivity, marked)
    page[y : y + row.shape[0], grid.panel : grid.panel + row.shape[1]] = row
    share = _share(finding)
    if share is None:
        return
    _, bar, _, _ = _columns(grid)
    length, top, height = _bar_length(grid), y + grid(9), grid(18)
    filled = round(length * share)
    loud = finding.state in wording.LOUD
    ink.fill(page, bar, top, max(filled, grid(3)), height, LOUD if loud else BAR)
    if finding.state is FindingState.UNDETERMINED:
        for x in range(bar, bar + filled, grid(10)):
            ink.fill(page, x, top, grid(4), height, LOUD_GROUND)
    threshold = bar + round(THRESHOLD_AT * length)
    ink.fill(page, threshold - grid(1), y, grid(3), grid(38), WHITE)


def _share(finding: Finding) -> float | None:
    """How much of its bar is filled, None where it has no bar."""
    probability, threshold = finding.probability, finding.threshold
    if finding.state is FindingState.NOT_EVALUATED or probability is None or threshold is None:
        return None
    return bar_share(probability, threshold)


@functools.lru_cache(maxsize=512)
def _row(
    grid: Grid,
    label: str,
    state: FindingState,
    reason: str | None,
    sensitivity: float | None,
    marked: bool,
) -> Page:
    """One row without its bar's length."""
    words = grid.words
    loud, shown = state in wording.LOUD, state is not FindingState.NOT_EVALUATED
    height, width = grid(37), grid.right + grid(8) - grid.panel
    ground = LOUD_GROUND if loud else GROUND
    row = np.full((height, width, 3), ground, np.uint8)
    name, bar, says, right = (x - grid.panel for x in _columns(grid))
    if loud:
        ink.fill(row, 0, 0, grid(7), height, LOUD)
    colour = LOUD if loud else TEXT if shown else GREYED
    title = words.name_of(label) + (" *" if marked and shown else "")
    grid.write(row, name, grid(1), title, grid(29), WHITE if loud else colour, ground, loud)
    grid.write(row, says, grid(5), state_in_words(words, state), grid(23), colour, ground, loud)
    if shown:
        ink.fill(row, bar, grid(9), _bar_length(grid), grid(18), TRACK)
        found = words.tenths(sensitivity)
        grid.write(
            row, right - grid.width_of(found, grid(22)), grid(6), found, grid(22), DIM, ground
        )
    else:
        why = words.reason(reason)
        grid.write(row, bar, grid(6), why, grid(22), GREYED, ground)
    return row


def _draw_notes(
    page: Page, grid: Grid, y: int, findings: Sequence[Finding], below_bar: frozenset[str]
) -> int:
    words = grid.words
    shown = {f.label for f in findings if f.state is not FindingState.NOT_EVALUATED}
    notes: list[tuple[str, Colour]] = []
    if shown & below_bar:
        notes.append((f"* {words.catalogue.says.below_release_bar}", LOUD))
    undetermined = [f for f in findings if f.state is FindingState.UNDETERMINED]
    for why in dict.fromkeys(words.why_undetermined(f.reason) for f in undetermined):
        notes.append((words.catalogue.page.undetermined_why.format(why=why), TEXT))
    y += grid(6)
    for note, colour in notes:
        for line in grid.wrapped(note, grid(23)):
            grid.write(page, grid.panel, y, line, grid(23), colour)
            y += grid(28)
    return y


def _draw_ratio(page: Page, grid: Grid, y: int, result: ImageResult) -> None:
    y += grid(8)
    x = grid.write(page, grid.panel, y, grid.words.catalogue.says.ratio, grid(29), TEXT) + grid(14)
    ratio = result.cardiothoracic_ratio
    said = grid.words.ratio_missing(result) if ratio is None else grid.words.number(ratio)
    grid.write(page, x, y, said, grid(29), DIM if ratio is None else WHITE, bold=ratio is not None)


def _draw_notice(page: Page, grid: Grid, result: ImageResult) -> None:
    """That the image was not screened, why, and what to do."""
    y, words = grid(300), grid.words
    colour = LOUD if wording.left_out(result) else WHITE
    grid.write(page, grid.panel, y, words.headline(result), grid(60), colour, bold=True)
    y += grid(110)
    why = "" if wording.is_other_view(result) else words.reason(result.reason)
    for line in grid.wrapped(words.sentence(why), grid(42)):
        grid.write(page, grid.panel, y, line, grid(42), WHITE)
        y += grid(54)
    grid.write(
        page,
        grid.panel,
        y + grid(30),
        words.catalogue.says.read_without,
        grid(42),
        WHITE,
        bold=True,
    )


def _draw_foot(
    page: Page,
    grid: Grid,
    result: ImageResult,
    model: Model,
    made: datetime.datetime,
    replaces: datetime.datetime | None,
) -> None:
    """From the bottom up: when and by what it was made, what is never looked for."""
    says = grid.words.catalogue
    when = made_in_words(grid.words, made, replaces)
    y = grid.rows - grid.band - grid(46)
    grid.write(page, grid.panel, y, when, grid(27), WHITE if replaces is not None else TEXT)
    y -= grid(32)
    grid.write(page, grid.panel, y, versions(model), grid(20), DIM)
    if result.outcome is not Outcome.SCREENED:
        return
    lines = grid.wrapped(says.says.never_looked_for, grid(23))
    for line in reversed(lines):
        y -= grid(30)
        grid.write(page, grid.panel, y, line, grid(23), TEXT)


def made_in_words(words: Words, made: datetime.datetime, replaces: datetime.datetime | None) -> str:
    """When the page was made, and the one that it replaces."""
    says = words.catalogue.page
    when = says.made.format(when=f"{made:%Y-%m-%d %H:%M}")
    return when + (says.replaces.format(when=f"{replaces:%H:%M}") if replaces is not None else "")


def versions(model: Model) -> str:
    """Software and weights, for the foot of a page."""
    parts = [f"prescreen {__version__}"]
    for network in (model.findings, model.lungs_heart):
        parts.append(f"{network.name.removeprefix('prescreen ')} {network.version}")
        parts[-1] += f" ({network.sha256[:8]})"
    return " - ".join(parts)
