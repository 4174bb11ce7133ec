"""docs/conformance.md is what the code says of itself."""

from __future__ import annotations

from pathlib import Path

from prescreen import conformance, gate
from prescreen.dicom.image import TRANSFER_SYNTAXES

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def test_the_page_is_up_to_date() -> None:
    made = "python -m prescreen.conformance > docs/conformance.md"
    assert PAGE.read_text() == conformance.statement(), f"make it anew: {made}"


def test_it_names_every_transfer_syntax_and_every_reason() -> None:
    said = conformance.statement()
    assert all(f"`{uid}`" in said for uid in TRANSFER_SYNTAXES)
    assert all(f"`{reason}`" in said for reason in gate.Reason)


def test_it_says_what_the_node_is_not_for() -> None:
    said = conformance.statement()
    assert "never the only destination of a modality" in said
    assert "never offers storage commitment" in said
    assert "Not a medical device" in said
