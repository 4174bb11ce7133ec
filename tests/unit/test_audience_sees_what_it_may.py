"""A release audience sees what reaches the bar; what is on hold is seen by nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prescreen.audience import for_audience, reaches_bar
from prescreen.settings import Report
from prescreen.study import (
    LABELS,
    Audience,
    Finding,
    FindingState,
    Header,
    ImageResult,
    LabelFigures,
    Model,
    Network,
    Outcome,
    ViewFigures,
)

NETWORK = Network("prescreen findings", "1", "ab" * 32, "2.25.1")


def _model(auroc_low: float = 0.85, positives: int = 90, **by_view: ViewFigures) -> Model:
    views = by_view or {"PA": ViewFigures(0.9, 0.85, 60), "AP": ViewFigures(0.7, 0.6, 30)}
    figures = tuple(
        LabelFigures(label, 0.5, 0.9, auroc_low, positives, 0.8, 0.8, views) for label in LABELS
    )
    return Model(NETWORK, NETWORK, figures, "youden", True, 1.0)


def _result(view: str | None) -> ImageResult:
    findings = tuple(Finding(label, 0.7, 0.7, 0.5, FindingState.FLAGGED) for label in LABELS)
    header = Header("1.2", "1.3", "1.4", "1.5", view_position=view)
    return ImageResult(header, Outcome.SCREENED, None, findings)


@pytest.mark.parametrize(
    ("model", "view", "reaches"),
    [
        (_model(), "PA", True),
        (_model(), "AP", False),
        (_model(), None, False),
        (_model(auroc_low=0.79), "PA", False),
        (_model(positives=49), "PA", False),
        (_model(PA=ViewFigures(0.9, 0.85, 49)), "PA", False),
    ],
)
def test_the_bar_asks_for_figures_of_the_view(model: Model, view: str, reaches: bool) -> None:
    assert reaches_bar(model, "Mass", view, Report()) is reaches


def test_below_the_bar_is_not_evaluated_for_release_and_shown_for_evaluation() -> None:
    result, model = _result("AP"), _model()
    released = for_audience(result, model, Audience.RELEASE, Report())
    assert {f.state for f in released.findings} == {FindingState.NOT_EVALUATED}
    assert {f.reason for f in released.findings} == {"below_release_bar"}
    assert for_audience(result, model, Audience.EVALUATION, Report()) == result


def test_a_finding_on_hold_is_seen_by_nobody() -> None:
    for audience in Audience:
        shown = for_audience(_result("PA"), _model(), audience, Report(), frozenset({"Hernia"}))
        states = {f.label: (f.state, f.reason) for f in shown.findings}
        assert states["Hernia"] == (FindingState.NOT_EVALUATED, "on_hold")
        assert states["Mass"] == (FindingState.FLAGGED, None)


def test_a_pooled_figure_that_is_missing_does_not_release() -> None:
    model = _model()
    figures = tuple(replace(f, auroc_low=None) for f in model.figures)
    assert not reaches_bar(replace(model, figures=figures), "Mass", "PA", Report())
