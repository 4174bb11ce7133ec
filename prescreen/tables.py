"""What the commands show: tables for people, JSON for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prescreen.checks import Check
from prescreen.doctor import Complaint
from prescreen.settings import Settings
from prescreen.shelf import Holding
from prescreen.store.reader import Status, StudyRecord
from prescreen.store.recalls import Affected
from prescreen.study import LABELS, Event


def _console() -> Console:
    console = Console()
    # piped into a file or another program nothing may be cut off
    return console if console.is_terminal else Console(width=200)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, default=str))


#: Who a study is of: in the database, and told by no command but the list of `recall`.
_PATIENT = frozenset(
    {
        "patient_id",
        "issuer_of_patient_id",
        "patient_name",
        "patient_birth_date",
        "accession_number",
        "issuer_of_accession_number",
    }
)


def _without_patient(value: Any) -> Any:
    """The same, less what names patient and order: it goes into tickets and other systems."""
    if isinstance(value, Mapping):
        return {k: _without_patient(v) for k, v in value.items() if k not in _PATIENT}
    if isinstance(value, list | tuple):
        return [_without_patient(v) for v in value]
    return value


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    return table


def _cell(value: object) -> Text:
    """As it is: senders choose what stands there, so that there is no markup in it."""
    return Text("" if value is None else plain(str(value)))


def plain(text: str) -> str:
    """The text with a question mark in place of all that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)


def say(console: Console, text: str, style: str = "") -> None:
    """One line as it is: users choose what stands in it, so that there is no markup in it."""
    console.print(Text(plain(text), style), soft_wrap=True)


def show_status(
    status: Status,
    parked: Sequence[Mapping[str, Any]],
    free: int,
    quarantined: Mapping[str, int],
    settings: Settings,
    as_json: bool,
) -> None:
    """Print how the node stands."""
    if as_json:
        more = {"parked": list(parked), "free_bytes": free, "quarantined": dict(quarantined)}
        _print_json({**asdict(status), **more})
        return
    console = _console()
    console.print(
        f"{status.studies} studies, {status.instances} instances; {free / 1e9:.1f} GB free\n"
        f"to screen: {status.waiting} waiting, {status.due} due, {status.leased} in work"
        + (f" (oldest due since {status.oldest_due:%Y-%m-%d %H:%M}Z)" if status.oldest_due else "")
    )
    console.print("outcomes: " + (_counts(status.outcomes) or "none yet"))
    configured = [destination.name for destination in settings.destinations]
    gone = sorted(set(status.deliveries) - set(configured))
    tests = {destination.name for destination in settings.destinations if destination.test}
    rows = [_destination_row(name, status, name in tests) for name in (*configured, *gone)]
    if rows:
        console.print(_table("destinations", ("name", "is", "objects"), rows))
    else:
        console.print("no destination is configured")
    for name in gone:
        if {"pending", "parked"} & set(status.deliveries[name]):
            console.print(
                f"{name} is not in the settings: what is pending for it is sent by nobody; "
                f"`prescreen cancel --destination {name}` gives it up"
            )
    if any(standing.name == "*" and standing.held for standing in status.standings):
        console.print("every destination is on hold: `prescreen release` resumes sending")
    if status.held_findings:
        console.print(f"findings on hold: {', '.join(status.held_findings)}")
    if quarantined:
        console.print(f"in quarantine, for a person to look at: {_counts(quarantined)}")
    if parked:
        console.print(show_parked(parked))


def _destination_row(name: str, status: Status, is_test: bool) -> tuple[str, str, str]:
    standing = next((s for s in status.standings if s.name == name), None)
    everything = next((s for s in status.standings if s.name == "*"), None)
    held = (standing is not None and standing.held) or (everything is not None and everything.held)
    closed = "test, sent to without go-live" if is_test else "silent"
    live = "live" if standing is not None and standing.live else closed
    return name, f"{live}, on hold" if held else live, _counts(status.deliveries.get(name, {}))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))


def show_parked(parked: Sequence[Mapping[str, Any]]) -> Table:
    """The objects that wait for a person."""
    rows = [(r["outbox_id"], r["destination"], r["kind"], r["error"]) for r in parked]
    title = "parked: `prescreen retry` sends them again, `prescreen cancel ROW` gives one up"
    return _table(title, ("row", "destination", "object", "why"), rows)


def show_recall(affected: Sequence[Affected], settings: Settings, as_json: bool) -> None:
    """The list of what is taken back, for people who look it up in the PACS."""
    if as_json:
        _print_json([asdict(one) for one in affected])
        return
    console = _console()
    rows = [
        (
            number,
            one.accession_number,
            one.patient_id,
            one.study_date,
            one.study_instance_uid,
            "; ".join(f"{name}: {_counts(count)}" for name, count in one.deliveries.items()),
        )
        for number, one in enumerate(affected, start=1)
    ]
    heads = ("no.", "accession number", "patient id", "date", "study", "objects")
    console.print(_table(f"{len(affected)} studies are taken back", heads, rows))
    for destination in settings.destinations:
        if destination.rejection == "none":
            console.print(f"{destination.name} gets no rejection notes: reject them there by hand")


def show_studies(
    studies: Sequence[Mapping[str, Any]], form: Literal["table", "json", "csv"]
) -> None:
    """Print the newest studies."""
    told = _without_patient(list(studies))
    if form == "json":
        _print_json(told)
        return
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([*([told[0].keys()] if told else []), *(row.values() for row in told)])
        return
    if not studies:
        _console().print("no study has been received yet")
        return
    columns = ("last_received_at", "study_instance_uid", "stage", "outcome", "reason")
    rows = [[study.get(column) for column in columns] for study in studies]
    _console().print(_table("studies, newest first", columns, rows))


def show_events(events: Iterable[Event]) -> None:
    """Print events, of whatever study."""
    rows = [(e.event_id, f"{e.at:%Y-%m-%d %H:%M:%S}Z", e.kind, _detail(e.detail)) for e in events]
    _console().print(_table("audit trail", ("event", "at", "what", "detail"), rows))


def show_study(record: StudyRecord, as_json: bool) -> None:
    """Print all that is known of one study."""
    if as_json:
        _print_json(_without_patient(asdict(record)))
        return
    console = _console()
    console.print(f"study {record.study['study_instance_uid']}")
    pending = "none yet" if record.study["jobs"] else "none: nothing of it is to be screened"
    outcome, reason = record.study["outcome"] or pending, record.study["reason"] or ""
    console.print(f"outcome: {outcome} {reason}".rstrip())
    findings = [
        (f["label"], _number(f["probability"]), _number(f["threshold"]), f["state"], f["reason"])
        for f in record.findings
    ]
    if findings:
        columns = ("finding", "probability", "threshold", "state", "reason")
        console.print(_table("findings", columns, findings))
    deliveries = [
        (d["destination"], d["kind"], d["state"], d["attempts"], d["error"])
        for d in record.deliveries
    ]
    if deliveries:
        columns = ("destination", "object", "state", "attempts", "error")
        console.print(_table("deliveries", columns, deliveries))
    events = [(f"{e.at:%H:%M:%S.%f}"[:-3], e.kind, _detail(e.detail)) for e in record.events]
    console.print(_table("audit trail (UTC)", ("at", "event", "detail"), events))


def show_holdings(holdings: Sequence[Holding], as_json: bool) -> None:
    """Print what weights there are."""
    if as_json:
        _print_json([asdict(holding) for holding in holdings])
        return
    columns = ("", "name", "version", "network", "evaluated", "released", "chosen", "problem")
    rows = [
        (
            "in use" if h.in_use else "",
            h.name,
            h.version,
            f"{h.architecture} {h.preset}",
            f"{h.evaluated} of {len(LABELS)}",
            h.released,
            h.chosen,
            h.problem,
        )
        for h in holdings
    ]
    _console().print(_table("weights", columns, rows))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


#: Kept out of the table for people: long, and in `--json` for whoever needs it.
_LONG = frozenset({"sha256", "weights", "transfer_syntax_uid", "sop_class_uid", "worker"})


def _detail(detail: Mapping[str, Any]) -> str:
    shown = {key: value for key, value in detail.items() if key not in _LONG}
    return ", ".join(f"{key} {value}" for key, value in shown.items() if value is not None)


def show_checks(checks: Sequence[Check], as_json: bool) -> None:
    """Print what `check` found."""
    if as_json:
        _print_json([asdict(check) for check in checks])
        return
    rows = [("ok" if check.ok else "WRONG", check.what, check.said) for check in checks]
    _console().print(_table("check", ("", "what", "found"), rows))


def show_complaints(
    complaints: Sequence[Complaint], said: Sequence[str], running: Sequence[str], as_json: bool
) -> None:
    """Print what `doctor` found, and did."""
    if as_json:
        found = [asdict(complaint) for complaint in complaints]
        _print_json({"complaints": found, "repaired": list(said), "running": list(running)})
        return
    console = _console()
    for line in said:
        console.print(line)
    if running:
        console.print(f"running now: {', '.join(running)}")
    if not complaints:
        console.print("nothing wrong was found")
        return
    rows = [(complaint.code, complaint.said, complaint.repair) for complaint in complaints]
    console.print(_table("wrong", ("code", "what", "`--repair`"), rows))
