"""Canaries: what stands in every test's data sets for a patient, an order and a place.

None of it may be seen where the node speaks to anybody but a PACS; tests/watch.py looks after every
test. All data sets of tests are made here or by the factories that plant these.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from tests.run_folder import run_folder

NAME, PATIENT_ID, ACCESSION, BIRTH_DATE = "CANARY^NAME", "CANARYID", "CANARYACC", "19171107"

#: Keyword -> value, in the words that rules of the gate do not look at.
PLANTED = {
    "PatientName": NAME,
    "PatientID": PATIENT_ID,
    "PatientBirthDate": BIRTH_DATE,
    "AccessionNumber": ACCESSION,
    "OtherPatientIDs": "CANARYOTHERID",
    "OtherPatientNames": "CANARY^OTHER",
    "PatientBirthName": "CANARY^BIRTH",
    "PatientMotherBirthName": "CANARY^MOTHER",
    "PatientAddress": "CANARY STREET 1",
    "PatientTelephoneNumbers": "CANARYPHONE",
    "PatientComments": "CANARY COMMENT",
    "AdditionalPatientHistory": "CANARY HISTORY",
    "ReferringPhysicianName": "CANARY^REFERRING",
    "PerformingPhysicianName": "CANARY^PERFORMING",
    "OperatorsName": "CANARY^OPERATOR",
    "InstitutionName": "CANARY HOSPITAL",
    "InstitutionAddress": "CANARY SQUARE 1",
    "InstitutionalDepartmentName": "CANARY WARD",
    "StationName": "CANARYSTATION",
    "StudyID": "CANARYSTUDY",
    "StudyDescription": "THORAX CANARY",
    "ImageComments": "CANARY IMAGE",
}

#: Names of patients whose characters matter.
NAMES = (
    *("Müller", "Jörg", "Märta", "Größe", "Grösse", "Wałęsa", "Çavuşoğlu", "Люкceмбypг"),
    *("Διονυσιος", "Yamada", "山田", "やまだ", "ﾔﾏﾀﾞ", "Suzuki", "Hong^Gildong", "洪^吉洞"),
    *("홍^길동", "Wang^XiaoDong", "王^小", "قباني", "שרון", "นามสกุล"),
    *("Old^Name", "Smith^Ann", "Doe^Jane"),
)
#: A number counts where it stands by itself: UIDs have all of them somewhere in their middle.
_SEEN = re.compile(
    "|".join(
        ("canary", r"(?<![\d.])19171107(?!\d)", "1917-11-07", *(re.escape(name) for name in NAMES))
    ),
    re.IGNORECASE,
)


#: The same as bytes in lower case, as far as ASCII has cases; names in both cases of their own.
_AS_BYTES = {
    told.encode().lower()
    for name in ("canary", BIRTH_DATE, "1917-11-07", *NAMES)
    for told in (name, name.lower(), name.upper())
}


def plant(ds: Dataset) -> None:
    """Give a data set a patient, an order and a place that nobody may hear of."""
    for keyword, value in PLANTED.items():
        ds.pop(keyword, None)  # without reading it: some of pydicom's are longer than they may be
        setattr(ds, keyword, value)


@functools.cache
def sample(name: str = "RG1_UNCR.dcm") -> Path:
    """A file of pydicom-data with canaries in it, written once a process.

    RG1_UNCR.dcm is a real PA chest, CR, 1955 rows by 1841 columns.
    """
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str), "pydicom-data is not installed"
    ds = pydicom.dcmread(found)
    plant(ds)
    path = _folder() / name
    ds.save_as(path)
    return path


@functools.cache
def _folder() -> Path:
    return run_folder()


def seen(text: str) -> list[str]:
    """The lines of a text that have a canary in them, cut to what stands around it."""
    found = []
    for match in _SEEN.finditer(text):
        start = max(text.rfind("\n", 0, match.start()) + 1, match.start() - 80)
        found.append(text[start : match.end() + 60].split("\n", 1)[0])
    return found


def may_be_in(content: bytes) -> bool:
    """Whether it is worth while to look for canaries: megabytes of numbers take seconds."""
    lowered = content.lower()
    return any(told in lowered for told in _AS_BYTES)
