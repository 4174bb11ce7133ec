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
from dataclasses import dataclass

import numpy as np

from prescreen import __version__
from prescreen.dicom import ink, wording
from prescreen.dicom.ink import Colour, Page
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
_STATES = {
    FindingState.FLAGGED: "FLAGGED",
    FindingState.UNDETERMINED: "UNDETERMINED",
    FindingState.NOT_FLAGGED: "not flagged",
    FindingState.NOT_EVALUATED: "not evaluated",
}


@dataclass(frozen=True)
class Grid:
    """Where things stand, in pixels, for a page of `rows` rows; drawn up for 1080."""

    rows: int

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


def _write(
    page: Page,
    x: int,
    y: int,
    text: str,
    size: int,
    colour: Colour,
    ground: Colour = GROUND,
    bold: bool = False,
) -> int:
    return ink.write(page, x, y, text, size, colour, ground=ground, bold=bold)


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
    grid = Grid(settings.capture_rows)
    page = _blank(grid.rows).copy()
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
def _blank(rows: int) -> Page:
    """What is the same on every page: ground and the banner above and below."""
    grid = Grid(rows)
    page = np.full((grid.rows, grid.columns, 3), GROUND, np.uint8)
    for y in (0, grid.rows - grid.band):
        ink.fill(page, 0, y, grid.columns, grid.band, BAND)
        large, small = grid(38), grid(25)
        _write(page, grid(24), _middle(grid, y, large), wording.BANNER, large, WHITE, BAND, True)
        x = grid.right - ink.width_of(wording.PURPOSE, small)
        _write(page, x, _middle(grid, y, small), wording.PURPOSE, small, WHITE, BAND)
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
        _write(page, left + grid(40), top + height // 2, "no picture", grid(34), DIM)
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
        for mask, colour in zip(anatomy.masks, _ORGAN_COLOURS, strict=True):
            ink.outline(area, mask, colour, grid(3))
        _draw_diameters(area, grid, result, radiograph)
        _draw_legend(page, grid, left, result)


def _draw_diameters(area: Page, grid: Grid, result: ImageResult, radiograph: Radiograph) -> None:
    """The two lines the cardiothoracic ratio is made of, from stored to page coordinates."""
    rows, columns = radiograph.stored_shape
    down, across = area.shape[0] / rows, area.shape[1] / columns
    both = ((result.cardiac_diameter, HEART), (result.thoracic_diameter, LUNGS))
    for ends, colour in both:
        if ends is not None and result.cardiothoracic_ratio is not None:
            row, first, last = round(ends[0] * down), round(ends[1] * across), ends[2] * across
            ink.measure(area, row, first, round(last), colour, grid(3))


def _draw_legend(page: Page, grid: Grid, x: int, result: ImageResult) -> None:
    size, y = grid(24), grid.rows - grid.band - grid(46)
    x = _write(page, x, y, "Outlines by AI:", size, DIM) + grid(18)
    shown = [("lungs", LUNGS), ("heart", HEART)]
    for name, colour in shown:
        ink.fill(page, x, y + ink.height_of(size) // 2 - grid(2), grid(34), grid(4), colour)
        x = _write(page, x + grid(44), y, name, size, TEXT) + grid(26)
    if result.cardiothoracic_ratio is not None:
        _write(page, x, y, "Lines: the two diameters", size, DIM)


# --- beside it -----------------------------------------------------------------------------------


def _draw_headline(page: Page, grid: Grid, result: ImageResult) -> int:
    """The headline and what it does not mean; the row after it."""
    y = grid.band + grid(10)
    loud = bool(wording.in_state(result.findings, *wording.LOUD))
    headline = wording.headline(result)
    _write(page, grid.panel, y, headline, grid(52), LOUD if loud else WHITE, bold=True)
    left = len(wording.in_state(result.findings, FindingState.NOT_EVALUATED))
    said = wording.NO_EXCLUSION
    said += f" {left} of {len(result.findings)} not evaluated." if left else ""
    _write(page, grid.panel, y + grid(66), said, grid(31), WHITE)
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
        y += grid(39)
    return _draw_notes(page, grid, y, result.findings, below_bar)


def _columns(grid: Grid) -> tuple[int, int, int, int]:
    """First columns of name, bar, state and sensitivity."""
    return grid.panel + grid(14), grid.panel + grid(300), grid.panel + grid(516), grid.right


def _draw_heads(page: Page, grid: Grid, y: int) -> None:
    _, bar, _, right = _columns(grid)
    size, length = grid(22), _bar_length(grid)
    at = "threshold"
    x = bar + round(THRESHOLD_AT * length) - ink.width_of(at, size) // 2
    _write(page, x, y, at, size, DIM)
    found = "sensitivity"
    _write(page, right - ink.width_of(found, size), y, found, size, DIM)


def _bar_length(grid: Grid) -> int:
    _, bar, state, _ = _columns(grid)
    return state - bar - grid(18)


def _draw_row(
    page: Page, grid: Grid, y: int, finding: Finding, figures: LabelFigures | None, marked: bool
) -> None:
    sensitivity = None if figures is None else figures.sensitivity
    row = _row(grid.rows, finding.label, finding.state, finding.reason, sensitivity, marked)
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
    ink.fill(page, threshold - grid(1), y, grid(3), grid(39), WHITE)


def _share(finding: Finding) -> float | None:
    """How much of its bar is filled, None where it has no bar."""
    probability, threshold = finding.probability, finding.threshold
    if finding.state is FindingState.NOT_EVALUATED or probability is None or threshold is None:
        return None
    return bar_share(probability, threshold)


@functools.lru_cache(maxsize=512)
def _row(
    rows: int,
    label: str,
    state: FindingState,
    reason: str | None,
    sensitivity: float | None,
    marked: bool,
) -> Page:
    """One row without its bar's length."""
    grid = Grid(rows)
    loud, shown = state in wording.LOUD, state is not FindingState.NOT_EVALUATED
    height, width = grid(37), grid.right + grid(8) - grid.panel
    ground = LOUD_GROUND if loud else GROUND
    row = np.full((height, width, 3), ground, np.uint8)
    name, bar, says, right = (x - grid.panel for x in _columns(grid))
    if loud:
        ink.fill(row, 0, 0, grid(7), height, LOUD)
    colour = LOUD if loud else TEXT if shown else GREYED
    title = wording.name_of(label) + (" *" if marked and shown else "")
    _write(row, name, grid(1), title, grid(29), WHITE if loud else colour, ground, loud)
    _write(row, says, grid(5), _STATES[state], grid(23), colour, ground, loud)
    if shown:
        ink.fill(row, bar, grid(9), _bar_length(grid), grid(18), TRACK)
        found = wording.sensitivity(sensitivity)
        _write(row, right - ink.width_of(found, grid(22)), grid(6), found, grid(22), DIM, ground)
    else:
        why = wording.reason_in_words(reason)
        _write(row, bar, grid(6), why, grid(22), GREYED, ground)
    return row


def _draw_notes(
    page: Page, grid: Grid, y: int, findings: Sequence[Finding], below_bar: frozenset[str]
) -> int:
    shown = {f.label for f in findings if f.state is not FindingState.NOT_EVALUATED}
    notes: list[tuple[str, Colour]] = []
    if shown & below_bar:
        notes.append((f"* {wording.BELOW_RELEASE_BAR}", LOUD))
    undetermined = [f for f in findings if f.state is FindingState.UNDETERMINED]
    for why in dict.fromkeys(wording.why_undetermined(f.reason) for f in undetermined):
        notes.append((f"Undetermined: {why}.", TEXT))
    y += grid(6)
    for note, colour in notes:
        for line in ink.wrapped(note, grid(23), grid.right - grid.panel):
            _write(page, grid.panel, y, line, grid(23), colour)
            y += grid(28)
    return y


def _draw_ratio(page: Page, grid: Grid, y: int, result: ImageResult) -> None:
    y += grid(8)
    x = _write(page, grid.panel, y, "Cardiothoracic ratio", grid(29), TEXT) + grid(14)
    ratio = result.cardiothoracic_ratio
    said = wording.ratio_missing(result) if ratio is None else f"{ratio:.2f}"
    _write(page, x, y, said, grid(29), DIM if ratio is None else WHITE, bold=ratio is not None)


def _draw_notice(page: Page, grid: Grid, result: ImageResult) -> None:
    """That the image was not screened, why, and what to do."""
    y, width = grid(300), grid.right - grid.panel
    colour = LOUD if wording.left_out(result) else WHITE
    _write(page, grid.panel, y, wording.headline(result), grid(68), colour, bold=True)
    y += grid(110)
    why = "" if wording.is_other_view(result) else wording.reason_in_words(result.reason)
    for line in ink.wrapped(why.capitalize(), grid(42), width):
        _write(page, grid.panel, y, line, grid(42), WHITE)
        y += grid(54)
    _write(page, grid.panel, y + grid(30), wording.READ_WITHOUT, grid(42), WHITE, bold=True)


def _draw_foot(
    page: Page,
    grid: Grid,
    result: ImageResult,
    model: Model,
    made: datetime.datetime,
    replaces: datetime.datetime | None,
) -> None:
    """From the bottom up: when and by what it was made, what is never looked for."""
    when = f"Made {made:%Y-%m-%d %H:%M}"
    when += f", replaces {replaces:%H:%M}" if replaces is not None else ""
    y = grid.rows - grid.band - grid(46)
    _write(page, grid.panel, y, when, grid(27), WHITE if replaces is not None else TEXT)
    y -= grid(32)
    _write(page, grid.panel, y, _versions(model), grid(20), DIM)
    if result.outcome is not Outcome.SCREENED:
        return
    lines = ink.wrapped(wording.NEVER_LOOKED_FOR, grid(23), grid.right - grid.panel)
    for line in reversed(lines):
        y -= grid(30)
        _write(page, grid.panel, y, line, grid(23), TEXT)


def _versions(model: Model) -> str:
    parts = [f"prescreen {__version__}"]
    for network in (model.findings, model.lungs_heart):
        parts.append(f"{network.name.removeprefix('prescreen ')} {network.version}")
        parts[-1] += f" ({network.sha256[:8]})"
    return " - ".join(parts)
