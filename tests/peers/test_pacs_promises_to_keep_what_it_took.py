"""Storage commitment with Orthanc, a real provider, and with peers that do what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt

from prescreen.dicom import commitment
from prescreen.dicom.receive import Receiver
from prescreen.dicom.send import UNCOMPRESSED
from prescreen.line import Line
from prescreen.settings import Destination, Peer, Receive
from prescreen.store import audit
from prescreen.store.commitments import Commitments
from prescreen.study import Promise, Reference, generate_uid
from tests.line_bench import SECONDARY_CAPTURE, LineBench, capture, destination, eventually, part10
from tests.peers.dcmtk import free_port
from tests.peers.orthanc import Orthanc, running

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

INSTANCE = "1.2.840.10008.1.20.1.1"
VERIFICATION = "1.2.840.10008.1.1"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LineBench]:
    found = LineBench(tmp_path)
    yield found
    found.close()


@contextmanager
def door(bench: LineBench, port: int) -> Iterator[None]:
    """The node's receiver as a PACS's own association finds it."""
    settings = Receive(port=port, peers=(Peer(ae_title="PACS"),))
    commitments = Commitments(bench.engine, lambda: bench.now)

    def note(kind: str, detail: dict[str, Any]) -> None:
        audit.record(bench.engine, kind, detail)

    with Receiver(settings, lambda incoming: None, note, promised=commitments.answered):
        yield


@contextmanager
def orthanc(folder: Path, port: int) -> Iterator[tuple[Orthanc, Destination]]:
    node = {"node": ("PRESCREEN", "127.0.0.1", port)}
    with running(folder / "orthanc", "PACS", modalities=node) as server:
        yield server, destination(server.dicom_port)


def study_in(server: Orthanc, study: str) -> None:
    """The radiograph of a study, so that the archive has the study before its report."""
    server.post("/instances", part10(capture(), study))


def test_orthanc_promises_on_an_association_of_its_own(bench: LineBench, tmp_path: Path) -> None:
    port = free_port()
    with orthanc(tmp_path, port) as (server, pacs), door(bench, port):
        bench.line(pacs)
        study_in(server, "1.2.1")
        bench.reported("1.2.1", pacs)
        assert bench.turn() == 1
        assert bench.states("1.2.1") == ["delivered"]
        assert bench.turn() == 0  # asks
        eventually(lambda: bench.states("1.2.1") == ["committed"], "Orthanc has promised")
    (row,) = bench.rows("1.2.1")
    assert row["committed_at"] is not None
    assert row["commit_due_at"] is None
    kinds = [event.kind for event in audit.events(bench.engine)]
    assert kinds.count("commitment.asked") == kinds.count("object.committed") == 1
    assert audit.verify(bench.engine).whole


def test_p6_acknowledged_then_lost_is_sent_again_the_same_once(
    bench: LineBench, tmp_path: Path
) -> None:
    port = free_port()
    with orthanc(tmp_path, port) as (server, pacs), door(bench, port):
        bench.line(pacs)
        study_in(server, "1.2.1")
        bench.reported("1.2.1", pacs)
        bench.turn()
        (row,) = bench.rows("1.2.1")
        _delete(server, row["sop_instance_uid"])
        bench.turn()
        eventually(lambda: bench.rows("1.2.1")[0]["losses"] == 1, "Orthanc has it no more")
        assert bench.states("1.2.1") == ["pending"]
        assert bench.turn() == 1
        assert _has(server, row["sop_instance_uid"]), "the same object, under the same UID"
        _delete(server, row["sop_instance_uid"])  # a person who wants it gone
        bench.wait(10)
        bench.turn()
        eventually(lambda: bench.states("1.2.1") == ["parked"], "a person looks")
    assert "deleted there?" in bench.rows("1.2.1")[0]["error"]


def _found(server: Orthanc, uid: str) -> list[str]:
    query = {"Level": "Instance", "Query": {"SOPInstanceUID": uid}}
    return [str(name) for name in server.post("/tools/find", query)]


def _has(server: Orthanc, uid: str) -> bool:
    return len(_found(server, uid)) == 1


def _delete(server: Orthanc, uid: str) -> None:
    (name,) = _found(server, uid)
    server.delete(f"/instances/{name}")


# --- peers of our own making ------------------------------------------------------------------


class Provider:
    """A storage SCP and commitment provider: `says` gives the Failure Reason of each UID or 0."""

    def __init__(self, *, on_the_same: bool, offers: bool = True) -> None:
        self.on_the_same = on_the_same
        self.stored: list[str] = []
        self.asked: list[Dataset] = []
        self.reasons: dict[str, int] = {}
        self.listed: list[str] = []
        self.entity = AE("PACS")
        for sop_class in (SECONDARY_CAPTURE, VERIFICATION):
            self.entity.add_supported_context(sop_class)
        if offers:
            self.entity.add_supported_context(commitment.PUSH_MODEL)

    @contextmanager
    def listening(self) -> Iterator[int]:
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._action),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_DIMSE_SENT, self._report_now),
        ]
        server = self.entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        try:
            yield server.server_address[1]
        finally:
            self.entity.shutdown()

    def _store(self, event: evt.Event) -> int:
        request: Any = event.request
        self.stored.append(str(request.AffectedSOPInstanceUID))
        return 0

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        uid = str(event.identifier.get("SOPInstanceUID", ""))
        if uid in self.listed:
            yield 0xFF00, event.identifier

    def _action(self, event: evt.Event) -> tuple[int, None]:
        self.asked.append(event.action_information)
        return 0, None

    def _report_now(self, event: evt.Event) -> None:
        command = event.message.command_set
        if self.on_the_same and command.get("CommandField") == 0x8130:
            event.assoc.send_n_event_report(*self.report())

    def report(self) -> tuple[Dataset, int, str, str]:
        """The answer to the last question."""
        asked = self.asked[-1]
        items = list(asked.ReferencedSOPSequence)
        failed = [item for item in items if self.reasons.get(item.ReferencedSOPInstanceUID)]
        told = Dataset()
        told.TransactionUID = asked.TransactionUID
        told.ReferencedSOPSequence = [item for item in items if item not in failed]
        for item in failed:
            item.FailureReason = self.reasons[item.ReferencedSOPInstanceUID]
        if failed:
            told.FailedSOPSequence = failed
        return told, 2 if failed else 1, commitment.PUSH_MODEL, INSTANCE


def call_back(port: int, report: tuple[Dataset, int, str, str], role: bool = True) -> int | None:
    """Open an association as the PACS does and report; the status, None where it is not taken."""
    entity = AE("PACS")
    context = build_context(commitment.PUSH_MODEL, list(UNCOMPRESSED))
    roles: list[Any] = [build_role(commitment.PUSH_MODEL, scp_role=True)] if role else []
    link = entity.associate(
        "127.0.0.1", port, contexts=[context], ae_title="PRESCREEN", ext_neg=roles
    )
    try:
        if not link.accepted_contexts:
            return None
        status, _ = link.send_n_event_report(*report)
        return int(status.Status)
    finally:
        link.release()


def test_a_promise_on_the_same_association_counts(bench: LineBench) -> None:
    provider = Provider(on_the_same=True)
    with provider.listening() as port:
        pacs = destination(port)
        bench.line(pacs)
        bench.reported("1.2.1", pacs)
        bench.turn()
        bench.turn()
        assert bench.states("1.2.1") == ["committed"]
    assert len(provider.asked) == 1


def test_a_pacs_calls_back_and_only_as_provider(bench: LineBench) -> None:
    provider, node = Provider(on_the_same=False), free_port()
    with provider.listening() as port, door(bench, node):
        pacs = destination(port)
        bench.line(pacs)
        bench.reported("1.2.1", pacs)
        bench.turn()
        bench.turn()
        assert bench.states("1.2.1") == ["delivered"]
        assert call_back(node, provider.report(), role=False) is None, "we are no provider"
        assert call_back(node, provider.report()) == 0x0000
        assert bench.states("1.2.1") == ["committed"]


def test_an_answer_to_a_question_never_asked_is_refused(bench: LineBench) -> None:
    provider, node = Provider(on_the_same=False), free_port()
    forged = commitment._action(generate_uid(), [Reference(SECONDARY_CAPTURE, "1.2.3")])
    provider.asked.append(forged)
    with door(bench, node):
        assert call_back(node, provider.report()) == 0x0115


def test_without_an_answer_it_is_asked_again_and_in_the_end_no_more(bench: LineBench) -> None:
    provider = Provider(on_the_same=False)
    with provider.listening() as port:
        pacs = destination(port, commitment_again=60, commitment_days=1)
        bench.line(pacs)
        job = bench.reported("1.2.1", pacs)
        bench.turn()
        for _ in range(3):
            bench.turn()
            bench.wait(61)
        assert len(provider.asked) == 2, "at once, after 60 s, then after 120 s"
        assert len({str(ds.TransactionUID) for ds in provider.asked}) == 2
        bench.wait(86_400)
        assert not bench.retention.expire(bench.now), "it may have to be sent again"
        bench.turn()
    (row,) = bench.rows("1.2.1")
    assert (row["state"], row["commit_due_at"]) == ("delivered", None)
    assert "not committed" in row["error"]
    assert next(iter(bench.retention.expire(bench.now))).name == str(job.job_id)


@pytest.mark.parametrize(
    ("reason", "state"),
    [(0x0110, "delivered"), (0x0213, "delivered"), (0x0122, "delivered"), (0x0119, "pending")],
)
def test_each_failure_has_its_consequence(bench: LineBench, reason: int, state: str) -> None:
    provider = Provider(on_the_same=True)
    with provider.listening() as port:
        pacs = destination(port)
        bench.line(pacs)
        bench.reported("1.2.1", pacs)
        bench.turn()
        provider.reasons[provider.stored[0]] = reason
        bench.turn()
    (row,) = bench.rows("1.2.1")
    assert row["state"] == state
    assert (row["commit_due_at"] is None) == (reason not in (0x0110, 0x0213))


def take_as_checked(bench: LineBench, line: Line, study: str) -> None:
    """Let the study count as found: the peer lists no studies."""
    line._proof._checked = {study: (bench.now, bench.outbox.identity(study))}


def test_what_offers_no_commitment_is_asked_what_it_lists(bench: LineBench) -> None:
    provider = Provider(on_the_same=False, offers=False)
    provider.entity.add_supported_context(FIND)
    with provider.listening() as port:
        pacs = destination(port, query="if_offered", commitment_again=60)
        line = bench.line(pacs)
        bench.reported("1.2.1", pacs)
        take_as_checked(bench, line, "1.2.1")
        bench.turn()
        (row,) = bench.rows("1.2.1")
        provider.listed.append(row["sop_instance_uid"])
        bench.turn()
        (row,) = bench.rows("1.2.1")
        assert row["found_at"] is not None
        assert (row["state"], row["commit_due_at"]) == ("delivered", None)


def test_what_is_not_listed_either_is_sent_again(bench: LineBench) -> None:
    provider = Provider(on_the_same=False, offers=False)
    provider.entity.add_supported_context(FIND)
    with provider.listening() as port:
        pacs = destination(port, commitment_again=1)
        line = bench.line(pacs)
        bench.reported("1.2.1", pacs)
        take_as_checked(bench, line, "1.2.1")
        assert bench.turn() == 1
        for _ in range(3):
            assert bench.states("1.2.1") == ["delivered"]
            bench.turn()
            bench.wait(10)
        assert bench.states("1.2.1") == ["pending"]
        take_as_checked(bench, line, "1.2.1")
        assert bench.turn() == 1
    assert len(provider.stored) == 2
    assert len(set(provider.stored)) == 1


def test_a_peer_without_any_proof_leaves_it_delivered(bench: LineBench) -> None:
    provider = Provider(on_the_same=False, offers=False)
    with provider.listening() as port:
        pacs = destination(port)
        bench.line(pacs)
        bench.reported("1.2.1", pacs)
        bench.turn()
        bench.turn()
        assert bench.rows("1.2.1")[0]["commit_due_at"] is None
        bench.reported("1.2.2", pacs)
        bench.turn()
        assert bench.rows("1.2.2")[0]["commit_due_at"] is None, "it is not asked any more"


def test_a_promise_names_what_it_is_about(bench: LineBench) -> None:
    assert not Commitments(bench.engine).answered(Promise("1.2.3"))
