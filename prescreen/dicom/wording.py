"""Everything we say in words, in reports and on captures, in the language of the settings.

A finding is flagged, not flagged, undetermined or not evaluated; nothing here says that a disease
is not there. No text is taken from a source.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pydicom

from prescreen.dicom import language
from prescreen.dicom.codes import Concept
from prescreen.dicom.language import Catalogue
from prescreen.dicom.transcoding import is_unicode
from prescreen.study import Finding, FindingState, ImageResult, Model, Outcome

#: States that are shown loud: undetermined like flagged.
LOUD = (FindingState.FLAGGED, FindingState.UNDETERMINED)


# --- what needs no words -------------------------------------------------------------------------


def is_other_view(result: ImageResult) -> bool:
    """Whether the image was left out because of its view, which is nothing gone wrong."""
    if result.outcome is Outcome.SCREENED:
        return False
    reason = result.reason or ""
    return result.header.view in ("LATERAL", "OBLIQUE") or "lateral" in reason or reason == "view"


def left_out(result: ImageResult) -> bool:
    """Whether an image in scope got no answer: what makes a report PARTIAL."""
    failed = result.outcome in (Outcome.NOT_SCREENED, Outcome.FAILED)
    return failed and not is_other_view(result)


def in_state(findings: Sequence[Finding], *states: FindingState) -> list[Finding]:
    """The findings in one of those states, in their order."""
    return [finding for finding in findings if finding.state in states]


def ordered(findings: Sequence[Finding], urgency: Sequence[str]) -> list[Finding]:
    """Flagged and undetermined first, not evaluated last, each group by urgency."""

    def place(finding: Finding) -> tuple[int, int]:
        group = 1 - (finding.state in LOUD) + (finding.state is FindingState.NOT_EVALUATED)
        return group, urgency.index(finding.label)

    return sorted(findings, key=place)


# --- the words -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Words:
    """The sentences of one language, made of its catalogue."""

    catalogue: Catalogue

    @property
    def language(self) -> Concept:
        """RFC 5646's tag as a code (PS3.16 CID 5000)."""
        return Concept(self.catalogue.tag, "RFC5646", self.catalogue.meaning)

    def heading(self, concept: Concept) -> Concept:
        """A concept that people read as a heading: its code with the word of the language.

        For our own scheme and for headings of a text; other codes keep the standard's meanings.
        """
        word = self.catalogue.headings.get(_HEADINGS.get(concept.value, concept.value))
        return concept if word is None else concept._replace(meaning=word)

    def name_of(self, label: str) -> str:
        """A label as people say it."""
        return self.catalogue.findings.get(label, label.replace("_", " "))

    def names(self, findings: Iterable[Finding]) -> str:
        """Findings one after the other."""
        return self.catalogue.says.between.join(self.name_of(f.label) for f in findings)

    def why_undetermined(self, reason: str | None) -> str:
        """Why a finding could not be said to be flagged or not."""
        known = self.catalogue.undetermined
        return known.get(reason or "", known["mask_disagreement"])

    def reason(self, code: str | None) -> str:
        """A reason code as people say it; characters that no code has are left out."""
        if not code:
            return self.catalogue.says.no_reason
        plain = re.sub(r"[^A-Za-z0-9 ,.()-]", " ", code.replace("_", " "))
        return self.catalogue.reasons.get(code, plain).strip()

    def headline(self, result: ImageResult) -> str:
        """The first thing said of an image."""
        says = self.catalogue.says
        if result.outcome is Outcome.OUT_OF_SCOPE:
            return says.out_of_scope
        if result.outcome is not Outcome.SCREENED:
            return says.other_view if is_other_view(result) else says.not_screened
        flagged = len(in_state(result.findings, FindingState.FLAGGED))
        undetermined = len(in_state(result.findings, FindingState.UNDETERMINED))
        parts = [says.flagged.format(number=flagged)] if flagged else []
        parts += [says.undetermined.format(number=undetermined)] if undetermined else []
        if parts:
            return says.between.join(parts)
        if not in_state(result.findings, FindingState.NOT_FLAGGED):
            return says.nothing_evaluated
        return says.nothing_flagged

    def found(self, result: ImageResult) -> list[str]:
        """The headline of a screened image in sentences that name the findings."""
        says = self.catalogue.says
        flagged = in_state(result.findings, FindingState.FLAGGED)
        undetermined = in_state(result.findings, FindingState.UNDETERMINED)
        said = [says.flagged_are.format(listed=self.names(flagged))] if flagged else []
        if undetermined:
            said.append(says.undetermined_are.format(listed=self.names(undetermined)))
        return said or [self.headline(result)]

    def not_evaluated(self, result: ImageResult) -> str | None:
        """The sentence that lists what was not evaluated and why; None where all was."""
        says = self.catalogue.says
        findings = in_state(result.findings, FindingState.NOT_EVALUATED)
        if not findings:
            return None
        listed = (
            says.because.format(finding=self.name_of(f.label), reason=self.reason(f.reason))
            for f in findings
        )
        return says.not_evaluated.format(listed=says.between.join(listed))

    def summary(self, result: ImageResult) -> str:
        """What became of one image, in sentences."""
        says = self.catalogue.says
        if result.outcome is not Outcome.SCREENED:
            end = "" if is_other_view(result) else f": {self.reason(result.reason)}"
            return f"{self.headline(result)}{end}. {says.read_without}"
        not_evaluated = self.not_evaluated(result)
        said = [*self.found(result), says.no_exclusion, says.never_looked_for]
        said += [not_evaluated] if not_evaluated else []
        if result.cardiothoracic_ratio is None:
            said.append(says.ratio_is.format(said=self.ratio_missing(result)))
        return " ".join(said)

    def sensitivities(self, result: ImageResult, model: Model) -> str | None:
        """The sensitivity of each evaluated finding at its operating point; None without any.

        What was not flagged weighs as much as the share of such findings that would have been.
        """
        says = self.catalogue.says
        evaluated = [f for f in result.findings if f.state is not FindingState.NOT_EVALUATED]
        known = {figures.label: figures.sensitivity for figures in model.figures}
        if not evaluated:
            return None
        listed = (f"{self.name_of(f.label)} {self.tenths(known.get(f.label))}" for f in evaluated)
        return says.sensitivities.format(listed=says.between.join(listed))

    def tenths(self, sensitivity: float | None) -> str:
        """A sensitivity without decimals or percent: how many of ten are found in validation."""
        if sensitivity is None:
            return self.catalogue.says.unknown
        number = int(sensitivity * 10 + 0.5)
        if number == 10 and sensitivity < 1:
            number = 9  # rounding must not promise that nothing is missed
        return self.catalogue.says.tenths.format(number=number)

    def ratio_missing(self, result: ImageResult) -> str:
        """Why there is no cardiothoracic ratio."""
        says = self.catalogue.says
        return says.not_measured_view if result.header.view != "PA" else says.not_measured

    def number(self, value: float) -> str:
        """A ratio as people of the language write it, with two decimals."""
        return f"{value:.2f}".replace(".", self.catalogue.says.decimal)

    def calibration(self, calibrated: bool) -> str:
        """Whether the network's numbers may be read as probabilities."""
        says = self.catalogue.says
        return says.calibrated if calibrated else says.not_calibrated

    def changes(self, before: ImageResult | None, now: ImageResult) -> str:
        """What is said of an image otherwise than before, in a sentence; None: it was not there."""
        told = self.catalogue.changes
        if before is None:
            return told.since.format(listed=told.image)
        listed = list(self._differences(before, now))
        if not listed:
            return told.unchanged
        return told.since.format(listed=self.catalogue.says.between.join(listed))

    def _differences(self, before: ImageResult, now: ImageResult) -> Iterator[str]:
        told = self.catalogue.changes
        screened = {True: told.screened, False: told.not_screened}
        were, are = (screened[r.outcome is Outcome.SCREENED] for r in (before, now))
        if were != are:
            yield told.outcome.format(before=were, after=are)
        states = {finding.label: finding.state for finding in before.findings}
        for finding in now.findings:
            state = states.get(finding.label, finding.state)
            if state is not finding.state:
                names = (getattr(told, state.value), getattr(told, finding.state.value))
                name = self.name_of(finding.label)
                yield told.finding.format(finding=name, before=names[0], after=names[1])
        ratios = [self._ratio(result) for result in (before, now)]
        if ratios[0] != ratios[1] and were == are:
            yield told.ratio.format(before=ratios[0], after=ratios[1])
        networks = {r.network.sha256 for r in (before, now) if r.network is not None}
        if len(networks) > 1:
            yield told.weights

    def _ratio(self, result: ImageResult) -> str:
        ratio = result.cardiothoracic_ratio
        return self.catalogue.says.not_measured if ratio is None else self.number(ratio)

    def sentence(self, words: str) -> str:
        """Words that stand alone: with a capital letter, the rest as it is."""
        return words[:1].upper() + words[1:]


#: Headings by the code of their concept, where the catalogue calls them otherwise.
_HEADINGS = {
    "121111": "summary",
    "121070": "findings",
    "121106": "comment",
    "373068000": "undetermined",
    "ct-ratio": "ratio",
}


@functools.cache
def words(name: str) -> Words:
    """The words of one language. SettingsError where it has no catalogue."""
    return Words(language.catalogue(name))


@functools.cache
def _plain(name: str) -> Words:
    return Words(language.in_ascii(name))


def fitting(name: str, source: pydicom.Dataset) -> Words:
    """The words that may stand in one data set with the patient of `source` (PS3.5 6.1.2).

    In ISO_IR 192 all of them; else those in ASCII, which fit every character set.
    """
    return words(name) if is_unicode(source) else _plain(name)
