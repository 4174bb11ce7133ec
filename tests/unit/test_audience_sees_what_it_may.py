"""A release audience sees what reaches the bar; what is on hold is seen by nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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


def _given_by(model: Model, view: str = "PA") -> ImageResult:
    return replace(
        _result(view),
        network=model.findings,
        worth=model.worth(view),
        calibrated=model.calibrated,
    )


OTHER = replace(NETWORK, version="2", sha256="cd" * 32)


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_an_answer_is_held_to_the_figures_of_the_weights_that_gave_it(view: str) -> None:
    """However good or bad the weights are that are in use by now."""
    good: dict[str, Any] = {view: ViewFigures(0.9, 0.85, 60)}
    bad: dict[str, Any] = {view: ViewFigures(0.7, 0.6, 60)}
    for then, now, state in (
        (good, bad, FindingState.FLAGGED),
        (bad, good, FindingState.NOT_EVALUATED),
    ):
        answer, in_use = _given_by(_model(**then), view), replace(_model(**now), findings=OTHER)
        released = for_audience(answer, in_use, Audience.RELEASE, Report())
        assert {finding.state for finding in released.findings} == {state}


def test_an_answer_that_does_not_tell_of_its_weights_is_not_released() -> None:
    answer = replace(_given_by(_model()), worth=())
    released = for_audience(answer, replace(_model(), findings=OTHER), Audience.RELEASE, Report())
    assert {finding.reason for finding in released.findings} == {"below_release_bar"}
    assert for_audience(answer, _model(), Audience.RELEASE, Report()) == answer


def test_earlier_weights_are_known_by_what_their_answer_tells() -> None:
    then, now = _model(), replace(_model(), findings=OTHER, calibrated=False)
    behind = now.behind(_given_by(then))
    assert behind.findings == NETWORK
    assert behind.calibrated and behind.feature_distance_limit is None
    assert behind.figures_of("Mass").sensitivity == 0.8
    assert now.behind(replace(_given_by(then), network=OTHER)) == now
