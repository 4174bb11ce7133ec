"""No patient's name, id, birth date or address in logs, figures, audit or the text of an error.

Canaries stand in every attribute of people, orders and places that a radiograph may hold; the run
has a study that is screened, one that is not, damaged files, a refused sender and a PACS that is
away, at the most talkative level of logging.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import dictionary_is_retired, dictionary_VM, dictionary_VR, keyword_dict
from pydicom.uid import UID

from prescreen.dicom.send import Sender
from prescreen.errors import DeliveryError
from prescreen.metrics import Sight
from prescreen.settings import Destination
from prescreen.store import audit, reader
from prescreen.store.queue import utc_now
from prescreen.study import generate_uid
from prescreen.syslog import message
from tests.canaries import ACCESSION, BIRTH_DATE
from tests.e2e.house import UNCLOSED, House, chest, house, wait_until
from tests.e2e.test_every_way_in_says_what_is_wrong import several
from tests.unit.test_docs_say_what_the_code_says import commands

pytestmark = pytest.mark.filterwarnings(UNCLOSED)

CANARY = "CANARY"
#: The groups of people, orders and places; the others say how the picture was made.
_GROUPS = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040)
_TEXTS = ("PN", "LO", "SH", "LT", "ST", "UT", "UC")
#: What rules are made of, or what is no text of the sender's.
_NOT_THESE = {
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "PatientSpeciesDescription",
    "ManufacturerModelName",
    "SeriesDescription",
    "ProtocolName",
}


def planted(folder: Path, **attributes: object) -> Path:
    """A real radiograph with a canary in every text of those groups."""
    path = chest(folder)
    ds = pydicom.dcmread(path)
    for keyword, tag in keyword_dict.items():
        vr, vm = dictionary_VR(tag), dictionary_VM(tag)
        wanted = tag >> 16 in _GROUPS and vr in _TEXTS and not dictionary_is_retired(tag)
        if wanted and vm.startswith("1") and keyword not in _NOT_THESE:
            name = f"{CANARY}^{keyword[:20]}" if vr == "PN" else f"{CANARY}{keyword[:9]}"
            setattr(ds, keyword, name)
    ds.PatientBirthDate, ds.AccessionNumber = BIRTH_DATE, ACCESSION
    ds.PatientAge = "060Y"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(generate_uid())
    ds.StudyInstanceUID = generate_uid()
    ds.save_as(path)
    return path


def _damaged(path: Path) -> Path:
    """The same with an element that claims more than there is, amidst the patient's data."""
    content = bytearray(path.read_bytes())
    at = content.index(BIRTH_DATE.encode()) - 2
    content[at : at + 2] = struct.pack("<H", 0xFFF0)
    damaged = path.with_name("damaged.dcm")
    damaged.write_bytes(bytes(content))
    return damaged


def _study_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)


@dataclass
class Run:
    """Everything that was said by the end of the run, by where; and who the database knows."""

    said: dict[str, str]
    patient_names: set[str]
    folder: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("house")
    log = folder / "node.log"
    more = '[log]\nlevel = "debug"\nformat = "json"\n'
    with (
        log.open("wb") as stream,
        house(folder, lease=60, more=more, listens=False) as home,
        home.open(stream),
    ):
        good = planted(folder)
        strange = planted(folder, Rows=3_000)
        limb = planted(folder, BodyPartExamined=f"{CANARY} KNEE")
        home.send(good, strange, limb)
        errors = _failures(home, folder, good)
        for path in (good, strange, limb):
            wait_until(partial(_is_answered, home, path), "it is answered")
        wait_until(lambda: "trying again" in log.read_text(), "the PACS was tried")
        names = {str(r["patient_name"]) for r in reader.studies(home.store().engine)}
        errors |= _told_to_machines(home)
        errors |= _commands(home, folder, strange)
        stream.flush()
        yield Run({"the log": log.read_text(), **errors}, names, folder)


def _is_answered(home: House, path: Path) -> bool:
    rows = reader.studies(home.store().engine)
    uid = _study_of(path)
    return any(row["outcome"] for row in rows if row["study_instance_uid"] == uid)


def _failures(home: House, folder: Path, good: Path) -> dict[str, str]:
    """What senders are told who send damaged things, or may not send."""
    said = {}
    broken = _damaged(good)
    mismatched = folder / "mismatched.dcm"
    ds = pydicom.dcmread(good)
    ds.SOPInstanceUID = UID(generate_uid())
    ds.save_as(mismatched)
    for path in (broken, mismatched):
        try:
            home.send(path)
        except DeliveryError as error:
            said[f"the answer to {path.name}"] = str(error)
    door = Destination(
        name="node", ae_title="PRESCREEN", host="127.0.0.1", port=home.settings.receive.port
    )
    with suppress(DeliveryError), Sender(door, "STRANGER") as stranger:
        stranger.send(good)
    return said


def _told_to_machines(home: House) -> dict[str, str]:
    """The figures and hindrances of the pages, and the messages for an audit record repository."""
    store = home.store()
    sight = Sight(store.engine, store.spool, home.settings, utc_now, dict)
    messages = [message(event, "PRESCREEN") for event in audit.events(store.engine)]
    return {
        "the metrics": sight.exposition(),
        "the hindrances": "\n".join(sight.hindrances()),
        "the audit messages": "\n".join(text for text in messages if text),
    }


def _commands(home: House, folder: Path, path: Path) -> dict[str, str]:
    """What every command prints, and what it says where it cannot do what it is asked."""
    study, why = _study_of(path), ("--why", "test")
    damaged, out = str(folder / "damaged.dcm"), ("--out", str(folder / "o"))
    asked: tuple[tuple[str, ...], ...] = (
        ("status",),
        ("status", "--json"),
        ("check",),
        ("check", "--json"),
        ("doctor",),
        ("doctor", "--json"),
        ("audit", "list"),
        ("audit", "list", "--json"),
        ("audit", "show", study),
        ("audit", "show", study, "--json"),
        ("audit", "show", "1.2.3"),
        ("audit", "verify"),
        ("audit", "checkpoint", str(folder / "checkpoints.jsonl")),
        ("weights", "list"),
        ("audit", "export"),
        ("audit", "export", "--format", "csv"),
        ("screen", str(path), damaged, *out, "--json"),
        ("screen", str(path), damaged, *out),
        ("backup", str(folder / "backup")),
        ("restore", str(folder / "backup")),
        ("echo", "pacs"),
        ("hold", *why),
        ("release", *why),
        ("hold", "--finding", "Hernia", *why),
        ("go-silent", "pacs", *why),
        ("go-live", "pacs", *why),
        ("retry", *why),
        ("retry", "999", *why),
        ("cancel", "999", *why),
        ("rescreen", study, *why),
        ("erase", study, *why),
    )
    environment = {"PRESCREEN_CONFIG": str(home.config)}
    answers = several([(environment, arguments) for arguments in asked])
    return {" ".join(said.args): said.stdout + said.stderr for said in answers}


#: `serve` is the run itself, `demo` has patients of its own, `recall` prints its list for people
#: who look studies up in a PACS, and the others work on weights, which know no patient.
NOT_ASKED = {
    "prescreen",
    "prescreen audit",
    "prescreen serve",
    "prescreen demo",
    "prescreen recall",
    "prescreen weights",
    "prescreen weights import",
    "prescreen weights use",
    "prescreen weights verify",
}


def test_every_command_was_asked(run: Run) -> None:
    asked = [f"prescreen {arguments} " for arguments in run.said]
    missing = {
        words
        for words in set(commands()) - NOT_ASKED
        if not any(arguments.startswith(f"{words} ") for arguments in asked)
    }
    assert missing == set()


def test_the_run_had_its_failures(run: Run) -> None:
    log, export = run.said["the log"], run.said["audit export"]
    assert all(CANARY in name for name in run.patient_names), "the canaries came in"
    assert "refused with 0x" in log
    assert "association refused" in log
    kinds = ("job.screened", "job.not_screened", "job.out_of_scope")
    for kind in (*kinds, "association.refused", "instance.refused"):
        assert kind in export
        assert f'kind="{kind}"' in run.said["the metrics"]
    assert run.said["the audit messages"].count("<AuditMessage") > 3


def test_nothing_of_a_patient_is_said_anywhere(run: Run) -> None:
    found = {
        where: [line[:300] for line in text.splitlines() if CANARY in line or BIRTH_DATE in line]
        for where, text in run.said.items()
    }
    assert {where: lines for where, lines in found.items() if lines} == {}


def test_nothing_of_a_patient_lies_outside_the_data_directory(run: Run) -> None:
    """No core, no crash file, no temporary file; a backup is a copy of the data directory."""
    left = [
        path.name
        for path in run.folder.rglob("*")
        if path.is_file()
        and not {"data", "backup", "o"} & set(path.relative_to(run.folder).parts[:1])
        and path.suffix != ".dcm"
        and CANARY.encode() in path.read_bytes()
    ]
    assert left == []
    assert not list(Path.cwd().glob("core*"))
