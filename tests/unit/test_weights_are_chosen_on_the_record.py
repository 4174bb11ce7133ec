"""`prescreen weights`: what is chosen is verified, copied, audited; else nothing changes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from prescreen import node, shelf
from prescreen.errors import SettingsError, StoreError, WeightsError
from prescreen.nets import weights
from prescreen.settings import Settings, load
from prescreen.store import audit
from prescreen.study import LABELS
from tests.checkpoints import chexnet, saved, torchxrayvision

POINTS = [0.1 + 0.02 * k for k in range(13)] + [float("nan")] * 5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of torch spin while they wait; beside other tests that costs most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return load(data_dir=tmp_path / "data")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The shipped weights with another threshold: other manifests over the same tensors."""
    folder = shutil.copytree(node.shipped_weights(), tmp_path / "other")
    loaded = weights.load(folder)["findings"]
    thresholds = {**loaded.manifest.thresholds, "Mass": 0.9}
    manifest = dataclasses.replace(loaded.manifest, thresholds=thresholds)
    weights.write_manifest(folder, manifest, loaded.tensors)
    return folder


def told(settings: Settings) -> list[tuple[str | None, str, str]]:
    engine = node.open_store(settings).engine
    try:
        events = list(audit.events(engine, kind="weights.chosen"))
        assert audit.verify(engine, []).whole
    finally:
        engine.dispose()
    return [(e.detail["folder"], e.detail["who"], e.detail["why"]) for e in events]


def threshold(settings: Settings) -> float | None:
    return weights.describe(node.weights_dir(settings)).figures_of("Mass").threshold


def test_without_a_choice_the_shipped_weights_are_in_use(settings: Settings) -> None:
    assert node.weights_dir(settings) == node.shipped_weights()
    (only,) = shelf.holdings(settings)
    assert (only.name, only.in_use, only.evaluated, only.chosen) == ("shipped", True, 14, None)
    assert not (settings.data_dir / "prescreen.db").exists()


def test_use_keeps_a_copy_and_says_who_and_why(settings: Settings, other: Path) -> None:
    name = shelf.use(settings, str(other), "Dr. A", "compared")
    assert told(settings) == [(name, "Dr. A", "compared")]
    shutil.rmtree(other)  # the node does not need it any more
    assert node.weights_dir(settings) == settings.data_dir / "weights" / name
    assert threshold(settings) == 0.9
    first, second = shelf.holdings(settings)
    assert (first.name, first.in_use) == (name, True) and "by Dr. A: compared" in str(first.chosen)
    assert (second.name, second.in_use) == ("shipped", False)


def test_back_again_is_one_word(settings: Settings, other: Path) -> None:
    with pytest.raises(WeightsError, match="there are no previous ones"):
        shelf.use(settings, "previous", "a", "b")
    name = shelf.use(settings, str(other), "a", "b")
    assert shelf.use(settings, "previous", "a", "worse") == "shipped"
    assert node.weights_dir(settings) == node.shipped_weights()
    assert shelf.use(settings, name, "a", "by name") == name
    assert [folder for folder, _, _ in told(settings)] == [name, None, name]


def test_weights_that_are_not_sound_change_nothing(settings: Settings, other: Path) -> None:
    loaded = weights.load(other)["findings"]
    tensors = {**loaded.tensors, "head.bias": np.full(14, 6e4), "head.weight": np.ones((14, 3))}
    weights.write_manifest(other, loaded.manifest, tensors)
    with pytest.raises(WeightsError, match=r"head\.weight has shape \(14, 3\)"):
        shelf.use(settings, str(other), "a", "b")
    with pytest.raises(WeightsError, match="nowhere: is no folder"):
        shelf.use(settings, "nowhere", "a", "b")
    (other / "lungs_heart.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"lungs_heart\.safetensors is missing"):
        shelf.use(settings, str(other), "a", "b")
    assert told(settings) == [] and node.weights_dir(settings) == node.shipped_weights()


def test_settings_that_name_a_folder_go_before_any_choice(settings: Settings, other: Path) -> None:
    shelf.use(settings, str(other), "a", "b")
    fixed = load(data_dir=settings.data_dir, weights_dir=node.shipped_weights())
    assert node.weights_dir(fixed) == node.shipped_weights()
    with pytest.raises(SettingsError, match=r"weights_dir = .* take it out of the settings"):
        shelf.use(fixed, str(other), "a", "b")


def test_a_chosen_folder_that_was_changed_since_is_not_used(
    settings: Settings, other: Path
) -> None:
    name = shelf.use(settings, str(other), "Dr. A", "b")
    kept = settings.data_dir / "weights" / name / "findings.json"
    raw = json.loads(kept.read_bytes())
    raw["thresholds"]["Mass"] = 0.01
    kept.write_text(json.dumps(raw))
    with pytest.raises(WeightsError, match=r"findings\.json is not what Dr\. A chose on .*again"):
        node.weights_dir(settings)
    assert shelf.use(settings, str(other), "a", "mended") == name  # a good copy takes its place
    assert threshold(settings) == 0.9


def test_a_copy_that_cannot_be_written_changes_nothing(settings: Settings, other: Path) -> None:
    node.open_store(settings).engine.dispose()
    (settings.data_dir / "weights").write_text("in the way")
    with pytest.raises(StoreError, match="the weights in use are unchanged"):
        shelf.use(settings, str(other), "a", "b")
    assert told(settings) == []


def brought(tmp_path: Path, checkpoint: Path) -> shelf.Brought:
    return shelf.Brought(checkpoint, tmp_path / "made", "txrv-all", "Apache-2.0")


def test_imported_weights_are_whole_and_say_where_they_come_from(
    settings: Settings, tmp_path: Path
) -> None:
    bring = brought(tmp_path, saved(torchxrayvision(POINTS), tmp_path / "xrv.pt"))
    manifest = shelf.bring(settings, bring)
    assert manifest.not_evaluated == {"Hernia": "not_in_weights"}
    assert manifest.release["Mass"].reached is False and "Hernia" not in manifest.release
    assert manifest.sources[0].licence == "Apache-2.0"
    assert manifest.config["left_out"][0] == "Lung Lesion"
    assert sorted(p.name for p in bring.out.iterdir()) == sorted(shelf.FILES)
    assert "Hernia (not_in_weights)" in (bring.out / "findings.md").read_text()
    assert "13 of 14 findings evaluated, 0 reach" in shelf.in_words(manifest)
    name = shelf.use(settings, str(bring.out), "a", "b")
    assert shelf.holdings(settings)[0].name == name
    with pytest.raises(WeightsError, match="made: is there already"):
        shelf.bring(settings, bring)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Dr. A's weights"}, "--name .* letters, digits"),
        ({"input_size": 225}, "--input-size 225: a multiple of 32"),
        ({"thresholds": Path("gone.json")}, r"--thresholds gone\.json: No such file"),
        ({"checkpoint": Path("gone.pt")}, r"gone\.pt: No such file"),
    ],
)
def test_an_import_that_cannot_be_leaves_nothing_behind(
    settings: Settings, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    bring = brought(tmp_path, saved(chexnet(), tmp_path / "chexnet.pt"))
    with pytest.raises(WeightsError, match=words):
        shelf.bring(settings, dataclasses.replace(bring, **change))  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chexnet.pt", "data"]


def test_thresholds_are_a_mapping_of_numbers(settings: Settings, tmp_path: Path) -> None:
    bring = brought(tmp_path, saved(chexnet(), tmp_path / "chexnet.pt"))
    told_in = tmp_path / "thresholds.json"
    bring = dataclasses.replace(bring, thresholds=told_in)
    for content in ("[1]", "{", '{"Mass": "much"}'):
        told_in.write_text(content)
        with pytest.raises(WeightsError, match="is not JSON of the form"):
            shelf.bring(settings, bring)
    told_in.write_text(json.dumps(dict.fromkeys(LABELS, 0.25)))
    manifest = shelf.bring(settings, bring)
    assert manifest.evaluated == LABELS and manifest.threshold_rule == "given by the site"
