"""Everything we say in words, in reports and on captures. ASCII, so that it fits any data set.

A finding is flagged, not flagged, undetermined or not evaluated; nothing here says that a disease
is not there. No text is taken from a source.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from prescreen.study import Finding, FindingState, ImageResult, Model, Outcome

BANNER = "AI OUTPUT - NOT A DIAGNOSIS"
PURPOSE = "RESEARCH AND EVALUATION ONLY - NOT A MEDICAL DEVICE"
SERIES_DESCRIPTION = "AI pre-screening - not a diagnosis"
FINDINGS_DESCRIPTION = "AI findings - not a diagnosis"
REGIONS_DESCRIPTION = "AI outlines of lungs and heart - not a diagnosis"
PRESENTATION_DESCRIPTION = "AI outlines - not a diagnosis"
SEGMENTATION_DESCRIPTION = "AI lungs and heart - not a diagnosis"
TEXT_DESCRIPTION = "AI findings in words - not a diagnosis"
NOTICE_DESCRIPTION = "AI pre-screening - NOT SCREENED"
NOTHING_FLAGGED = "No finding flagged."
NO_EXCLUSION = "This does not exclude disease."
NEVER_LOOKED_FOR = (
    "Never looked for: fractures, lines and tubes, free air, hilar and mediastinal disease, bone."
)
NOT_SCREENED = "Not screened"
READ_WITHOUT = "Read without AI."
EVALUATION_ONLY = "evaluation only"
BELOW_RELEASE_BAR = "below release bar - evaluation only"
NETWORKS_DISAGREE = "masked and whole image disagree"
NOT_MEASURED_VIEW = "not measured (view)"
NOT_MEASURED = "not measured"
UNKNOWN = "-"

#: States that are shown loud: undetermined like flagged.
LOUD = (FindingState.FLAGGED, FindingState.UNDETERMINED)

#: What a label is called on the page.
NAMES = {
    "Effusion": "Pleural effusion",
    "Pleural_Thickening": "Pleural thickening",
    "Hernia": "Hiatal hernia",
}

#: Reason codes in words. A code that is not here is said as it is, without its underscores.
REASONS = {
    "below_release_bar": "below release bar",
    "on_hold": "on hold",
    "not_in_weights": "unknown to the weights",
    "no_threshold": "no threshold set",
    # the gate's
    "own_result": "a result of this software",
    "modality": "not a CR or DX image",
    "sop_class": "not a radiograph",
    "multiple_frames": "more than one frame",
    "species": "not a human patient",
    "quality_control": "a quality control image",
    "for_processing": "not for presentation",
    "companion": "derived from another image of the exposure",
    "derived_view": "a derived view",
    "body_part": "another body part",
    "view": "not a frontal view",
    "too_small": "too few pixels for a radiograph",
    "aspect": "not the shape of a chest radiograph",
    "contrast": "next to no contrast",
    "inverted": "grey scale looks inverted",
    "rotated": "looks rotated",
    "anatomy_not_assessable": "anatomy not assessable",
    "not_frontal_chest": "unlike a frontal chest radiograph",
    "unlike_training": "unlike the training data",
    # the scope's
    "calling_ae_title": "from a sender out of scope",
    "prior": "acquired too long ago",
    "age": "patient younger than the age limit",
    "age_unknown": "patient of unknown age",
    # of what was kept
    "file_missing": "the file is no longer there",
    "file_damaged": "the file has changed since it was received",
    "conflict": "other pixels than those first received under this UID",
    # of the work on it
    "not_finite": "the networks gave no number",
    "error": "the node could not do it",
    "unfit_object": "the result did not pass the check before it is sent",
    "too_many_attempts": "the node could not do it, however often it tried",
    "not_reached": "the node did not come to it",
    "recalled": "the earlier result was taken back",
    "rejected": "the images were rejected",
    # the decoder's
    "unreadable": "the file cannot be read",
    "unparsable": "the file is damaged",
    "implausible_data_set": "the data set is built as no radiograph is",
    "truncated": "the file ends too early",
    "unsupported_transfer_syntax": "this compression is not decoded",
    "no_pixel_data": "no pixels in the file",
    "implausible_pixels": "the description of the pixels contradicts itself",
    "too_large": "more pixels than the node takes",
    "multi_frame": "more than one frame",
    "colour": "a colour picture",
    "unsupported_pixels": "this kind of pixels is not read",
    "decode_failed": "the compressed pixels do not decode",
    "decode_crashed": "decoding failed",
    "decode_timeout": "decoding took too long",
    "decode_memory": "decoding took too much memory",
}


#: Why a finding is undetermined, by its reason code.
UNDETERMINED = {
    "mask_disagreement": NETWORKS_DISAGREE,
    "anatomy_not_found": "lungs and heart were found in too small a part of the image",
}


def why_undetermined(reason: str | None) -> str:
    """Why a finding could not be said to be flagged or not."""
    return UNDETERMINED.get(reason or "", NETWORKS_DISAGREE)


def name_of(label: str) -> str:
    """A label as people say it."""
    return NAMES.get(label, label.replace("_", " "))


def reason_in_words(code: str | None) -> str:
    """A reason code as people say it; characters that no code has are left out."""
    if not code:
        return "no reason recorded"
    return REASONS.get(code, re.sub(r"[^A-Za-z0-9 ,.()-]", " ", code.replace("_", " "))).strip()


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


def headline(result: ImageResult) -> str:
    """The first thing said of an image."""
    if result.outcome is Outcome.OUT_OF_SCOPE:
        return "Out of scope"
    if result.outcome is not Outcome.SCREENED:
        return "Not analysed (view)" if is_other_view(result) else NOT_SCREENED
    flagged = len(in_state(result.findings, FindingState.FLAGGED))
    undetermined = len(in_state(result.findings, FindingState.UNDETERMINED))
    parts = [f"{flagged} flagged"] if flagged else []
    parts += [f"{undetermined} undetermined"] if undetermined else []
    if parts:
        return ", ".join(parts)
    if not in_state(result.findings, FindingState.NOT_FLAGGED):
        return "No finding evaluated."
    return NOTHING_FLAGGED


def not_evaluated(result: ImageResult) -> str | None:
    """The sentence that lists what was not evaluated and why; None where all was."""
    findings = in_state(result.findings, FindingState.NOT_EVALUATED)
    if not findings:
        return None
    listed = (f"{name_of(f.label)} ({reason_in_words(f.reason)})" for f in findings)
    return f"Not evaluated: {', '.join(listed)}."


def summary(result: ImageResult) -> str:
    """What became of one image, in sentences."""
    if result.outcome is not Outcome.SCREENED:
        end = "" if is_other_view(result) else f": {reason_in_words(result.reason)}"
        return f"{headline(result)}{end}. {READ_WITHOUT}"
    said = [headline(result), NO_EXCLUSION, NEVER_LOOKED_FOR, not_evaluated(result)]
    if result.cardiothoracic_ratio is None:
        said.append(f"Cardiothoracic ratio {ratio_missing(result)}.")
    return " ".join(s if s.endswith(".") else f"{s}." for s in said if s)


def sensitivities(result: ImageResult, model: Model) -> str | None:
    """The sensitivity of each evaluated finding at its operating point; None where there is none.

    What was not flagged weighs as much as the share of such findings that would have been.
    """
    evaluated = [f for f in result.findings if f.state is not FindingState.NOT_EVALUATED]
    known = {figures.label: figures.sensitivity for figures in model.figures}
    if not evaluated:
        return None
    listed = (f"{name_of(f.label)} {sensitivity(known.get(f.label))}" for f in evaluated)
    return f"Sensitivity in validation: {', '.join(listed)}."


def ratio_missing(result: ImageResult) -> str:
    """Why there is no cardiothoracic ratio."""
    return NOT_MEASURED_VIEW if result.header.view != "PA" else NOT_MEASURED


def calibration(calibrated: bool) -> str:
    """Whether the network's numbers may be read as probabilities."""
    if calibrated:
        return "Outputs are calibrated on validation data."
    return "Outputs are not calibrated: they do not compare across findings."


def sensitivity(value: float | None) -> str:
    """A sensitivity without decimals or percent: how many of ten are found in validation."""
    if value is None:
        return UNKNOWN
    tenths = int(value * 10 + 0.5)
    if tenths == 10 and value < 1:
        return "9 of 10"  # rounding must not promise that nothing is missed
    return f"{tenths} of 10"
