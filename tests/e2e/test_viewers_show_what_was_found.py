"""One run of real viewers over one real radiograph; docs/viewers.md says what it must show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prescreen.dicom import wording
from tests.e2e import viewers
from tests.e2e.viewers import Observed

pytestmark = pytest.mark.shows_patients("a browser keeps the studies that it shows")
PICTURES = Path(__file__).parents[2] / "build" / "viewers"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    observed = viewers.observe(tmp_path_factory.mktemp("viewers"))
    viewers.keep(observed.pages, PICTURES)
    yield observed


def test_the_table_in_the_docs_is_what_is_seen(found: Observed) -> None:
    assert viewers.table(found) in (viewers.DOCS / "viewers.md").read_text()


def test_ohif_draws_the_regions_where_they_are(found: Observed) -> None:
    picture = found.pages["regions"]
    assert viewers.coloured(picture, found, (0, 0)) > 0.7
    for moved in ((60, 0), (-60, 0)):  # or colour anywhere would do
        assert viewers.coloured(picture, found, moved) < 0.5
    assert viewers.coloured(found.pages["radiograph"], found, (0, 0)) < 0.05


def test_ohif_shows_what_was_found_and_what_it_is_not(found: Observed) -> None:
    says = wording.words("en").catalogue.says
    for words in (says.no_exclusion, says.never_looked_for, "not a report"):
        assert words in found.words["sr"]


def test_under_the_standards_title_ohif_would_show_no_words(found: Observed) -> None:
    """The reason for a title of ours; when this fails the reason is gone."""
    assert "Pneumothorax" not in found.under_the_standards_title
