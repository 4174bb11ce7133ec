"""What each audience may see of a result: the release bar, and findings on hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prescreen.dicom.wording import LOUD, in_state, ordered
from prescreen.settings import Report
from prescreen.study import (
    POINTING_PATIENTS,
    Audience,
    Finding,
    FindingState,
    FloatArray,
    ImageResult,
    Model,
    Screening,
)


def for_audience(
    result: ImageResult,
    model: Model,
    audience: Audience,
    bar: Report,
    held: frozenset[str] = frozenset(),
) -> ImageResult:
    """The result as this audience may see it.

    A `release` audience sees a finding only if its validation AUROC (lower 95 % bound) and its
    positives reach the bar for the view at hand (`below_release_bar` otherwise); an answer of
    earlier weights is held to the figures of those. A finding on hold is seen by nobody
    (`on_hold`).
    """
    model = model.behind(result)
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


def attention_of(
    shown: ImageResult, screening: Screening, settings: Report
) -> Mapping[str, FloatArray]:
    """The attention maps that may leave with a result as its audience may see it, by urgency.

    Those of findings shown as flagged or undetermined whose maps were proven to point better than
    a fixed point, and none unless the settings say so. An empty map shows nothing.
    """
    if settings.attention == "off":
        return {}
    proven = screening.model.pointing_proven
    loud = in_state(ordered(shown.findings, settings.urgency), *LOUD)
    maps = {f.label: screening.attention.get(f.label) for f in loud if f.label in proven}
    return {label: map_ for label, map_ in maps.items() if map_ is not None and map_.any()}


def attention_in_words(model: Model, settings: Report) -> str:
    """Of which findings the attention is shown where they are flagged, or why of none."""
    if settings.attention == "off":
        return "off: where the network looked is not shown"
    if model.pointing_proven:
        return f"where the network looked is shown for {', '.join(model.pointing_proven)}"
    measured = [figures.label for figures in model.figures if figures.pointing is not None]
    if not measured:
        why = "the manifest of these weights states no pointing game"
    else:
        why = (
            f"of the {len(measured)} findings with a pointing game none has, on at least "
            f"{POINTING_PATIENTS} patients kept out of the training, a hit rate whose lower bound "
            "is above that of one fixed point, its own and that of all findings together"
        )
    return (
        f"report.attention = {settings.attention!r}, but where the network looked is shown for no "
        f"finding: {why}; python -m train.pointing states one, or set it to 'off'"
    )
