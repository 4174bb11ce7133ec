"""Screenings → the same in sentences: Basic Text SR, for viewers that know no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prescreen import __version__
from prescreen.dicom import codes, wording
from prescreen.dicom.codes import Concept
from prescreen.dicom.content import CONTAINS, container, image, said, text
from prescreen.dicom.document import BelowBar, Document, Kind, none_below
from prescreen.study import FindingState, ImageResult, Outcome

BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"

#: Of no template: its title is ours.
NARRATIVE = Kind(BASIC_TEXT_SR, codes.PRE_SCREENING, None, 3, lambda titles: titles.text)


def narrative_report(document: Document, below_bar: BelowBar = none_below) -> bytes:
    """The findings of one study in sentences as a DICOM file, most urgent first.

    The same arguments give the same bytes. Findings in `below_bar` are marked as evaluation only.
    """
    words = document.words
    says = words.catalogue.says
    warning = words.heading(codes.WARNING)
    content = [*document.context(), said(CONTAINS, warning, says.banner)]
    content.append(said(CONTAINS, warning, says.purpose))
    for result in map(document.by_urgency, document.results):
        told = _told(result, document, below_bar(result))
        items = [said(CONTAINS, words.heading(name), sentence) for name, sentence in told]
        header = result.header
        items.append(image(CONTAINS, codes.SOURCE, header.sop_class_uid, header.sop_instance_uid))
        content.append(container(CONTAINS, words.heading(codes.FINDINGS_SECTION), items))
    content.append(text(CONTAINS, words.heading(codes.MADE_BY), _made_by(document)))
    return document.part10(NARRATIVE, content)


def _told(
    result: ImageResult, document: Document, below_bar: frozenset[str]
) -> Iterator[tuple[Concept, str]]:
    """What is said of one image: (name of the statement, statement)."""
    words, changes = document.words, document.changes(result)
    if result.outcome is not Outcome.SCREENED:
        yield codes.SUMMARY, words.summary(result)
    else:
        yield from _found(result, document, below_bar)
    if changes is not None:
        yield codes.COMMENT, changes


def _found(
    result: ImageResult, document: Document, below_bar: frozenset[str]
) -> Iterator[tuple[Concept, str]]:
    """What was found on an image that was screened."""
    words = document.words
    headline = words.headline(result).rstrip(".。")
    stop = words.catalogue.says.no_exclusion[-1]
    yield codes.SUMMARY, f"{headline}{stop} {words.catalogue.says.no_exclusion}"
    for finding in result.findings:
        if finding.state in wording.LOUD:
            undetermined = finding.state is FindingState.UNDETERMINED
            why = f": {words.why_undetermined(finding.reason)}" if undetermined else ""
            yield _NAMES[finding.state], words.name_of(finding.label) + why
    quiet = wording.in_state(result.findings, FindingState.NOT_FLAGGED)
    if quiet:
        yield codes.NOT_FLAGGED, words.names(quiet)
    yield from _limits(result, document, below_bar)


_NAMES = {
    FindingState.FLAGGED: codes.FLAGGED,
    FindingState.UNDETERMINED: codes.UNDETERMINED,
}


def _limits(
    result: ImageResult, document: Document, below_bar: frozenset[str]
) -> Iterator[tuple[Concept, str]]:
    """What the findings are worth, and what was not looked at."""
    words = document.words
    says = words.catalogue.says
    not_evaluated = words.not_evaluated(result)
    if not_evaluated:
        yield codes.COMMENT, not_evaluated
    shown = [f for f in result.findings if f.state is not FindingState.NOT_EVALUATED]
    marked = [f for f in shown if f.label in below_bar]
    if marked:
        yield codes.COMMENT, says.below_release_bar_are.format(listed=words.names(marked))
    sensitivities = words.sensitivities(result, document.model.behind(result))
    if sensitivities:
        yield codes.COMMENT, sensitivities
    ratio = result.cardiothoracic_ratio
    measured = words.ratio_missing(result) if ratio is None else words.number(ratio)
    yield codes.CARDIOTHORACIC_RATIO, measured
    yield codes.COMMENT, says.never_looked_for


def _made_by(document: Document) -> str:
    model = document.model
    every = (model.findings, model.lungs_heart, *(r.network for r in document.results if r.network))
    networks = {network.sha256: network for network in every}.values()
    named: Iterable[str] = (f"{n.name} {n.version} (sha256 {n.sha256})" for n in networks)
    return ", ".join([f"prescreen {__version__}", *named])
