"""Only a tag that positively names something else refuses; what is missing or odd never does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from pydicom import Dataset
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts

from prescreen import gate
from prescreen.dicom.image import header_of
from prescreen.gate import Reason
from prescreen.study import Header
from tests.chests import HEADER
from tests.pictures import again, data_set, ramp

BARE = Header("", "2.25.1", "2.25.2", "2.25.3")

LET_THROUGH: list[dict[str, Any]] = [
    {"modality": None},
    {"modality": "DR", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1"},
    {"modality": "XX", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1"},
    {"modality": "CR", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7"},
    {"sop_class_uid": "1.2.3.4.5"},
    {"body_part_examined": "THORAX"},
    {"body_part_examined": "LUNG"},
    {"body_part_examined": "CHEST ABDOMEN"},
    {"body_part_examined": "CHESTABDOMEN"},
    {"body_part_examined": "PORT CHEST"},
    {"body_part_examined": "BRUSTKORB"},
    {"body_part_examined": "UNKNOWN"},
    {"body_part_examined": "WHOLEBODY"},
    {"body_part_examined": "?"},
    {"anatomic_region": ("51185008", "SCT", "Thorax")},
    {"anatomic_region": ("", "", "")},
    {"view_position": "AP"},
    {"view_position": "SUPINE"},
    {"view_position": "LLD"},
    {"view_position": "XX"},
    {"view_code": ("399033003", "SCT", "frontal")},
    {"view_position": None, "view_code": ("R-10206", "SRT", "antero-posterior")},
    {"view_code": ("1", "99LOCAL", "left lateral decubitus")},
    {"patient_orientation": ("L", "F")},
    {"patient_orientation": ("P",)},
    {"image_type": ("DERIVED", "SECONDARY")},
    {"image_type": ("DERIVED", "PRIMARY", "RT")},
    {"image_type": ("LOCALIZER",)},
    {"presentation_intent_type": "FOR PRESENTATION"},
    {"quality_control_image": "NO"},
    {"patient_species_description": "Homo sapiens"},
    {"patient_species_description": "HUMAN"},
    {"patient_species_description": "-"},
    {"patient_species_description": "Not applicable"},
    {"patient_species_description": "NOT SPECIFIED"},
    {"patient_species_description": "Person"},
    {"patient_species_code": ("337915000", "SCT", "homo sapiens")},
    {"patient_species_code": ("L-85B00", "SRT", "homo sapiens")},
    {"patient_species_code": ("", "SCT", "")},
    {"series_description": "CHEST PA soft"},
    {"photometric_interpretation": "MONOCHROME1"},
    {"series_description": "Chest PA, no bone suppression"},
    {"series_description": "PA WITHOUT_EDGE_ENHANCEMENT"},
    {"image_type": ("ORIGINAL", "PRIMARY", "", "NON_BONE_SUPPRESSED")},
]

REFUSED_BY_CODE = [
    ("24136001", "SCT", "Hüftgelenk"),
    ("24136001", "SCT", ""),
    ("T-15710", "SRT", "articulation coxo-fémorale"),
]

REFUSED: list[tuple[Reason, dict[str, Any]]] = [
    (Reason.MODALITY, {"modality": "OT"}),
    (Reason.MODALITY, {"modality": "SC", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7"}),
    (Reason.MODALITY, {"modality": "DR", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7"}),
    (Reason.MODALITY, {"modality": "MG"}),
    (Reason.SOP_CLASS, {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.2"}),
    (Reason.BODY_PART, {"body_part_examined": "RIGHT HIP"}),
    (Reason.BODY_PART, {"body_part_examined": "ANKLE"}),
    (Reason.BODY_PART, {"body_part_examined": "BREAST"}),
    (Reason.BODY_PART, {"body_part_examined": "EXTREMITIES"}),
    (Reason.BODY_PART, {"body_part_examined": "LOWEREXTREMITY"}),
    (Reason.BODY_PART, {"body_part_examined": "L-SPINE"}),
    (Reason.BODY_PART, {"body_part_examined": "THORACIC SPINE"}),
    (Reason.BODY_PART, {"body_part_examined": "TSPINE"}),
    (Reason.BODY_PART, {"body_part_examined": "RIBS"}),
    (Reason.BODY_PART, {"anatomic_region": ("24136001", "SCT", "Hip joint")}),
    (Reason.QUALITY_CONTROL, {"body_part_examined": "PHANTOM"}),
    (Reason.QUALITY_CONTROL, {"anatomic_region": ("706342009", "SCT", "Phantom")}),
    (Reason.VIEW, {"view_position": "RL"}),
    (Reason.VIEW, {"view_position": "LATERAL"}),
    (Reason.VIEW, {"view_position": "RLO"}),
    (Reason.VIEW, {"view_position": "MLO"}),
    (Reason.VIEW, {"view_position": None, "view_code": ("399067008", "SCT", "")}),
    (Reason.VIEW, {"view_position": None, "view_code": ("R-10236", "SRT", "left lateral")}),
    (Reason.VIEW, {"patient_orientation": ("A", "F")}),
    (Reason.VIEW, {"patient_orientation": ("PL", "FA")}),
    (Reason.DERIVED_VIEW, {"image_type": ("DERIVED", "SECONDARY", "CSA MPR")}),
    (Reason.DERIVED_VIEW, {"image_type": ("DERIVED", "SECONDARY", "SCREEN SAVE")}),
    (Reason.COMPANION, {"image_type": ("DERIVED", "PRIMARY", "", "BONE_SUPPRESSION")}),
    (Reason.COMPANION, {"series_description": "Chest PA Edge Enhanced"}),
    (Reason.COMPANION, {"series_description": "ClearRead Bone Suppression"}),
    (Reason.COMPANION, {"series_description": "CASINO BONE SUPPRESSED"}),
    (Reason.FOR_PROCESSING, {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1.1"}),
    (Reason.SPECIES, {"patient_species_code": ("448771007", "SCT", "")}),
    (Reason.SPECIES, {"patient_species_code": ("180276", "ITIS_TSN", "Peromyscus maniculatus")}),
]

#: Of the standard's context groups, what may show a chest.
CHESTS = {
    "Apex of Lung",
    "Bronchus",
    "Chest",
    "Chest and Abdomen",
    "Chest, Abdomen and Pelvis",
    "Entire body",
    "Heart",
    "Mediastinum",
    "Neck and Chest",
    "Neck, Chest and Abdomen",
    "Neck, Chest, Abdomen and Pelvis",
    "Trachea",
}
FRONTAL = {"antero-posterior", "postero-anterior", "frontal"}


@pytest.mark.parametrize("values", LET_THROUGH, ids=str)
def test_other_spellings_and_odd_values_are_let_through(values: dict[str, Any]) -> None:
    assert gate.by_tags(replace(HEADER, **values)) is None


@pytest.mark.parametrize(("reason", "values"), REFUSED, ids=str)
def test_a_tag_that_names_something_else_refuses(reason: Reason, values: dict[str, Any]) -> None:
    assert gate.by_tags(replace(HEADER, **values)) is reason


def test_a_header_without_any_tag_is_let_through() -> None:
    assert gate.by_tags(BARE) is None


@pytest.mark.parametrize("name", [f for f in Header.__dataclass_fields__ if "uid" not in f])
def test_a_missing_tag_never_refuses(name: str) -> None:
    assert gate.by_tags(replace(HEADER, **{name: getattr(BARE, name)})) is None


def members(cid: int) -> list[tuple[str, str, str]]:
    return [
        (value, scheme, meaning)
        for scheme, names in cast(Any, cid_concepts)[cid].items()
        for name in names
        for value, (meaning, groups) in cast(Any, concepts)[scheme][name].items()
        if cid in groups
    ]


@pytest.mark.parametrize("region", members(4009), ids=lambda region: region[2])
def test_anatomic_regions_of_cid_4009(region: tuple[str, str, str]) -> None:
    answer = gate.by_tags(replace(HEADER, body_part_examined=None, anatomic_region=region))
    if region[2] == "Phantom":
        assert answer is Reason.QUALITY_CONTROL
    else:
        assert answer is (None if region[2] in CHESTS else Reason.BODY_PART)


@pytest.mark.parametrize("view", members(4010), ids=lambda view: view[2])
def test_views_of_cid_4010(view: tuple[str, str, str]) -> None:
    answer = gate.by_tags(replace(HEADER, view_position=None, view_code=view))
    if "lateral" in view[2] or "oblique" in view[2]:
        assert answer is Reason.VIEW
    if view[2] in FRONTAL:
        assert answer is None


@pytest.mark.parametrize("species", members(7454), ids=lambda species: species[2])
def test_species_of_cid_7454(species: tuple[str, str, str]) -> None:
    answer = gate.by_tags(replace(HEADER, patient_species_code=species))
    assert answer is (None if species[2] == "Homo sapiens" else Reason.SPECIES)


@pytest.mark.parametrize("region", REFUSED_BY_CODE)
def test_a_region_is_told_by_its_code_in_whatever_words(region: tuple[str, str, str]) -> None:
    ds = data_set(ramp())
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = region
    ds.AnatomicRegionSequence = [item]
    ds.SpecificCharacterSet = "ISO_IR 192"
    assert gate.by_tags(header_of(again(ds))) is Reason.BODY_PART


@pytest.mark.parametrize(
    "region", [("51185008", "SCT", "Brustkorb"), ("1", "99LOCAL", "Brustkorb")]
)
def test_a_chest_or_a_code_of_a_site_refuses_nothing(region: tuple[str, str, str]) -> None:
    ds = data_set(ramp())
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = region
    ds.AnatomicRegionSequence = [item]
    assert gate.by_tags(header_of(again(ds))) is None


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (("399312000", "SCT", "a.-p. schräg"), Reason.VIEW),
        (("260427002", "SCT", "oblique latérale"), Reason.VIEW),
        (("399033003", "SCT", "lateral"), None),  # frontal, whatever it is called
        (("1", "99LOCAL", "frontal"), None),
    ],
)
def test_a_view_is_told_by_its_code_in_whatever_words(
    view: tuple[str, str, str], reason: Reason | None
) -> None:
    ds = data_set(ramp())
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = view
    ds.ViewCodeSequence = [item]
    ds.pop("ViewPosition", None)
    ds.SpecificCharacterSet = "ISO_IR 192"
    assert gate.by_tags(header_of(again(ds))) is reason
