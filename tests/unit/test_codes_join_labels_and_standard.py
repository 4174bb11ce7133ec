from __future__ import annotations

import re
from typing import cast

import pytest
from pydicom.sr._concepts_dict import concepts

from prescreen import gate
from prescreen.dicom import codes
from prescreen.dicom.codes import FINDINGS, Concept, Status, coded_findings
from prescreen.errors import SettingsError
from prescreen.study import LABELS

#: pydicom's copy of PS3.16: scheme → keyword → code → (meaning, context groups)
CONCEPTS = cast("dict[str, dict[str, dict[str, tuple[str, list[int]]]]]", concepts)


def _entries(concept: Concept) -> list[tuple[str, list[int]]]:
    """What the standard says under this code; some codes have more than one name."""
    entries = CONCEPTS[concept.scheme].values()
    return [entry[concept.value] for entry in entries if concept.value in entry]


def _context_groups(concept: Concept) -> set[int]:
    return {cid for _, cids in _entries(concept) for cid in cids}


def _all_concepts() -> list[Concept]:
    ours = [value for value in vars(codes).values() if isinstance(value, Concept)]
    looked = [codes.looked_at(label) for label in LABELS]
    assert len({concept.value for concept in looked}) == len(LABELS)
    findings = [row.concept for row in FINDINGS.values()]
    return [*ours, *findings, *codes.MODALITIES.values(), *looked]


def test_every_label_has_one_line_in_order() -> None:
    assert tuple(FINDINGS) == LABELS
    assert all(row.label == label for label, row in FINDINGS.items())
    assert len({row.concept[:2] for row in FINDINGS.values()}) == len(LABELS)


@pytest.mark.parametrize("label", LABELS)
def test_what_is_said_to_be_in_a_context_group_is(label: str) -> None:
    row = FINDINGS[label]
    if row.status is Status.IN_CID:
        match = re.fullmatch(r"CID (\d+)", row.source)
        assert match is not None
        assert int(match[1]) in _context_groups(row.concept)
    assert (row.status is Status.LOCAL) == (row.concept.scheme == codes.LOCAL_SCHEME)


@pytest.mark.parametrize("concept", [c for c in _all_concepts() if c.scheme == "DCM"])
def test_every_dcm_concept_is_in_the_dictionary_under_its_meaning(concept: Concept) -> None:
    assert concept.meaning in [meaning for meaning, _ in _entries(concept)]


@pytest.mark.parametrize(
    ("concept", "cid"),
    [
        (codes.PRESENT, 240),
        (codes.UNDETERMINED, 240),
        (codes.SUCCEEDED, 6042),
        (codes.PARTIALLY_SUCCEEDED, 6042),
        (codes.FAILED, 6042),
        (codes.NOT_ATTEMPTED, 6042),
        (codes.REPLACED_REPORT, 7009),
        (codes.ADDENDED_REPORT, 7009),
        (codes.PROCESSING_EQUIPMENT, 7005),
        (codes.SOURCE_IMAGE, 7202),
        (codes.ARTIFICIAL_INTELLIGENCE, 7162),
        (codes.CLASS_ACTIVATION, 217),
        (codes.LUNG, 7151),
        (codes.HEART, 7151),
        (codes.PLEURA, 7151),
        (codes.CHEST, 7151),
    ],
)
def test_concepts_with_a_set_of_values_are_of_that_set(concept: Concept, cid: int) -> None:
    assert cid in _context_groups(concept)


@pytest.mark.parametrize("concept", _all_concepts(), ids=lambda concept: concept.meaning)
def test_concepts_fit_their_elements(concept: Concept) -> None:
    assert 0 < len(concept.value) <= 16
    assert 0 < len(concept.meaning) <= 64
    assert all(text.isascii() for text in concept)


def test_a_hernia_is_not_in_the_lung() -> None:
    assert FINDINGS["Hernia"].site == codes.CHEST


def test_a_site_may_have_its_own_codes() -> None:
    own = Concept("RID34539", "RADLEX", "pleural effusion")
    found = coded_findings({"Effusion": own})
    assert found["Effusion"].concept == own
    assert found["Mass"] == FINDINGS["Mass"]


@pytest.mark.parametrize(
    "overrides",
    [
        {"Fracture": Concept("1", "99SITE", "Fracture")},
        {"Mass": Concept("12345678901234567", "99SITE", "Mass")},
        {"Mass": Concept("1", "99SITE", "")},
        {"Mass": Concept("1", "99SITE", "Raumforderung müßte")},
    ],
)
def test_an_impossible_own_code_is_named(overrides: dict[str, Concept]) -> None:
    with pytest.raises(SettingsError, match=next(iter(overrides))):
        coded_findings(overrides)


#: Acquisition Modality, DICOM Device, Non-Acquisition Modality, Modality.
MODALITY_GROUPS = {29, 30, 32, 33}
#: Defined terms of Modality (PS3.3 C.7.3.1.1.1) that are in none of these groups …
TERMS_ALONE = set(
    re.findall(r"\w+", "ANN ECG EEG EMG EOG EPS HD POS RESP RTINTENT RTRAD RTSEGANN XAPROTOCOL")
)
#: … and the retired ones.
RETIRED = set(re.findall(r"\w+", "AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF"))


def test_what_names_another_modality_is_what_the_standard_has() -> None:
    entries = [item for named in CONCEPTS["DCM"].values() for item in named.items()]
    grouped = {value for value, (_, cids) in entries if MODALITY_GROUPS & set(cids)}
    assert {"CR", "DX", "CT", "CTPROTOCOL", "ARCHIVE"} <= grouped
    assert grouped | TERMS_ALONE | RETIRED == gate._OTHER_MODALITIES | {"CR", "DX"}
    assert {value for value, _ in entries} >= RETIRED
