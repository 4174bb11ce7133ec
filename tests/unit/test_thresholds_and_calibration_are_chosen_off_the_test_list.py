"""Rules and calibrations on numbers one can check by hand, and a site's DICOM folder end to end."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from prescreen.nets import weights
from prescreen.nets.screener import Screener
from prescreen.nets.weights import Calibration
from prescreen.study import LABELS
from tests import pictures
from train import calibrate, calibration, figures, screening, thresholds
from train.data import DataError, LabelledPicture, read_labels

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
QUICK = ["--engine", "torch"]  # starts faster than engines that convert the networks first
TRUTH = [0, 0, 1, 0, 1, 1, 0, 1]
SCORES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def listed(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


# ---------------------------------------------------------------- thresholds


def test_the_papers_rule_takes_the_first_sensitivity_above_the_auroc() -> None:
    assert figures.auroc(TRUTH, SCORES) == 0.75
    point = thresholds.paper_auc(TRUTH, SCORES)
    assert point is not None
    assert (point.sensitivity, point.specificity) == (1.0, 0.5)  # 0.75 itself does not exceed it
    assert point.threshold == pytest.approx(0.25)
    perfect = thresholds.paper_auc([0, 1], [0.2, 0.6])
    assert perfect is not None and (perfect.sensitivity, perfect.specificity) == (1, 1)


@pytest.mark.parametrize(
    ("rule", "sensitivity", "specificity"),
    [
        ("sensitivity:0.75", 0.75, 0.75),
        ("sensitivity:0.76", 1.0, 0.5),
        ("specificity:0.75", 0.75, 0.75),
        ("specificity:0.5", 1.0, 0.5),
        ("specificity:0.99", 0.25, 1.0),
        ("youden", 1.0, 0.5),
    ],
)
def test_a_fixed_share_is_kept_and_not_more_given_away(
    rule: str, sensitivity: float, specificity: float
) -> None:
    point = thresholds.rule_of(rule)(TRUTH, SCORES)
    assert point is not None
    assert (point.sensitivity, point.specificity) == (sensitivity, specificity)
    flagged = np.array(SCORES) >= point.threshold
    assert flagged[np.array(TRUTH, dtype=bool)].mean() == sensitivity


def test_a_specificity_out_of_reach_flags_nothing() -> None:
    point = thresholds.rule_of("specificity:0.9")([1, 0], [0.5, 0.9])
    assert point is not None and point.threshold > 0.9 and point.specificity == 1.0


@pytest.mark.parametrize("rule", ["paper_auc", "sensitivity:0.9", "specificity:0.9", "youden"])
def test_no_rule_makes_a_threshold_of_one_kind(rule: str) -> None:
    assert thresholds.rule_of(rule)([1, 1], [0.1, 0.9]) is None


@pytest.mark.parametrize("rule", ["f1", "sensitivity", "sensitivity:2", "specificity:no"])
def test_a_rule_that_is_none_is_refused_with_those_there_are(rule: str) -> None:
    with pytest.raises(DataError, match=f"threshold rule '{rule}' is none of paper_auc, youden"):
        thresholds.rule_of(rule)


def test_nothing_is_chosen_on_the_official_test_list() -> None:
    one = LabelledPicture(Path("1.png"), "1", (0,) * 14, "PA", "test")
    with pytest.raises(DataError, match="1 of these radiographs are of the official test list"):
        thresholds.chosen("youden", [one], np.zeros((1, 14)))


# ---------------------------------------------------------------- calibration


def sample(a: float, b: float) -> tuple[figures.Truth, figures.Numbers]:
    generator = np.random.default_rng(0)
    logits = generator.normal(-1, 2, 20_000)
    truth = generator.random(20_000) < calibration.sigmoid(a * logits + b)
    return truth, logits


def test_platt_finds_what_the_sample_was_made_with() -> None:
    found = calibration.fitted("platt", *sample(0.6, -1.2))
    assert found is not None and found.kind == "platt"
    assert [found.a, found.b] == pytest.approx([0.6, -1.2], abs=0.05)


def test_a_temperature_moves_nothing_but_the_slope() -> None:
    truth, logits = sample(0.5, 0.0)
    found = calibration.fitted("temperature", truth, logits)
    assert found is not None and found.b == 0 and found.a == pytest.approx(0.5, abs=0.03)
    before = figures.calibration_error(truth, calibration.applied(None, logits))
    after = figures.calibration_error(truth, calibration.applied(found, logits))
    assert after < 0.02 < before


def test_an_order_that_is_wrong_is_not_turned_round() -> None:
    truth, logits = sample(-0.6, 0.0)
    assert calibration.fitted("platt", truth, logits) is None


def test_nine_of_a_kind_are_too_few_and_a_parted_sample_stays_finite() -> None:
    logits = np.linspace(-3, 3, 40)
    assert calibration.fitted("platt", np.arange(40) >= 31, logits) is None
    found = calibration.fitted("platt", np.arange(40) >= 20, logits)
    assert found is not None and np.isfinite([found.a, found.b]).all()
    with pytest.raises(DataError, match="calibration 'isotonic' is none of platt, temperature"):
        calibration.fitted("isotonic", np.arange(40) >= 20, logits)


def test_another_prevalence_multiplies_the_odds() -> None:
    moved = calibration.shifted(Calibration("platt", 2.0, 0.0), was=0.5, becomes=0.1)
    assert calibration.applied(moved, np.zeros(1))[0] == pytest.approx(0.1)
    with pytest.raises(DataError, match=r"prevalence 1\.0 is not between 0 and 1"):
        calibration.shifted(moved, 0.5, 1.0)


def test_a_calibration_can_be_undone() -> None:
    said = np.random.default_rng(0).uniform(0.01, 0.99, (5, 14))
    calibrations = {"Mass": Calibration("platt", 1.7, -0.4)}
    logits = calibration.logits_of(said, calibrations)
    k = LABELS.index("Mass")
    assert calibration.applied(calibrations["Mass"], logits[:, k]) == pytest.approx(said[:, k])
    assert calibration.applied(None, logits[:, 0]) == pytest.approx(said[:, 0])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["Gout", "0.1"]], "unknown finding 'Gout'"),
        ([["Mass", "10%"]], "the prevalence of Mass is not between 0 and 1"),
        ([["Mass", "0"]], "the prevalence of Mass is not between 0 and 1"),
    ],
)
def test_a_prevalence_that_is_none_is_named(
    tmp_path: Path, rows: list[list[str]], words: str
) -> None:
    path = listed(tmp_path / "p.csv", [["label", "prevalence"], *rows])
    with pytest.raises(DataError, match=words):
        calibrate.read_prevalence(path)


# ---------------------------------------------------------------- a site's own studies


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 DICOM radiographs of 12 patients, named by UID in the list.

    Those that the weights find likelier to show a mass are said to have one, but for two: whatever
    the weights, there is an order to calibrate.
    """
    folder = tmp_path_factory.mktemp("site")
    (folder / "dicom").mkdir()
    generator, files, uids = np.random.default_rng(0), {}, {}
    for i in range(24):
        cells = generator.integers(0, 4000 if i % 2 else 2500, (40, 32)).astype(np.uint16)
        ds = pictures.data_set(cells, PatientID=f"P{i // 2}")
        name = f"{i:02d}"
        files[name] = pictures.saved(folder / "dicom", ds, f"{name}.dcm")
        uids[name] = ds.SOPInstanceUID
    said = screening.probabilities_of(files, Screener(WEIGHTS, "cpu", "torch"))
    ranked = np.argsort(said.masked[:, LABELS.index("Mass")]).tolist()
    ranked[10], ranked[13] = ranked[13], ranked[10]
    rows = [["image", "labels", "view"]]
    for rank, place in enumerate(ranked):
        told = ["Mass" if rank >= 12 else "No Finding", "PA" if rank % 3 else "AP"]
        rows.append([uids[said.stems[place]], *told])
    listed(folder / "labels.csv", rows)
    listed(folder / "prevalence.csv", [["label", "prevalence"], ["Mass", "0.02"]])
    where = ["--images", folder / "dicom", "--labels", folder / "labels.csv"]
    fit = ["--rule", "sensitivity:0.9", "--prevalence", folder / "prevalence.csv"]
    out = ["--weights", WEIGHTS, "--to", folder / "weights", "--json", folder / "site.json"]
    calibrate.main([str(a) for a in [*where, *fit, *out, *QUICK]])
    return folder


def test_the_new_manifest_is_bound_to_the_same_weights(site: Path) -> None:
    old, new = (weights.load(f)["findings"].manifest for f in (WEIGHTS, site / "weights"))
    assert new.sha256 == old.sha256 and new.version.startswith(f"{old.version}+site.")
    changed = [k for k in LABELS if new.thresholds[k] != old.thresholds[k]]
    fitted = [k for k in LABELS if new.calibration[k] != old.calibration[k]]
    assert changed == fitted == ["Mass"]
    assert new.metrics["Hernia"] == old.metrics["Hernia"]
    assert new.metrics["Mass"].positives == 12 and new.metrics["Mass"].sensitivity is not None
    assert set(new.metrics["Mass"].by_view) == {"PA", "AP"}
    assert new.figures_from.startswith("24 radiographs of 12 patients of the site")
    assert new.threshold_rule.startswith("sensitivity:0.9; 13 findings ")
    assert new.config["site"]["prevalence"] == {"Mass": 0.02}


def test_what_was_fitted_is_reported_with_what_was_kept(site: Path) -> None:
    report = json.loads((site / "site.json").read_text())
    assert report["n"] == 24 and report["patients"] == 12
    assert set(report["fitted"]) == {"Mass"} and "Hernia" in report["kept"]
    low, high = report["fitted"]["Mass"]["sensitivity_ci95"]
    assert low < report["fitted"]["Mass"]["sensitivity"] <= high
    assert (site / "site_reliability.png").is_file()


def test_only_the_fitted_finding_has_another_probability(site: Path) -> None:
    radiograph = screening.radiograph_of(site / "dicom" / "01.dcm")
    before = Screener(WEIGHTS, "cpu", "torch")([radiograph])[0]
    after = Screener(site / "weights", "cpu", "torch")([radiograph])[0]
    assert before.model.calibrated and after.model.calibrated
    had, has = (
        weights.load(folder)["findings"].manifest.calibration["Mass"]
        for folder in (WEIGHTS, site / "weights")
    )
    for old, new in zip(before.findings, after.findings, strict=True):
        assert old.probability is not None and new.probability is not None
        if new.label != "Mass":
            assert new.probability == pytest.approx(old.probability, abs=1e-6)
            continue
        logit = (np.log(old.probability / (1 - old.probability)) - had.b) / had.a
        expected = calibration.applied(has, np.array([logit]))[0]
        assert new.probability == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("folder", [WEIGHTS, WEIGHTS / "densenet121"])
def test_what_ships_is_calibrated_and_names_no_folder_of_its_makers(folder: Path) -> None:
    manifest = weights.load(folder)["findings"].manifest
    assert set(manifest.calibration) == set(LABELS)
    assert not [v for v in manifest.config.values() if isinstance(v, str) and v.startswith("/")]


def test_weights_are_not_written_over(site: Path) -> None:
    manifest = weights.load(site / "weights")["findings"].manifest
    with pytest.raises(DataError, match="is where the weights lie: name another folder"):
        calibrate.write(site / "weights", site / "weights", manifest)


def test_a_prevalence_without_a_calibration_is_refused_before_the_work(tmp_path: Path) -> None:
    shares = listed(tmp_path / "p.csv", [["label", "prevalence"], ["Mass", "0.02"]])
    where = ["--images", tmp_path / "gone", "--labels", tmp_path / "gone.csv", "--weights", WEIGHTS]
    out = ["--to", tmp_path / "to", "--json", tmp_path / "p.json", "--prevalence", shares]
    words = "a prevalence shifts what was calibrated .* choose platt or temperature, or leave --pre"
    with pytest.raises(SystemExit, match=words):
        calibrate.main([str(a) for a in [*where, *out, "--calibration", "none"]])


def test_radiographs_of_the_test_list_are_known_by_the_lists_beside_the_labels(
    tmp_path: Path,
) -> None:
    labels = listed(tmp_path / "labels.csv", [["image", "labels"], ["a_0.png", "Mass"]])
    thresholds.refuse_test(read_labels(labels))  # nothing says that it is of the list
    (tmp_path / "train_val_list.txt").write_text("b_0.png\n")
    (tmp_path / "test_list.txt").write_text("a_0.png\n")
    with pytest.raises(DataError, match="1 of these radiographs are of the official test list"):
        thresholds.refuse_test(read_labels(labels))


def test_radiographs_that_weights_may_have_learnt_from_calibrate_nothing(
    site: Path, tmp_path: Path
) -> None:
    with (site / "labels.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    known = [[*head, "official_split"], *([*row, "train_val"] for row in rows)]
    labels = listed(tmp_path / "labels.csv", known)
    where = ["--images", site / "dicom", "--labels", labels, "--weights", WEIGHTS]
    out = ["--to", tmp_path / "to", "--json", tmp_path / "r.json", *QUICK]
    words = f"{len(rows)} of these radiographs are of the official train_val list.* or say --unseen"
    with pytest.raises(SystemExit, match=words):
        calibrate.main([str(a) for a in [*where, *out]])
    assert not (tmp_path / "to").exists()
    calibrate.main([str(a) for a in [*where, *out, "--unseen"]])
    assert (tmp_path / "to" / "findings.json").is_file()


def test_a_finding_that_is_not_calibrated_has_no_prevalence_to_shift(site: Path) -> None:
    listed(site / "hernia.csv", [["label", "prevalence"], ["Hernia", "0.02"]])
    where = ["--images", site / "dicom", "--labels", site / "labels.csv", "--weights", WEIGHTS]
    out = ["--to", site / "other", "--json", site / "r.json", *QUICK]
    with pytest.raises(SystemExit, match="Hernia got no calibration that a prevalence could shift"):
        calibrate.main([str(a) for a in [*where, "--prevalence", site / "hernia.csv", *out]])


def test_a_site_with_too_few_is_told_so(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "dicom", tmp_path / "dicom")
    rows = [["image", "labels"], *([f"{i:02d}.dcm", "Mass"] for i in range(4))]
    labels = listed(tmp_path / "labels.csv", rows)
    assert len(read_labels(labels)) == 4
    where = ["--images", tmp_path / "dicom", "--labels", labels, "--weights", WEIGHTS]
    with pytest.raises(SystemExit, match="error: no finding has 10 radiographs with and 10"):
        out = ["--to", tmp_path, "--json", tmp_path / "r.json"]
        calibrate.main([str(a) for a in [*where, *out, *QUICK]])
