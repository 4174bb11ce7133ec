"""Which kinds of objects are made and posted: presets, lists, and no more than anyone wants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prescreen import edition, reporting, settings
from prescreen.dicom.header import header_of
from prescreen.errors import SettingsError
from prescreen.lightbox import Image
from prescreen.settings import Report, Settings
from prescreen.study import Audience, Instance, Job, Radiograph, Screening, Stage
from tests import results

PLACE: dict[str, Any] = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}


def made_image() -> Image:
    source = results.chest()
    header = header_of(source)
    shape = (source.Rows, source.Columns)
    pixels = results.ramp(shape)
    screening = Screening(results.anatomy(), results.BUSY, 0.1, results.model())
    instance = Instance(
        1,
        header.study_instance_uid,
        header.series_instance_uid,
        header.sop_instance_uid,
        header.sop_class_uid,
        "",
        "",
        0,
        Path("x"),
        "A",
        results.MADE,
    )
    radiograph = Radiograph(header, pixels, shape, None, "0" * 64)
    return Image(instance, source, header, radiograph, screening)


def _edition(**more: Any) -> edition.Edition:
    shared = edition.Edition(results.model(), Report(), Audience.EVALUATION, results.MADE)
    return replace(shared, **more)


def _kinds_made(preset: tuple[str, ...]) -> list[str]:
    made = edition.objects([made_image()], _edition(kinds=frozenset(preset)))
    return [item.described.kind for item in made]


@pytest.mark.parametrize("preset", settings.PRESETS)
def test_a_preset_names_what_is_made(preset: str) -> None:
    assert sorted(_kinds_made(settings.PRESETS[preset])) == sorted(settings.PRESETS[preset])


def test_each_object_stands_in_a_series_of_its_own() -> None:
    every = tuple(kind for preset in settings.PRESETS.values() for kind in preset)
    made = list(edition.objects([made_image()], _edition(kinds=frozenset(every))))
    series = [item.described.series_instance_uid for item in made]
    files = [item.described.file_name for item in made]
    assert len(set(series)) == len(set(files)) == len(made)


def test_a_picture_without_anatomy_has_no_regions() -> None:
    image = replace(made_image(), screening=None)
    made = edition.objects([image], _edition(kinds=frozenset(settings.MODERN)))
    assert [item.described.kind for item in made] == ["sr", "capture"]


def test_a_document_replaces_the_one_of_its_own_kind() -> None:
    first = list(edition.objects([made_image()], _edition()))
    by_kind = {item.described.kind: item.described for item in first}
    replaced = edition.Replaced(by_kind, results.MADE)
    for item in edition.objects([made_image()], _edition(replaced=replaced)):
        before = by_kind[item.described.kind].sop_instance_uid
        assert (before.encode() in item.part10) == (item.described.kind != "capture")


def _settings(*objects: Any) -> Settings:
    places = [{"name": f"d{n}", "objects": kinds, **PLACE} for n, kinds in enumerate(objects)]
    return settings.load(destinations=places)


def test_a_preset_is_written_by_its_name() -> None:
    loaded = _settings("classic", ["capture"], "modern")
    assert [d.objects for d in loaded.destinations] == [
        ("text", "capture"),
        ("capture",),
        ("sr", "regions", "capture"),
    ]
    assert settings.load(destinations=[{"name": "d", **PLACE}]).destinations[0].objects == (
        settings.MODERN
    )


@pytest.mark.parametrize("objects", ["everything", [], ["pdf"]])
def test_an_unknown_preset_or_kind_is_named(objects: Any) -> None:
    with pytest.raises(SettingsError, match="objects"):
        _settings(objects)
    if objects == "everything":
        with pytest.raises(SettingsError, match="modern, classic, images-only"):
            _settings(objects)


def test_no_more_is_made_than_the_destinations_of_an_audience_want() -> None:
    job = Job(1, "1.2", Stage.SCREEN, (), 1, "", live_destinations=frozenset({"d0"}))
    loaded = _settings("images-only", "classic")
    assert reporting.kinds(job, Audience.RELEASE, loaded) == {"capture"}
    assert reporting.kinds(job, Audience.EVALUATION, loaded) == {"text", "capture"}
    assert reporting.kinds(job, Audience.EVALUATION, settings.load()) == set(settings.MODERN)
