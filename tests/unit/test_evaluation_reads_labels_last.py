"""The four evaluations on made-up data: labels come after the probabilities, all goes to JSON."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prescreen.nets.screener import Screener
from prescreen.nets.weights import read_manifest
from prescreen.study import LABELS, ORGANS, Radiograph, Screening
from tests import chests
from train import (
    ablation,
    boxes,
    boxes_report,
    chestxray14,
    evaluate,
    findings_report,
    organs,
    pointing,
    screening,
)
from train.chestxray14 import LabelledPicture
from train.data import DataError

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
OFFICIAL = ["Image Index", "Finding Labels", "Patient ID", "View Position"]


def saved(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def listed(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight radiographs of noise, in two folders, of two suffixes; a list with one row too many."""
    folder = tmp_path_factory.mktemp("house")
    generator = np.random.default_rng(0)
    for i in range(8):
        name = f"0000000{i // 2}_00{i % 2}" + (".png" if i % 2 else ".jpg")
        where = folder / "images" / f"images_00{1 + i // 4}" / "images"
        saved(where / name, generator.integers(0, 255, (48, 64)))
    saved(folder / "images" / "alone.png", generator.integers(0, 255, (48, 64)))
    return folder


def rows(labels: list[str]) -> list[list[str]]:
    names = [f"0000000{i // 2}_00{i % 2}.png" for i in range(8)]
    told = [[n, k, n[:8], "PA"] for n, k in zip(names, labels, strict=True)]
    return [OFFICIAL, *told, ["gone_000.png", "No Finding", "9", "PA"]]


def run(*arguments: str | Path) -> None:
    """The command; on torch, which starts faster than engines that convert the networks first."""
    evaluate.main([*(str(a) for a in arguments), "--engine", "torch"])


def state(*arguments: str | Path) -> None:
    pointing.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def judged(house: Path) -> dict[str, Any]:
    labels = listed(house / "Data_Entry_2017.csv", rows(["Mass|Nodule", "No Finding"] * 4))
    where = ("--images", house / "images", "--labels", labels, "--weights", WEIGHTS)
    run("findings", *where, "--json", house / "f.json", "--probabilities", house / "f.csv")
    found: dict[str, Any] = json.loads((house / "f.json").read_text())
    return found


def test_shuffled_labels_leave_every_probability_as_it_is(
    house: Path, judged: dict[str, Any]
) -> None:
    labels = listed(house / "shuffled.csv", rows(["Hernia"] * 3 + ["No Finding"] * 4 + ["Mass"]))
    where = ("--images", house / "images", "--labels", labels, "--weights", WEIGHTS)
    run("findings", *where, "--json", house / "g.json", "--probabilities", house / "g.csv")
    assert (house / "f.csv").read_bytes() == (house / "g.csv").read_bytes()
    assert json.loads((house / "g.json").read_text())["auroc"] != judged["auroc"]


def test_one_official_list_can_be_judged_alone(house: Path, tmp_path: Path) -> None:
    labels = listed(tmp_path / "Data_Entry_2017.csv", rows(["Mass|Nodule", "No Finding"] * 4))
    names = [row[0] for row in rows(["Mass"] * 8)[1:]]
    with pytest.raises(DataError, match=r"2017\.csv does not say what is of test: it has no col"):
        chestxray14.stems_of_split(labels, "test")
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:6]))
    (tmp_path / "test_list.txt").write_text("\n".join(names[6:]))
    said = tmp_path / "t.csv"
    where = ("--images", house / "images", "--labels", labels, "--weights", WEIGHTS)
    to = ("--probabilities", said, "--json", tmp_path / "t.json")
    run("findings", *where, "--split", "test", *to)
    report = json.loads((tmp_path / "t.json").read_text())
    assert (report["n"], report["rows_without_picture"], report["pictures_without_row"]) == (
        2,
        1,
        1,
    )
    assert report["split"] == "2 of the 25596 radiographs of the official test list"
    assert screening.read_probabilities(said).stems == ("00000003_000", "00000003_001")


def test_the_split_may_stand_in_the_list_of_labels(tmp_path: Path) -> None:
    told = [["image", "labels", "official_split"], ["a.png", "Mass", "test"], ["b", "Mass", ""]]
    labels = listed(tmp_path / "labels.csv", told)
    assert chestxray14.stems_of_split(labels, "test") == {"a"}
    with pytest.raises(DataError, match=r"labels\.csv: none of the 2 radiographs is of train_val"):
        chestxray14.stems_of_split(labels, "train_val")


def test_the_json_has_the_figures_and_counts_what_was_left_out(
    house: Path, judged: dict[str, Any]
) -> None:
    assert judged["n"] == 8 and judged["patients"] == 4
    assert (judged["rows_without_picture"], judged["pictures_without_row"]) == (1, 1)
    assert set(judged["auroc"]) == set(judged["ci95"]) == set(LABELS)
    assert judged["positives"]["Mass"] == 4 and judged["auroc"]["Hernia"] is None
    assert 0 <= judged["auroc"]["Mass"] <= 1 and 0 <= judged["mean_auroc"] <= 1
    assert 0 <= judged["ece"] <= 1 and 0 <= judged["brier"] <= 1
    assert set(judged["operating_points"]["Mass"]) == {"threshold", "sensitivity", "specificity"}
    for name in ("roc", "reliability"):
        with Image.open(house / f"f_{name}.png") as picture:
            assert picture.size[0] > 1000


def test_the_papers_columns_are_marked_as_not_comparable(judged: dict[str, Any]) -> None:
    columns = {column["name"]: column for column in judged["table_2"]}
    assert columns["CheXNet"]["mean_auroc"] == 0.8105
    assert columns["CheXNet"]["split"] == "official test list"
    assert not any(column["may_be_compared"] for column in columns.values())
    assert columns["these weights"]["auroc"] == judged["auroc"]
    assert judged["split"] == "8 of no known split"


def test_masking_is_judged_from_the_probabilities_alone(
    house: Path, judged: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    labels = house / "Data_Entry_2017.csv"
    run("ablation", "--labels", labels, "--weights", house / "f.csv", "--json", house / "a.json")
    report = json.loads((house / "a.json").read_text())
    assert report["question"] == "masking" and report["n"] == 8
    assert report["auroc_with"] == judged["auroc"]
    assert report["auroc_without"] == judged["unmasked"]["auroc"]
    assert report["verdict"] in capsys.readouterr().out


def test_a_verdict_on_what_was_trained_on_says_that_it_says_nothing() -> None:
    rows = [(name, k % 2 == 0) for k, name in enumerate("abcdefgh")]
    scores = np.tile(np.linspace(1, 0, len(rows))[:, None], len(LABELS))

    def verdict(split: str, **more: bool) -> str:
        pictures = [
            LabelledPicture(Path(name), name, (int(here),) * len(LABELS), "PA", split)
            for name, here in rows
        ]
        told = ablation.compared(ablation.MASKING, pictures, scores, 1 - scores, **more)
        return str(told["verdict"])

    said = "may have been trained on 8 of them: of radiographs that they have not seen"
    assert said in verdict("train_val")
    assert said not in verdict("test")
    assert said not in verdict("train_val", unseen=True)


def test_attention_is_judged_from_two_runs(house: Path, judged: dict[str, Any]) -> None:
    where = ("--labels", house / "Data_Entry_2017.csv", "--weights", house / "f.csv")
    run("ablation", *where, "--without", house / "f.csv", "--json", house / "b.json")
    report = json.loads((house / "b.json").read_text())
    assert report["question"] == "attention"
    assert report["difference"]["mean"] == 0
    assert report["difference_ci95"]["mean"] == [0, 0]


def test_what_cannot_be_asked_of_one_set_of_weights_is_said(
    house: Path, judged: dict[str, Any]
) -> None:
    where = ("--labels", house / "Data_Entry_2017.csv", "--weights", house / "f.csv")
    with pytest.raises(SystemExit, match=r"--without names the other\. None is shipped"):
        run("ablation", *where, "--question", "attention", "--json", house / "c.json")


def test_a_radiograph_is_screened_once_for_maps_and_findings() -> None:
    def radiograph(name: str) -> Radiograph:
        header = replace(chests.HEADER, sop_instance_uid=name)
        return chests.radiograph(np.zeros((4, 4), dtype=np.float32), header)

    looked: list[str] = []

    def look(radiographs: Sequence[Radiograph]) -> list[Screening]:
        looked.extend(r.header.sop_instance_uid for r in radiographs)
        return [chests.screening(chests.anatomy()) for _ in radiographs]

    once = screening.Once(look)
    (first,) = once.first([radiograph("b")])
    answers = once.again([radiograph(name) for name in "abc"])
    assert looked == ["b", "a", "c"]
    assert answers[1].findings == first.findings and answers[1].attention == {}


def test_probabilities_survive_being_written(house: Path, judged: dict[str, Any]) -> None:
    said = screening.read_probabilities(house / "f.csv")
    assert said.masked.shape == said.unmasked.shape == (8, 14)
    assert not np.array_equal(said.masked, said.unmasked)


def test_a_report_that_cannot_be_written_is_refused_before_the_work(house: Path) -> None:
    where = ("--data", house / "gone", "--weights", WEIGHTS)
    with pytest.raises(SystemExit, match=r"error: --json .* cannot be written: Is a directory"):
        run("lungs-heart", *where, "--json", house)


def test_nothing_in_common_is_said_in_one_line(house: Path, judged: dict[str, Any]) -> None:
    labels = listed(house / "other.csv", [OFFICIAL, ["x.png", "Mass", "1", "PA"]])
    where = ("--images", house / "images", "--labels", labels, "--weights", WEIGHTS)
    with pytest.raises(SystemExit, match=r"error: none of the 1 names in .* is that of a file"):
        run("findings", *where, "--json", house / "n.json")
    with pytest.raises(DataError, match="names none of the radiographs"):
        findings_report.with_labels(screening.read_probabilities(house / "f.csv"), labels)


def test_what_cannot_be_read_or_answered_is_left_out(
    house: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a finding that the weights cannot answer for has no figure, instead of a wrong one."""
    pictures, weights = tmp_path / "pictures", tmp_path / "weights"
    shutil.copytree(WEIGHTS, weights)
    manifest = json.loads((weights / "findings.json").read_text())
    manifest["not_evaluated"] = {"Mass": "not_in_weights"}
    (weights / "findings.json").write_text(json.dumps(manifest))
    saved(pictures / "a.png", np.zeros((40, 40)))
    saved(pictures / "c.png", np.eye(40) * 255)
    (pictures / "b.png").write_bytes(b"no picture")
    rows = [["image", "labels"], ["a", "Mass|Nodule"], ["b.png", ""], ["c", "No Finding"]]
    labels = listed(tmp_path / "labels.csv", rows)
    where = ("--images", pictures, "--labels", labels, "--weights", weights)
    run("findings", *where, "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["n"], report["unreadable"]) == (2, 1)
    assert report["auroc"]["Mass"] is None and report["ece_by_label"]["Mass"] is None
    assert report["auroc"]["Nodule"] == report["mean_auroc"] in (0.0, 0.5, 1.0)
    assert "left out: " in capsys.readouterr().err


def test_maps_of_two_weights_are_compared_box_by_box(house: Path) -> None:
    drawn = boxes.DrawnBox("1_0", "Mass", (0.0, 0.0, 0.5, 0.5), (0, 0, 512, 512))
    hot, cold = np.zeros((7, 7), dtype=np.float32), np.zeros((7, 7), dtype=np.float32)
    hot[1, 1] = 1.0
    pair = [
        boxes_report.Located(drawn, house, m, True, boxes.box_of(m), oracle)
        for m, oracle in ((hot, 0.5), (cold, 0.25))
    ]
    found = ablation.maps_compared(pair[:1], pair[1:])
    assert found["iou_oracle"]["difference"] == 0.25
    assert (found["pointing"]["with"], found["pointing"]["without"]) == (1.0, 0.0)
    assert found["iou"]["with"] > 0 == found["iou"]["without"]
    with pytest.raises(DataError, match="have no box in common"):
        ablation.maps_compared(pair, [])


def test_boxes_without_a_picture_are_counted(house: Path, tmp_path: Path) -> None:
    box = ["200", "300", "100", "150"]
    drawn = listed(
        tmp_path / "BBox_List_2017.csv",
        [
            ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", ""],
            ["00000000_001.png", "Infiltrate", *box, "", "", ""],
            ["00000001_000.png", "Mass", *box, "", "", ""],
            ["99999999_000.png", "Mass", *box, "", "", ""],
        ],
    )
    where = ("--images", house / "images", "--boxes", drawn, "--weights", WEIGHTS)
    run("boxes", *where, "--json", tmp_path / "boxes.json")
    report = json.loads((tmp_path / "boxes.json").read_text())
    assert (report["n"], report["n_missing"], report["n_images"]) == (2, 1, 2)
    assert report["n_by_label"] == {"Infiltration": 1, "Mass": 1}
    for key in ("iou", "iou_oracle", "iou_oracle_grid_8x8", "pointing", "pointing_fixed_point"):
        assert {"mean", "ci95", "Mass", "Infiltration"} <= set(report[key])
    assert (tmp_path / "boxes_boxes.png").is_file()
    assert report["pointing_game"]["Mass"] == {
        "hit_rate": report["pointing"]["Mass"],
        "low": 0.0,
        "fixed_point": report["pointing_fixed_point"]["Mass"],
        "fixed_point_of_all": report["pointing_fixed_point"]["mean"],
        "boxes": 1,
        "patients": 1,
    }
    stated = ("--boxes", tmp_path / "boxes.json", "--weights", WEIGHTS, "--to", tmp_path / "w")
    seen = listed(tmp_path / "trained.csv", [["image"], ["00000001_004.png"]])
    with pytest.raises(SystemExit, match=r"1 of 2 radiographs are of patients in .*trained\.csv"):
        state(*stated, "--held-out", "noise", "--list", seen)
    state(*stated, "--trained-on", "noise")
    game = read_manifest(tmp_path / "w" / "findings.json").pointing
    assert game is not None and game.radiographs == "noise"
    assert not any(told.held_out or told.is_proven for told in game.findings.values())


def drawn_at(left: int, top: int, width: int, height: int) -> list[boxes.DrawnBox]:
    """A mass on two radiographs, in pixels of 1024."""
    shares = (left / 1024, top / 1024, (left + width) / 1024, (top + height) / 1024)
    whole = (left, top, width, height)
    return [boxes.DrawnBox(f"0000000{i}_000", "Mass", shares, whole) for i in range(2)]


@pytest.fixture(scope="module")
def tracer() -> screening.Tracer:
    return screening.Tracer(WEIGHTS, engine_name="torch")


def test_moved_boxes_leave_every_map_and_probability_as_it_is(
    house: Path, tracer: screening.Tracer
) -> None:
    said: list[Screening] = []

    def look(radiographs: Sequence[Radiograph]) -> list[Screening]:
        said.extend(tracer(radiographs))
        return said[-len(radiographs) :]

    places = ((100, 100, 200, 200), (700, 600, 50, 300))
    there, moved = (boxes_report.locate(house / "images", drawn_at(*p), look) for p in places)
    for one, other in zip(there, moved, strict=True):
        assert np.array_equal(one.attention, other.attention)
        assert (one.path, one.found, one.shown) == (other.path, other.found, other.shown)
        assert one.drawn.box != other.drawn.box
    first, again = said[:2], said[2:]
    assert [one.findings for one in first] == [one.findings for one in again]


def test_the_oracle_is_given_the_whole_map_and_the_node_says_the_same(
    house: Path, tracer: screening.Tracer
) -> None:
    (path, *_) = sorted((house / "images").rglob("*.png"))
    radiograph = screening.radiograph_of(path)
    (traced,) = tracer([radiograph])
    (plain,) = Screener(WEIGHTS, engine_name="torch")([radiograph])
    assert traced.findings == plain.findings and traced.inside == plain.inside
    whole = boxes_report.candidates_in(traced)
    assert boxes_report.candidates_in(plain) is plain.attention
    for label, shown in plain.attention.items():
        assert np.array_equal(traced.attention[label], shown)
        assert (whole[label].min(), whole[label].max()) == (0.0, 1.0)
        upper = shown > 0  # the map that is shown is the same, cut off below
        order = np.argsort(whole[label][upper])
        assert (np.diff(shown[upper][order]) > -1e-4).all()
    below = [whole[label][plain.attention[label] == 0] for label in whole]
    assert max(np.ptp(cells) for cells in below if cells.size) > 0.1, "which still has its hills"


def test_an_even_map_proposes_nothing() -> None:
    maps = torch.tensor([[[[-3.0, 1.0], [0.0, -1.0]], [[2.0, 2.0], [2.0, 2.0]]]])
    assert screening.spread(maps).tolist() == [[[[0.0, 1.0], [0.75, 0.5]], [[0.0] * 2] * 2]]


def test_boxes_without_any_picture_are_all_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tracer: screening.Tracer
) -> None:
    header = ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", ""]
    gone = [[f"9999999{i}_000.png", "Mass", "1", "2", "3", "4", "", ""] for i in range(3)]
    drawn = listed(tmp_path / "BBox_List_2017.csv", [header, *gone])
    (tmp_path / "empty").mkdir()
    where = ("--images", tmp_path / "empty", "--boxes", drawn, "--weights", WEIGHTS)
    run("boxes", *where, "--json", tmp_path / "boxes.json")
    text = (tmp_path / "boxes.json").read_text()
    report = json.loads(text)
    assert (report["n"], report["n_missing"], report["n_images"]) == (0, 3, 0)
    assert "NaN" not in text and report["iou_oracle"]["mean"] is None
    assert report["hit_rate"]["0.5"] is None and report["radiographs"] == []
    assert "0 boxes on 0 radiographs; 3 boxes without a picture" in capsys.readouterr().out
    saved(tmp_path / "other" / "11111111_000.png", np.zeros((8, 8)))
    assert boxes_report.locate(tmp_path / "other", boxes.read_boxes(drawn), tracer) == []
    with pytest.raises(DataError, match=r"nowhere is not a folder: name the one that holds"):
        boxes_report.locate(tmp_path / "nowhere", boxes.read_boxes(drawn), tracer)


def test_few_boxes_that_were_all_hit_prove_little() -> None:
    drawn = [boxes.DrawnBox(f"{i}_0", "Mass", (0, 0, 1, 1), (0, 0, 1024, 1024)) for i in range(3)]
    told = boxes_report._games(drawn, [1.0] * 3, [0.0] * 3)["Mass"]
    assert (told["hit_rate"], told["patients"], told["fixed_point"]) == (1.0, 3, 0.0)
    assert told["low"] == pytest.approx(0.438, abs=0.001)  # Wilson's bound of three of three
    twice = boxes_report._games([drawn[0]] * 3, [1.0] * 3, [0.0] * 3)["Mass"]
    assert (twice["boxes"], twice["patients"]) == (3, 1) and twice["low"] < 0.21


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("{}", "has no pointing game of known weights; make it anew"),
        (
            '{"weights_sha256": "x", "radiographs": [], "pointing_game": {"Mass": {"low": 1}}}',
            "its pointing game is malformed",
        ),
        (
            '{"weights_sha256": "abc", "radiographs": [], "pointing_game": {}}',
            "was played with other weights",
        ),
    ],
)
def test_a_game_that_is_none_is_refused_in_one_line(
    tmp_path: Path, content: str, words: str
) -> None:
    report = tmp_path / "boxes.json"
    report.write_text(content)
    stated = ("--boxes", report, "--weights", WEIGHTS, "--to", tmp_path / "w")
    with pytest.raises(SystemExit, match=words):
        state(*stated, "--held-out", "some")
    assert not (tmp_path / "w" / "findings.json").exists()


def test_a_report_that_is_not_there_is_named(tmp_path: Path) -> None:
    stated = ("--boxes", tmp_path / "gone.json", "--to", tmp_path / "w", "--held-out", "some")
    with pytest.raises(SystemExit, match=r"gone\.json cannot be read: No such file"):
        state(*stated)


def test_other_masks_leave_every_drawing_as_it_is(tmp_path: Path, tracer: screening.Tracer) -> None:
    generator = np.random.default_rng(0)
    saved(tmp_path / "made" / "images" / "m0.png", generator.integers(0, 255, (64, 48)))
    found = []
    for shift in (0, 6):
        for k, organ in enumerate(ORGANS):
            mask = np.zeros((64, 48))
            mask[10 + shift : 50, 2 + 14 * k : 14 + 14 * k - shift] = 255
            saved(tmp_path / "made" / "masks" / organ / "m0.png", mask)
        found.append(organs.evaluate(tmp_path, tracer))
    (_, (one,)), (_, (other,)) = found
    assert np.array_equal(one.masks, other.masks) and one.ratio == other.ratio
    assert one.dice != other.dice


def test_lungs_and_heart_are_judged_without_an_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    for i in range(2):
        saved(tmp_path / "made" / "images" / f"m{i}.png", generator.integers(0, 255, (64, 48)))
        for k, organ in enumerate(ORGANS):
            mask = np.zeros((64, 48))
            mask[10:50, 2 + 14 * k : 14 + 14 * k] = 255
            saved(tmp_path / "made" / "masks" / organ / f"m{i}.png", mask)
    run("lungs-heart", "--data", tmp_path, "--weights", WEIGHTS, "--json", tmp_path / "l.json")
    report = json.loads((tmp_path / "l.json").read_text())
    assert report["n"] == 2 and set(report["dice"]) == set(ORGANS)
    assert all(0 <= value <= 1 for value in report["dice"].values())
    for organ, (low, high) in report["dice_ci95"].items():
        assert low <= report["dice"][organ] <= high
    assert report["ctr_mae"] is None and set(report["by_source"]) == {"made"}
    assert "trained with the masks of 199 of Wingspan" in report["split"]
    assert "no measure of new ones" in report["split"]
    assert f"2 radiographs; {report['split']}" in capsys.readouterr().out
    assert (tmp_path / "l_worst.png").is_file()
