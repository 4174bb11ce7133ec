"""Contributing Equipment names the networks that the content names, in every kind of object."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import get_args

import pydicom
import pytest

from prescreen import edition, settings
from prescreen.dicom import codes
from prescreen.dicom.identity import identify
from prescreen.study import Audience, Outcome
from tests import results
from tests.unit.test_destinations_get_what_they_ask_for import made_image

KINDS: tuple[str, ...] = get_args(settings.ObjectKind)
#: Name, version, manufacturer, digest of the weights.
Named = tuple[str, str, str, str]


@functools.cache
def _made(is_notice: bool = False) -> dict[str, bytes]:
    """Every kind of object of one image, or of a notice about it."""
    image = made_image()
    if is_notice:
        image = replace(image, screening=None, refused=(Outcome.NOT_SCREENED, "not_reached"))
    shared = edition.Edition(
        results.model(),
        settings.Report(),
        Audience.EVALUATION,
        results.MADE,
        kinds=frozenset(KINDS),
    )
    return {one.described.kind: one.part10 for one in edition.objects([image], shared)}


def _read(part10: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(part10))


def _items(ds: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    for item in ds.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _contributed(ds: pydicom.Dataset) -> set[Named]:
    """What the header says: one item of (109102, DCM) a network."""
    found = [
        (
            str(item.ManufacturerModelName),
            str(item.SoftwareVersions),
            str(item.Manufacturer),
            str(item.ContributionDescription),
        )
        for item in ds.ContributingEquipmentSequence
        if item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    ]
    assert len(found) == len(set(found)) == len(ds.ContributingEquipmentSequence)
    return set(found)


def _identified(ds: pydicom.Dataset) -> set[Named]:
    """What the tree says: algorithm identifications (TID 4019), of a group or of a child of it."""
    found = set()
    for group in _items(ds):
        told: dict[str, str] = {}
        for item in group.get("ContentSequence", []):
            value = str(item.get("TextValue", ""))
            if value and (item.ConceptNameCodeSequence[0].CodeValue in _OF_ALGORITHMS):
                name = item.ConceptNameCodeSequence[0].CodeValue
                told[name] = told.get(name, value)
        if codes.ALGORITHM_NAME.value in told:
            found.add(tuple(told.get(concept, "") for concept in _OF_ALGORITHMS))
    return found  # type: ignore[return-value]


_OF_ALGORITHMS = [
    concept.value
    for concept in (
        codes.ALGORITHM_NAME,
        codes.ALGORITHM_VERSION,
        codes.ALGORITHM_MANUFACTURER,
        codes.ALGORITHM_PARAMETERS,
    )
]


def _without_digests(named: set[Named]) -> set[tuple[str, str, str]]:
    return {one[:3] for one in named}


@pytest.mark.parametrize("is_notice", [False, True], ids=["screened", "notice"])
@pytest.mark.parametrize("kind", ["sr", "regions"])
def test_each_algorithm_of_the_tree_is_an_item_of_the_header(kind: str, is_notice: bool) -> None:
    made = _made(is_notice)
    if kind == "regions" and is_notice:
        assert kind not in made, "where nothing was screened nothing is drawn"
        return
    ds = _read(made[kind])
    tree, header = _identified(ds), _contributed(ds)
    assert tree
    assert _without_digests(tree) <= _without_digests(header)
    digests = {one[3] for one in tree if one[3].startswith("weights")}
    assert digests <= {one[3] for one in header}
    assert digests, "the weights stand in the tree as well"


@pytest.mark.parametrize("kind", ["sr", "regions"])
def test_the_header_has_nothing_that_the_tree_has_not(kind: str) -> None:
    """In the regions the network that flags is the observer, as the one who hands them over."""
    ds = _read(_made()[kind])
    named = {one[:2] for one in _identified(ds)}
    values = {
        item.ConceptNameCodeSequence[0].CodeValue: str(item.get("TextValue") or item.get("UID"))
        for item in ds.ContentSequence
    }
    observer = values[codes.DEVICE_OBSERVER_MODEL_NAME.value]
    flags = results.model().findings
    assert observer == flags.name
    assert values[codes.DEVICE_OBSERVER_UID.value] == flags.device_uid
    assert named | {(flags.name, flags.version)} == {one[:2] for one in _contributed(ds)}


@pytest.mark.parametrize("is_notice", [False, True], ids=["screened", "notice"])
def test_the_sentences_name_the_same_networks(is_notice: bool) -> None:
    ds = _read(_made(is_notice)["text"])
    (said,) = (
        str(item.TextValue)
        for item in ds.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == codes.MADE_BY.value
    )
    for name, version, _, description in _contributed(ds):
        assert f"{name} {version} ({description.removeprefix('weights ')})" in said
    assert said.count("sha256") == len(_contributed(ds))


def test_the_segments_name_the_network_that_drew_them() -> None:
    ds = _read(_made()["segmentation"])
    header = {one[:2] + one[3:] for one in _contributed(ds)}
    for segment in ds.SegmentSequence:
        (told,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (told.AlgorithmName, told.AlgorithmVersion, told.AlgorithmParameters) in header


@pytest.mark.parametrize("kind", KINDS)
def test_each_object_is_known_as_ours_by_its_equipment_alone(kind: str) -> None:
    """An archive may have put its own in place of the manufacturer and the model."""
    ds = _read(_made()[kind])
    ds.Manufacturer, ds.ManufacturerModelName = "PACS vendor", "Archive 9"
    ds.SoftwareVersions, ds.SeriesDescription = "9", "coerced"
    stream = BytesIO()
    ds.save_as(stream)
    assert identify(stream.getvalue()).is_own_result
