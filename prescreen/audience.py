"""What each audience may see of a result: the release bar, and findings on hold."""

from __future__ import annotations

from dataclasses import replace

from prescreen.settings import Report
from prescreen.study import Audience, Finding, FindingState, ImageResult, Model


def for_audience(
    result: ImageResult,
    model: Model,
    audience: Audience,
    bar: Report,
    held: frozenset[str] = frozenset(),
) -> ImageResult:
    """The result as this audience may see it.

    A `release` audience sees a finding only if its validation AUROC (lower 95 % bound) and its
    positives reach the bar for the view at hand (`below_release_bar` otherwise). A finding on
    hold is seen by nobody (`on_hold`).
    """
    findings = tuple(
        _shown(finding, result.header.view, model, audience, bar, held)
        for finding in result.findings
    )
    return replace(result, findings=findings)


def _shown(
    finding: Finding,
    view: str | None,
    model: Model,
    audience: Audience,
    bar: Report,
    held: frozenset[str],
) -> Finding:
    if finding.label in held:
        return replace(finding, state=FindingState.NOT_EVALUATED, reason="on_hold")
    if finding.threshold is None:
        return finding  # what the weights cannot answer is said so, whoever reads it
    if audience is Audience.RELEASE and not reaches_bar(model, finding.label, view, bar):
        return replace(finding, state=FindingState.NOT_EVALUATED, reason="below_release_bar")
    return finding


def reaches_bar(model: Model, label: str, view: str | None, bar: Report) -> bool:
    """Whether the validation figures let this finding be released for a radiograph of this view.

    Both the pooled figures and those of the view must reach the bar; a view without figures
    (unknown, supine) does not.
    """
    return model.figures_of(label).reaches(view, bar.release_auroc, bar.release_positives)
