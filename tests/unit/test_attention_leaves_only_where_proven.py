"""Where the network looked leaves the node for what is flagged and proven, and as nothing else."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest

from prescreen import checks, edition, node
from prescreen.dicom import codes, egress, ink
from prescreen.dicom.attention import looked_at, spread
from prescreen.edition import Edition, Written
from prescreen.errors import SettingsError
from prescreen.lightbox import Image
from prescreen.nets import weights
from prescreen.nets.attention import on_stored_pixels
from prescreen.nets.weights import PointingGame
from prescreen.settings import Report, load
from prescreen.study import (
    LABELS,
    Audience,
    FindingState,
    FloatArray,
    Instance,
    Model,
    Pointing,
    Screening,
)
from tests import results
from train.calibrate import write

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
PROVEN = Pointing(0.62, 0.53, 0.25, 0.24, 90, 80, held_out=True)
UNPROVEN = replace(PROVEN, low=0.2)
ON = Report(attention="where_proven")


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose manifest proves two findings, and states of a third that it is none."""
    return _stated({"Pneumothorax": PROVEN, "Effusion": PROVEN, "Mass": UNPROVEN}, tmp_path_factory)


def _stated(game: Mapping[str, Pointing], folders: pytest.TempPathFactory) -> Path:
    folder = folders.mktemp("weights")
    old = weights.load(WEIGHTS)["findings"].manifest
    stated = PointingGame(old.sha256, "made-up boxes", game)
    write(WEIGHTS, folder, replace(old, pointing=stated))
    return folder


@pytest.fixture(scope="module")
def model(proven: Path) -> Model:
    return weights.describe(proven)


def _image(model: Model, flagged: Iterable[str], **more: Any) -> Image:
    """A screened image of the real chest's header, these findings flagged, a map for each label."""
    maps = {label: _map(place) for place, label in enumerate(LABELS)}
    said = results.findings(dict.fromkeys(flagged, 0.6))
    network: dict[str, Any] = {"findings": said, "feature_distance": 1.0, "attention": maps}
    radiograph = results.radiograph((391, 368))
    header = radiograph.header
    uids = (header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid)
    instance = Instance(1, *uids, header.sop_class_uid, "", "", 0, Path(), "", results.MADE)
    screening = Screening(results.anatomy(), model=model, **(network | more))
    return Image(instance, results.chest(), header, radiograph, screening)


def _map(place: int) -> FloatArray:
    cells = np.zeros((10, 10), np.float32)
    cells[1 + place // 5, 2 + place % 5] = 1.0
    return cells


def _objects(image: Image, settings: Report = ON, **more: Any) -> list[Written]:
    assert image.screening is not None
    fixed: dict[str, Any] = {"audience": Audience.EVALUATION, "made": results.MADE}
    shared = Edition(image.screening.model, settings, **(fixed | more))
    return list(edition.objects([image], shared))


def _of(kind: str, objects: Iterable[Written]) -> list[Written]:
    return [item for item in objects if item.described.kind == kind]


def _groups(objects: Iterable[Written]) -> list[pydicom.Dataset]:
    """The groups of the regions that are about where the network looked."""
    (item,) = _of("regions", objects)
    tree = pydicom.dcmread(io.BytesIO(item.part10))
    return [group for group in tree.ContentSequence[-1].ContentSequence if _explains(group)]


def _concepts(group: pydicom.Dataset) -> set[str]:
    return {str(e.value) for e in group.iterall() if e.keyword == "CodeValue"}


def _explains(group: pydicom.Dataset) -> bool:
    return codes.VISUAL_EXPLANATION.value in _concepts(group)


def _texts(group: pydicom.Dataset) -> str:
    return " ".join(str(item.get("TextValue", "")) for item in group.ContentSequence)


def _shown(objects: Iterable[Written]) -> list[str]:
    """The findings of the groups, in order."""
    told = [_texts(group) for group in _groups(objects)]
    return [label for text in told for label in LABELS if f"looked: {label} " in text]


def _written(image: Image, patch: pytest.MonkeyPatch, settings: Report = ON) -> list[str]:
    """What stands on the pages."""
    found: list[str] = []

    def write(_page: ink.Page, x: int, _y: int, text: str, *_: object, **__: object) -> int:
        found.append(text)
        return x

    with patch.context() as now:
        now.setattr(ink, "write", write)
        _objects(image, settings)
    return found


def test_exactly_what_is_flagged_and_proven_is_shown(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = _image(model, ["Effusion", "Mass", "Pneumothorax", "Hernia"])
    objects = _objects(image)
    assert _shown(objects) == ["Pneumothorax", "Effusion"], "the most urgent first"
    assert len(_of("capture", objects)) == 2
    texts = _written(image, monkeypatch)
    page = texts[texts.index("Where the network looked") :]
    names = [text.removesuffix(" *") for text in page]
    assert {"Pneumothorax", "Pleural effusion", "The radiograph, unmarked"} <= set(names)
    assert not {"Mass", "Hiatal hernia"} & set(names)
    assert "Not shown, because not proven: Mass, Hiatal hernia." in names
    assert _shown(_objects(_image(model, ["Pneumothorax", "Mass"]))) == ["Pneumothorax"]


@pytest.mark.parametrize(
    ("flagged", "settings", "more"),
    [
        (["Mass", "Hernia"], ON, {}),  # none of them is proven
        ([], ON, {}),  # proven, and not flagged
        (["Pneumothorax"], Report(), {}),  # nobody asked for it
        (["Pneumothorax"], ON, {"audience": Audience.RELEASE}),  # below the bar: not evaluated
        (["Pneumothorax"], ON, {"held": frozenset({"Pneumothorax"})}),
    ],
)
def test_nothing_else_brings_attention_along(
    model: Model, flagged: list[str], settings: Report, more: dict[str, Any]
) -> None:
    objects = _objects(_image(model, flagged), settings, **more)
    assert _groups(objects) == [] and len(_of("capture", objects)) == 1


def test_off_every_object_is_as_if_there_were_no_maps(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def objects(image: Image, settings: Report) -> list[bytes]:
        numbers = itertools.count(1)
        monkeypatch.setattr(edition, "generate_uid", lambda: f"2.25.{next(numbers)}")
        return [item.part10 for item in _objects(image, settings)]

    flagged = ["Pneumothorax", "Effusion"]
    bare = _image(model, flagged, attention={})
    assert objects(_image(model, flagged), Report()) == objects(bare, Report())
    assert objects(bare, ON) == objects(bare, Report())


def test_weights_that_state_nothing_show_nothing() -> None:
    shipped = weights.describe(WEIGHTS)
    objects = _objects(_image(shipped, LABELS))
    assert _groups(objects) == [] and len(_of("capture", objects)) == 1


@pytest.mark.parametrize(
    ("change", "is_proven"),
    [
        ({}, True),
        ({"low": 0.25}, False),  # not above its own fixed point
        ({"fixed_point": 0.0, "fixed_point_of_all": 0.54}, False),  # nor above that of all
        ({"held_out": False}, False),
        ({"patients": 29}, False),
    ],
)
def test_a_hit_rate_is_proven_by_unseen_patients_alone(
    change: dict[str, Any], is_proven: bool
) -> None:
    assert replace(PROVEN, **change).is_proven is is_proven


def test_undetermined_is_shown_like_flagged(model: Model) -> None:
    said = results.findings({}, {"Effusion": FindingState.UNDETERMINED})
    assert _shown(_objects(_image(model, [], findings=said))) == ["Effusion"]


def test_an_empty_map_shows_nothing(model: Model) -> None:
    maps = {"Pneumothorax": np.zeros((10, 10), np.float32)}
    objects = _objects(_image(model, ["Pneumothorax"], attention=maps))
    assert _groups(objects) == [] and len(_of("capture", objects)) == 1


def test_a_region_is_never_coded_as_a_finding_or_its_site(model: Model) -> None:
    objects = _objects(_image(model, ["Pneumothorax", "Effusion"]))
    groups = _groups(objects)
    diseases = {row.concept.value for row in codes.FINDINGS.values()}
    places = {codes.FINDING.value, codes.FINDING_SITE.value, codes.LOOKED_FOR.value}
    assert len(groups) == 2
    for group in groups:
        assert not _concepts(group) & (diseases | places)
        assert {codes.CLASS_ACTIVATION.value, codes.IMAGE_REGION.value} <= _concepts(group)
        assert "Where the network looked: " in _texts(group)
        assert "Not the outline of a disease." in _texts(group)
        assert "below release bar - evaluation only" in _texts(group)
        (line,) = [item for item in group.ContentSequence if item.ValueType == "NUM"]
        named = line.ConceptNameCodeSequence[0]
        assert named.CodingSchemeDesignator == codes.LOCAL_SCHEME
        assert named.CodeMeaning.startswith("Where the network looked: ")
    tracked = {str(e.value) for group in groups for e in group.iterall() if e.keyword == "UID"}
    assert len(tracked) == 2
    again = _groups(_objects(_image(model, ["Pneumothorax", "Effusion"])))
    assert tracked == {str(e.value) for g in again for e in g.iterall() if e.keyword == "UID"}


def test_the_algorithm_of_a_region_is_the_contributing_equipment(model: Model) -> None:
    objects = _objects(_image(model, ["Pneumothorax"]))
    (item,) = _of("regions", objects)
    tree = pydicom.dcmread(io.BytesIO(item.part10))
    (group,) = _groups(objects)
    told = {
        item.ConceptNameCodeSequence[0].CodeValue: item.get("TextValue")
        for item in group.ContentSequence
    }
    equipment = tree.ContributingEquipmentSequence[0]
    assert told[codes.ALGORITHM_NAME.value] == equipment.ManufacturerModelName
    assert told[codes.ALGORITHM_VERSION.value] == equipment.SoftwareVersions
    assert told[codes.ALGORITHM_MANUFACTURER.value] == equipment.Manufacturer
    assert model.findings.sha256 in _texts(group)
    assert "where the network looked" in tree.SeriesDescription


def test_highdicom_reads_the_regions_and_finds_no_finding(model: Model) -> None:
    (item,) = _of("regions", _objects(_image(model, ["Pneumothorax", "Effusion"])))
    content = highdicom.sr.srread(io.BytesIO(item.part10)).content
    assert isinstance(content, highdicom.sr.MeasurementReport)
    groups = content.get_planar_roi_measurement_groups()
    of_findings = [g for g in groups if "Where the network" in str(g.tracking_identifier)]
    assert len(of_findings) == 2
    assert all(group.finding_type is None and not group.finding_sites for group in of_findings)


def test_what_leaves_passes_the_last_look(model: Model) -> None:
    image = _image(model, ["Pneumothorax", "Effusion"])
    for item in _objects(image):
        egress.check(item.part10, item.described, image.source)


def test_the_share_within_the_lungs_stays_in_the_node(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def objects(inside: float) -> list[bytes]:
        numbers = itertools.count(1)
        monkeypatch.setattr(edition, "generate_uid", lambda: f"2.25.{next(numbers)}")
        image = _image(model, ["Effusion"], inside=dict.fromkeys(LABELS, inside))
        return [item.part10 for item in _objects(image)]

    assert objects(0.1) == objects(0.9)


# --- where it lies -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(391, 368), (200, 900)])
def test_maps_are_brought_back_as_the_networks_bring_them(shape: tuple[int, int]) -> None:
    grid = np.random.default_rng(3).random((7, 7), dtype=np.float32)
    assert np.allclose(spread(grid, *shape), on_stored_pixels(grid, shape), atol=1e-5)


@pytest.mark.parametrize("cell", [(0, 0), (2, 5), (9, 9)])
def test_a_region_lies_around_the_hottest_cell_and_not_around_another(
    cell: tuple[int, int],
) -> None:
    grid = np.zeros((10, 10), np.float32)
    grid[4:7, :3] = 0.9  # larger, and not as hot
    grid[cell] = 1.0
    points = looked_at(grid, 1000, 400)
    assert points is not None
    columns, rows = points[:, 0], points[:, 1]
    assert rows.min() <= (cell[0] + 0.5) * 100 <= rows.max()
    assert columns.min() <= (cell[1] + 0.5) * 40 <= columns.max()
    assert np.ptp(rows) <= 150 and np.ptp(columns) <= 60
    assert rows.min() >= 0 and rows.max() <= 1000 and columns.max() <= 400


def test_an_empty_map_has_no_region() -> None:
    assert looked_at(np.zeros((10, 10), np.float32), 100, 100) is None


def test_the_copy_beside_the_pictures_is_unmarked(model: Model) -> None:
    image = _image(model, ["Pneumothorax"])
    page = _of("capture", _objects(image))[1].page
    assert image.radiograph is not None
    left, right = page[:, : page.shape[1] // 2], page[:, page.shape[1] // 2 :]
    copy, drawn = _picture(left), _picture(right)
    assert (np.ptp(copy.astype(int), axis=2) == 0).all(), "no colour on the copy"
    grey = ink.fitted(image.radiograph.pixels, *copy.shape[:2])
    assert np.abs(copy[: grey.shape[0], : grey.shape[1], 0].astype(int) - grey).max() <= 2
    warm = drawn.astype(int)[..., 0] - drawn[..., 2] > 60
    row, column = (float(np.mean(places)) for places in np.nonzero(warm))
    place = LABELS.index("Pneumothorax")
    assert row / drawn.shape[0] == pytest.approx((1.5 + place // 5) / 10, abs=0.02)
    assert column / drawn.shape[1] == pytest.approx((2.5 + place % 5) / 10, abs=0.02)


def _picture(half: ink.Page) -> ink.Page:
    """The picture on one half of a page of two: the columns and rows of a ramp that ends white."""
    bright = (half[300:600] > 250).all(axis=2).all(axis=0)
    last = int(np.flatnonzero(bright)[-1])
    column = (half[:, last] > 250).all(axis=1)
    rows = np.flatnonzero(column)
    width = round((rows[-1] + 1 - rows[0]) * 368 / 391)
    return half[rows[0] : rows[-1] + 1, last + 1 - width : last + 1]


def test_more_than_three_findings_take_more_pages(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = _stated(dict.fromkeys(LABELS[:7], PROVEN), tmp_path_factory)
    objects = _objects(_image(weights.describe(folder), LABELS))
    pages = _of("capture", objects)
    assert len(pages) == 1 + 3 and len(_groups(objects)) == 7
    read = [pydicom.dcmread(io.BytesIO(page.part10)) for page in pages]
    assert [ds.InstanceNumber for ds in read] == [1, 1, 2, 3]
    series = [ds.SeriesInstanceUID for ds in read]
    assert series[1:] == [series[1]] * 3 != series[:1] * 3, "what was found has its own thumbnail"
    assert {ds.SeriesNumber for ds in read[1:]} == {ON.series_number + 6}
    assert "where the network looked" in read[1].SeriesDescription
    assert len({page.described.file_name for page in pages}) == 4


# --- what a person is told -----------------------------------------------------------------------


def test_check_says_of_what_attention_is_shown_or_why_of_nothing(
    proven: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def said(folder: Path, attention: str = "where_proven") -> str:
        report = {"attention": attention}
        return checks._attention(load(data_dir=tmp_path, weights_dir=folder, report=report))

    assert said(WEIGHTS, "off") == "off: where the network looked is not shown"
    assert said(proven) == "where the network looked is shown for Effusion, Pneumothorax"
    with pytest.raises(SettingsError, match=r"states no pointing game; python -m train\.pointing"):
        said(WEIGHTS)
    none = _stated({"Mass": UNPROVEN}, tmp_path_factory)
    with pytest.raises(SettingsError, match="of the 1 findings with a pointing game none has"):
        said(none)


def test_a_node_whose_weights_prove_nothing_says_so_and_goes_on(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = weights.describe(WEIGHTS)
    assert node._attention_shown(shipped, Report()) == {} and not caplog.records
    assert node._attention_shown(shipped, ON) == {"attention": []}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "where the network looked is shown for no finding" in record.getMessage()
    assert node._attention_shown(model, ON) == {"attention": ["Effusion", "Pneumothorax"]}
