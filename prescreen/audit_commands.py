"""`prescreen audit`: ask the audit log."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from prescreen import node
from prescreen.command import EXIT_WRONG, MOST, AsJson, Config, Study, settings_of
from prescreen.errors import SettingsError
from prescreen.store import audit as chain
from prescreen.store import reader
from prescreen.store.queue import utc_now

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Ask the audit log.")


@app.command("list")
def audit_list(
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=MOST, help="How many, newest first.")
    ] = 50,
    config: Config = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
) -> None:
    """The newest studies and what became of them.

    Example: prescreen audit list --limit 20
    """
    from prescreen import tables

    if as_json and as_csv:
        raise SettingsError("--json and --csv: give one of the two, not both")
    store = node.store_of_a_node(settings_of(config))
    form: Literal["table", "json", "csv"] = "json" if as_json else "csv" if as_csv else "table"
    tables.show_studies(reader.studies(store.engine, limit), form)


@app.command("show")
def audit_show(
    study: Study,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Everything that happened to one study.

    Example: prescreen audit show 2.25.123
    """
    from prescreen import tables

    store = node.store_of_a_node(settings_of(config))
    tables.show_study(reader.show(store.engine, study), as_json)


@app.command("verify")
def audit_verify(
    checkpoints: Annotated[
        Path | None,
        typer.Option("--checkpoints", help="Remembered places; default: those beside the database"),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="Signed checkpoints, written by `audit checkpoint`."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="The public key that signed them; default: this node's."),
    ] = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a line.")] = False,
) -> None:
    """Recompute the chain and name the first altered row.

    Example: prescreen audit verify --against /backup/signed.jsonl
    """
    from prescreen import checkpoints as signed
    from prescreen import housekeeping

    settings = settings_of(config)
    store = node.store_of_a_node(settings)
    if checkpoints is not None and not checkpoints.is_file():
        raise SettingsError(f"--checkpoints {checkpoints}: cannot be read: there is no such file")
    path = checkpoints or settings.data_dir / housekeeping.CHECKPOINTS
    points = housekeeping.read_checkpoints(path)
    if against is not None:
        points += signed.read(against, key or signed.public_key(settings.data_dir))
    verdict = chain.verify(store.engine, points)
    if as_json:
        typer.echo(json.dumps({"whole": verdict.whole, **asdict(verdict)}))
    if not verdict.whole:
        typer.echo(f"event {verdict.first_altered}: {verdict.problem}", err=True)
        raise typer.Exit(EXIT_WRONG)
    if not as_json:
        typer.echo(f"the chain is whole: {verdict.events} events")


@app.command("checkpoint")
def audit_checkpoint(
    file: Annotated[Path, typer.Argument(help="Appended to; best off this machine.")],
    config: Config = None,
) -> None:
    """Sign the end of the chain and append it to a file that the node's owner cannot rewrite.

    Example: prescreen audit checkpoint /mnt/elsewhere/signed.jsonl
    """
    from prescreen import checkpoints as signed

    settings = settings_of(config)
    point = chain.checkpoint(node.store_of_a_node(settings).engine)
    public = signed.append(settings.data_dir, file, point, utc_now())
    typer.echo(f"event {point.event_id} is signed by {public}: keep that key with the file")


@app.command("export")
def audit_export(
    form: Annotated[
        Literal["json", "csv", "table"],
        typer.Option("--format", help="json (a line each), csv, or a table for people."),
    ] = "json",
    after: Annotated[
        int, typer.Option("--after", min=0, max=MOST, help="Only events after this one.")
    ] = 0,
    config: Config = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The same as --format json, which is the default.")
    ] = False,
) -> None:
    """Print all events, for another system.

    Example: prescreen audit export --format csv > events.csv
    """
    from prescreen import tables

    if as_json and form != "json":
        raise SettingsError(f"--json and --format {form}: give one of the two, not both")
    store = node.store_of_a_node(settings_of(config))
    if form == "table":
        tables.show_events(chain.events(store.engine, after=after))
        return
    for line in chain.export(store.engine, form, after):
        typer.echo(line.rstrip("\n"))
