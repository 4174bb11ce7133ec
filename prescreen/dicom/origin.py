"""What tells an object of ours from all others, whatever an archive has made of it meanwhile."""

from __future__ import annotations

import re

from prescreen.dicom.attributes import Attributes

#: Manufacturer's Model Name of everything this software writes. The manufacturer is a setting
#: and may change while results of before it are still about, so it tells nothing.
OWN_MODEL = "prescreen"

_MARK = re.compile(r"weights sha256 [0-9a-f]{64}")


def mark(sha256: str) -> str:
    """Contribution Description of a network of ours, by the digest of its weights (hex)."""
    return f"weights sha256 {sha256}"


def is_own(attributes: Attributes) -> bool:
    """Whether a data set was written by this software, here or elsewhere.

    Archives put equipment of their own in place of ours; what contributed to an object
    (PS3.3 C.12.1.5) they leave alone. The database need not know it.
    """
    if _is_own_model(attributes):
        return True
    return any(
        _is_own_model(item) or _MARK.fullmatch(item.text("ContributionDescription") or "")
        for item in attributes.items("ContributingEquipmentSequence")
    )


def _is_own_model(equipment: Attributes) -> bool:
    return (equipment.text("ManufacturerModelName") or "").casefold() == OWN_MODEL
