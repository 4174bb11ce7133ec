"""A node without processes: a parcel comes in, is kept or refused, and is answered.

The spool, the database, the decoder's children and the gate are the real ones; the networks are a
stand-in that notes what it is shown and says what it is told to.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import ExplicitVRLittleEndian

from prescreen import pipeline
from prescreen.dicom.decode import Decoder
from prescreen.dicom.identity import identify
from prescreen.errors import Refusal, UnusableImage
from prescreen.settings import Settings, load
from prescreen.store import audit, reader
from prescreen.store.reader import StudyRecord
from prescreen.study import Finding, Identity, Incoming, Radiograph, Screening, generate_uid
from tests import chests, results
from tests.store_bench import StoreBench

SUCCESS = 0x0000


class Parcels:
    """`kept` and `answered` for what is sent; `shown` is what came as far as the networks."""

    def __init__(self, folder: Path, decoder: Decoder, **scope: Any) -> None:
        self.bench = StoreBench(folder)
        self.settings: Settings = load(
            None,
            data_dir=folder,
            scope={"acquired_within_hours": 10_000_000, "unknown_age": "screen", **scope},
        )
        self.decoder = decoder
        self.forget()

    def forget(self) -> None:
        """Begin anew: what was before is neither shown nor listed any more."""
        self.shown: list[Radiograph] = []
        self.findings: tuple[Finding, ...] = results.BUSY
        self._files = frozenset(self._all_files())
        self._events = len(audit.events(self.bench.engine))

    def screener(self, radiographs: Sequence[Radiograph]) -> list[Screening]:
        self.shown += radiographs
        anatomy, model = chests.anatomy(), results.model()
        return [Screening(anatomy, self.findings, 0.5, model) for _ in radiographs]

    def keep(self, part10: bytes, **command: str) -> int:
        """The status the sender is told; `command` changes what the C-STORE request names."""
        incoming = Incoming(
            part10=part10,
            calling_ae_title="MODALITY",
            called_ae_title="PRESCREEN",
            peer_address="127.0.0.1",
            file=None,
            **{**_command(part10), **command},
        )
        try:
            pipeline.keep(
                incoming,
                spool=self.bench.spool,
                queue=self.bench.queue,
                screen=self.settings.screen,
                minimum_free=0,
            )
        except Refusal as refusal:
            assert "Canary" not in str(refusal)
            return refusal.status
        return SUCCESS

    def answer(self) -> None:
        """Screen all that is due."""
        tools = pipeline.Tools(
            self.settings,
            self.bench.queue,
            self.bench.spool,
            self.decoder,
            self.screener,
            results.model(),
            lambda: self.bench.now,
        )
        while jobs := self.bench.claim(8):
            pipeline.screen(jobs, tools)

    def outcome(self, part10: bytes) -> tuple[str, str | None]:
        """Keep a parcel and answer it: outcome and reason of its study."""
        assert self.keep(part10) == SUCCESS
        self.answer()
        study = self.record(part10).study
        return str(study["outcome"]), study["reason"]

    def record(self, part10: bytes) -> StudyRecord:
        """All that is known of the study of a parcel."""
        return reader.show(self.bench.engine, identify(part10).study_instance_uid)

    def kinds(self) -> list[str]:
        """Every event so far."""
        return [event.kind for event in audit.events(self.bench.engine)[self._events :]]

    def files(self) -> list[Path]:
        """All files of the spool."""
        return [path for path in self._all_files() if path not in self._files]

    def _all_files(self) -> list[Path]:
        return [path for path in self.bench.spool.root.rglob("*") if path.is_file()]


def _command(part10: bytes) -> dict[str, str]:
    try:
        identity: Identity = identify(part10)
    except Refusal:
        return dict.fromkeys(("sop_class_uid", "sop_instance_uid", "transfer_syntax_uid"), "1.2.3")
    return {
        "sop_class_uid": identity.sop_class_uid,
        "sop_instance_uid": identity.sop_instance_uid,
        "transfer_syntax_uid": identity.transfer_syntax_uid,
    }


def refusal_of(path: Path, decoder: Decoder) -> str:
    """Why a file is not decoded: the reason's code; the text names no patient."""
    answer = decoder.read_all([path])[0]
    assert isinstance(answer, UnusableImage), "it was decoded"
    assert "Canary" not in str(answer)
    return answer.reason


# --- bytes that no honest library writes -----------------------------------------------------


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """One element in Explicit VR Little Endian; `length` may lie."""
    said = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + b"\0\0" + struct.pack("<I", said & 0xFFFFFFFF) + value
    return head + struct.pack("<H", said & 0xFFFF) + value


def with_element(whole: bytes, tag: int, encoded: bytes) -> bytes:
    """A file in Explicit VR Little Endian with bytes put where an element of `tag` belongs."""
    at = 132
    while at < len(whole):
        group, number, vr, short = struct.unpack_from("<HH2sH", whole, at)
        if group << 16 | number >= tag:
            break
        long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        at += 12 + struct.unpack_from("<I", whole, at + 8)[0] if long else 8 + short
    return whole[:at] + encoded + whole[at:]


def nested(levels: int, defined: bool = False) -> bytes:
    """A private sequence in a sequence in a sequence …, (0009,1010) at the top."""
    head = struct.pack("<HH2s", 0x0009, 0x1010, b"SQ")
    if not defined:
        return (head + b"\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff") * levels + (
            b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * levels
        )
    encoded = b""
    for _ in range(levels):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(encoded)) + encoded
        encoded = head + b"\0\0" + struct.pack("<I", len(item)) + item
    return encoded


def chest(**attributes: Any) -> bytes:
    """The real chest radiograph as a file, with attributes changed (None: left out)."""
    ds = pydicom.dcmread(results.chest_path())
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.SOPInstanceUID = pydicom.uid.UID(generate_uid())
    for keyword, value in attributes.items():
        if value is None:
            if keyword in ds:
                del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = BytesIO()
    pydicom.dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()
