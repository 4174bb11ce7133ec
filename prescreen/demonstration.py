"""`prescreen demo`: real radiographs through a node into a small PACS, and what the PACS got.

Everything runs on this machine, on free ports of the loopback: a node as `prescreen serve` runs
it, and a PACS that keeps what it is sent. Data come from pydicom-data, or are the user's own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from PIL import Image as Picture
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from prescreen import node, settings, tables
from prescreen.dicom.header import read_header
from prescreen.dicom.receive import Receiver
from prescreen.dicom.send import Sender
from prescreen.errors import DeliveryError, PrescreenError, SettingsError
from prescreen.own_files import Own, own_files
from prescreen.store import reader
from prescreen.store.destinations import Destinations
from prescreen.study import Audience, Incoming, Outcome, generate_uid
from prescreen.supervisor import LIFELINE
from prescreen.tables import say

#: A chest in three codings of one picture, and an extremity (PyPI pydicom-data).
SAMPLES = ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "RG1_J2KI.dcm", "RG3_UNCR.dcm")

#: Seconds without a further answer after which the studies that are left count as lost.
PATIENCE = 300.0


@dataclass
class Pacs:
    """A small PACS: accepts everything, and keeps it in a folder."""

    folder: Path
    received: list[tuple[str, str, Path]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, incoming: Incoming) -> None:
        """Keep one object under its number of arrival."""
        with self._lock:
            path = self.folder / f"{len(self.received) + 1:03d}.dcm"
            path.write_bytes(incoming.part10[:])
            self.received.append((incoming.sop_class_uid, incoming.sop_instance_uid, path))

    def has(self, sop_instance_uid: str) -> Path | None:
        """Where an object lies, or None if it never came."""
        return next((path for _, uid, path in self.received if uid == sop_instance_uid), None)


def run(paths: Sequence[Path], out: Path, console: Console) -> bool:
    """Run the demonstration; True if every file was taken and every study got its answer.

    What is left lies in `out`. Where it is False the last line says why.
    """
    work = _fresh_folder(out)
    own = own_files(paths, console) if paths else Own(_samples(work / "sent"))
    if not own.files:
        raise SettingsError(f"no DICOM file under {', '.join(_plain(path) for path in paths)}")
    pacs = Pacs(work / "pacs")
    with _listening(pacs) as pacs_port, _node(work, pacs_port) as configured:
        sent, refused = _send(own.files, configured, console)
        finished = _wait(sent, configured, console)
        unanswered = _show(sent, finished, pacs, configured, work, console)
    if own.left_out:
        say(console, f"files and folders left out: {own.left_out}")
    wrong = [f"{refused} of {len(own.files)} files not taken"] if refused else []
    wrong += [f"{unanswered} of {len(sent)} studies without an answer"] if unanswered else []
    if wrong:
        say(console, f"exit status 1: {', '.join(wrong)}")
    return not wrong


def _plain(path: Path) -> str:
    return tables.plain(str(path))


def _fresh_folder(out: Path) -> Path:
    work = out.absolute() / time.strftime("%Y%m%d-%H%M%S")
    try:
        str(work).encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"--out {_plain(work.parent)}: its name is not UTF-8; choose another"
        ) from None
    for name in ("sent", "pacs", "node"):
        try:
            (work / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"--out {_plain(out)}: cannot be written: {error.strerror}"
            ) from None
    return work


def _samples(folder: Path) -> list[Path]:
    """The sample files, each as a study of its own: as they come they share their UIDs."""
    from pydicom.data import get_testdata_file

    copies = []
    for name in SAMPLES:
        source = get_testdata_file(name, download=False)
        if source is None:
            raise SettingsError(f"{name} is missing: pip install pydicom-data")
        ds = pydicom.dcmread(str(source))
        ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
        ds.SOPInstanceUID = generate_uid()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        copies.append(folder / name)
        ds.save_as(copies[-1])
    return copies


# --- the node and its PACS -------------------------------------------------------------------


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def _listening(pacs: Pacs) -> Iterator[int]:
    peer = settings.Peer(ae_title="PRESCREEN")
    door = settings.Receive(ae_title="DEMOPACS", port=_free_port(), peers=(peer,))
    with Receiver(door, pacs.keep, lambda kind, detail: None) as receiver:
        yield receiver.port


_CONFIG = """\
# Written by `prescreen demo`. The scope is wide open: whatever is shown to the demo is screened.
data_dir = {data_dir}

[receive]
port = {port}
[[receive.peers]]
ae_title = "DEMO"

[screen]
quiet_period = 1
quiet_cap = 10

[scope]
minimum_age = 0
unknown_age = "screen"
acquired_within_hours = 10000000

[[destinations]]
name = "demo-pacs"
ae_title = "DEMOPACS"
host = "127.0.0.1"
port = {pacs_port}
audience = "evaluation"

[housekeeping]
minimum_free_mb = 100

[log]
level = "info"
"""


def settings_text(data_dir: Path, port: int, pacs_port: int) -> str:
    """The node's settings as TOML, whose strings escape as JSON's do, and DEL besides."""
    escaped = json.dumps(str(data_dir), ensure_ascii=False).replace("\x7f", "\\u007f")
    return _CONFIG.format(data_dir=escaped, port=port, pacs_port=pacs_port)


@contextmanager
def _node(work: Path, pacs_port: int) -> Iterator[settings.Settings]:
    """A node on an embedded data directory, as `prescreen serve` runs it, until the end."""
    config = work / "prescreen.toml"
    text = settings_text(work / "node", _free_port(), pacs_port)
    config.write_text(text, encoding="utf-8")
    configured = settings.load(config)
    store = node.open_store(configured)
    Destinations(store.engine).go_live("demo-pacs", "prescreen demo", "demonstration")
    store.engine.dispose()
    command = [sys.executable, "-m", "prescreen", "serve", "--config", str(config)]
    lifeline, held = os.pipe()  # `held` closes when this process ends, however it does
    environment = {**os.environ, LIFELINE: str(lifeline)}
    with (work / "node.log").open("wb") as log:
        process = subprocess.Popen(
            command, stderr=log, stdout=log, env=environment, pass_fds=(lifeline,)
        )
        try:
            yield configured
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(lifeline)
            os.close(held)


def _door(configured: settings.Settings) -> settings.Destination:
    return settings.Destination(
        name="node",
        ae_title=configured.receive.ae_title,
        host="127.0.0.1",
        port=configured.receive.port,
        audience=Audience.EVALUATION,
    )


def _send(
    files: Sequence[Path], configured: settings.Settings, console: Console
) -> tuple[list[str], int]:
    """C-STORE the files to the node; the studies that were sent, in order, and files refused."""
    sent: dict[str, None] = {}
    refused = 0
    with _progress(console) as progress, Sender(_door(configured), "DEMO") as sender:
        bar = progress.add_task("waiting for the node", total=len(files))
        _wait_for_door(configured)
        progress.update(bar, description="sending by C-STORE")
        for file in files:
            try:
                uid = str(read_header(file).get("StudyInstanceUID", ""))
                sender.send(file)
            except DeliveryError as error:
                say(console, f"{file}: the node did not take it: {error}")
                refused += 1
            except PrescreenError as error:
                say(console, f"{file}: was not sent: {str(error).removeprefix(f'{file}: ')}")
                refused += 1
            else:
                sent[uid] = None
            progress.advance(bar)
    return list(sent), refused


def _wait_for_door(configured: settings.Settings) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            address = ("127.0.0.1", configured.receive.port)
            socket.create_connection(address, timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise PrescreenError("the node does not listen; see node.log beside the results")


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
    )


def _wait(sent: Sequence[str], configured: settings.Settings, console: Console) -> set[str]:
    """Follow the studies until each is done; those that are."""
    store = node.open_store(configured)
    done: set[str] = set()
    deadline = time.monotonic() + PATIENCE
    with _progress(console) as progress:
        bar = progress.add_task("screening", total=len(sent))
        while len(done) < len(sent) and time.monotonic() < deadline:
            rows = {row["study_instance_uid"]: row for row in reader.studies(store.engine, 10_000)}
            stages = {uid: _stage(rows.get(uid)) for uid in sent}
            before = len(done)
            done = {uid for uid, stage in stages.items() if stage == "done"}
            if len(done) > before:
                deadline = time.monotonic() + PATIENCE
            waiting = sorted({stage for stage in stages.values() if stage != "done"})
            progress.update(bar, completed=len(done), description=", ".join(waiting) or "done")
            time.sleep(0.25)
    return done


def _stage(row: object) -> str:
    if not isinstance(row, dict) or row["stage"] is None:
        return "done" if isinstance(row, dict) and row["jobs"] == 0 else "receive"
    return str(row["stage"])


# --- what the PACS got -----------------------------------------------------------------------


def _show(
    sent: Sequence[str],
    finished: set[str],
    pacs: Pacs,
    configured: settings.Settings,
    work: Path,
    console: Console,
) -> int:
    """Print what is known of each study; how many of them had no answer."""
    store = node.open_store(configured)
    unanswered = 0
    for number, uid in enumerate(sent, start=1):
        console.rule(f"study {number} of {len(sent)}")
        record = reader.show(store.engine, uid)
        tables.show_study(record, as_json=False)
        missing = _show_objects(record, pacs, work, console)
        if uid not in finished or missing or record.study["outcome"] == Outcome.FAILED:
            say(console, f"no answer for study {uid}", "bold")
            unanswered += 1
    console.rule()
    say(console, f"the PACS got {len(pacs.received)} objects; everything lies in {work}")
    console.print("AI output for research and evaluation. Not a diagnosis.")
    return unanswered


def _show_objects(
    record: reader.StudyRecord, pacs: Pacs, work: Path, console: Console
) -> list[str]:
    """Say where each result lies at the PACS; UIDs of those that never came."""
    missing = []
    for delivery in record.deliveries:
        uid = str(delivery["sop_instance_uid"])
        path = pacs.has(uid)
        if path is None:
            missing.append(uid)
            continue
        say(console, f"the PACS has the {delivery['kind']}: {path}")
        if delivery["kind"] == "capture":
            say(console, f"  as a picture: {_picture(path)}")
    if record.study["outcome"] == Outcome.OUT_OF_SCOPE:
        reason = record.study["reason"]
        console.print(f"out of scope ({reason}): audited, nothing is sent")
    return missing


def _picture(path: Path) -> Path:
    """The capture as the PACS holds it, as PNG beside it."""
    picture = path.with_suffix(".png")
    Picture.fromarray(pydicom.dcmread(path).pixel_array).save(picture)
    return picture
