"""The commands. The only place, with `node`, that wires the parts together.

Exit status: 0 done; 1 something is not as it should be (a check failed, the chain is broken, a
study got no answer); 2 the command line, the settings or the weights are wrong; 3 the data
directory, the database or the output cannot be used; 4 the peer could not be reached or refused.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from prescreen import __version__, audit_commands, node, weights_commands
from prescreen.command import (
    EXIT_PEER,
    EXIT_SETTINGS,
    EXIT_STORE,
    EXIT_WRONG,
    MOST,
    AsJson,
    Config,
    Name,
    Reason,
    Study,
    Who,
    Why,
    login,
    settings_of,
)
from prescreen.errors import (
    DeliveryError,
    NotThere,
    PrescreenError,
    SettingsError,
    StoreError,
    WeightsError,
)
from prescreen.store import quarantine, reader
from prescreen.store.destinations import Destinations
from prescreen.store.queue import utc_now
from prescreen.store.recalls import Recalls


class InOrder(TyperGroup):
    """Commands as they stand in this file: the daily ones first."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


app = typer.Typer(
    name="prescreen",
    cls=InOrder,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    help="Pre-screening of chest radiographs beside the PACS. Not a medical device.",
)
app.add_typer(audit_commands.app, name="audit")
app.add_typer(weights_commands.app, name="weights")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"prescreen {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


# --- the node --------------------------------------------------------------------------------


@app.command()
def serve(
    config: Config = None,
    only: Annotated[
        str | None, typer.Option("--only", help="Run one role alone: receive, screen or deliver.")
    ] = None,
) -> None:
    """Run the node until SIGTERM: receive, screen, deliver, and look after the house.

    Example: prescreen serve --config /etc/prescreen/prescreen.toml
    """
    settings = settings_of(config)
    if only is not None:
        node.run_role(only, settings)
    else:
        node.supervise(settings, config)


@app.command()
def screen(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…", help="Part 10 files or folders of them.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Where report and captures are written.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line on standard output.")
    ] = False,
    config: Config = None,
) -> None:
    """Screen files without a network: the gate is applied, the node's scope is not.

    With the weights that are shipped; with those of a node where its --config is given.
    Example: prescreen screen /my/files --out results --json
    """
    from prescreen import files

    if "" in paths:
        raise SettingsError("a path is empty: give files or folders; the folder you are in is `.`")
    if sys.stdout is None:
        raise SettingsError("standard output is closed: a line for each file is written there")
    settings = settings_of(config)
    own = settings.weights_dir or node.shipped_weights()
    weights = own if config is None else node.weights_dir(settings)
    named = [Path(path) for path in paths]
    files.screen(named, out, settings, weights, as_json=as_json, write=typer.echo)


@app.command()
def demo(
    paths: Annotated[
        list[Path] | None, typer.Argument(readable=False, help="Your own files instead.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where it all is left to be looked at.")] = (
        Path("demo-out")
    ),
) -> None:
    """Send real radiographs through a node into a small PACS, and show what the PACS got.

    Example: prescreen demo /my/files --out demo-out
    """
    from prescreen import demonstration

    if not demonstration.run(paths or [], out, Console()):
        raise typer.Exit(EXIT_WRONG)


@app.command()
def status(
    config: Config = None,
    as_json: AsJson = False,
    require_running: Annotated[
        bool, typer.Option("--running", help="Exit status 1 unless all three roles run.")
    ] = False,
) -> None:
    """How the node stands: what waits, what was answered, what is on its way, what is parked.

    Example: prescreen status --config prescreen.toml
    """
    from prescreen import tables

    settings = settings_of(config)
    store = node.open_store(settings)
    tables.show_status(
        reader.status(store.engine, utc_now()),
        reader.parked(store.engine),
        store.spool.free(),
        quarantine.counted(store.spool),
        settings,
        as_json,
    )
    if require_running:
        _require_running(settings.data_dir)


def _require_running(data_dir: Path) -> None:
    from prescreen.store.guard import running
    from prescreen.supervisor import ROLES

    held = running(data_dir, ROLES)
    if missing := [role for role in ROLES if role not in held]:
        typer.echo(f"{data_dir}: does not run: {', '.join(missing)}", err=True)
        raise typer.Exit(EXIT_WRONG)


@app.command()
def retry(
    number: Annotated[
        int | None,
        typer.Argument(min=1, max=MOST, help="A job that failed; none: every parked object."),
    ] = None,
    destination: Annotated[
        str | None, typer.Option("--destination", help="Only what is parked for this one.")
    ] = None,
    who: Who = "",
    why: Why = "",
    config: Config = None,
) -> None:
    """Try again what was parked, or screen a failed job's study once more.

    Example: prescreen retry --destination main --why "PACS storage was extended"
    """
    settings = settings_of(config)
    if number is not None and destination is not None:
        raise SettingsError(
            "a failed job has no destination: give a job or --destination, not both"
        )
    store = node.store_of_a_node(settings)
    who = who or login()
    if number is not None:
        job = store.queue.retry_failed(number, who, why)
        typer.echo(f"job {job} screens the study of failed job {number} again")
        return
    if destination is not None:
        settings.destination(destination)
    unparked = store.outbox.unpark(who, why, destination=destination)
    typer.echo(f"{unparked.due} parked objects are due again")
    for study, job in unparked.overtaken.items():
        typer.echo(
            f"study {study}: what was parked is not sent: job {job} answered the study anew, and "
            f"that was delivered; `prescreen rescreen {study}` makes the report once more"
        )


@app.command()
def cancel(
    why: Reason,
    row: Annotated[
        int | None,
        typer.Argument(min=1, max=MOST, help="A parked object, by its row in `status`."),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option(
            "--destination", help="All that is parked for it; if not in the settings, all."
        ),
    ] = None,
    who: Who = "",
    config: Config = None,
) -> None:
    """Give up what is parked, or what waits for a destination that is no longer in the settings.

    It is not sent any more. Example: prescreen cancel 17 --why "deleted in the PACS on purpose"
    """
    settings = settings_of(config)
    if (row is None) == (destination is None):
        raise SettingsError("give the row of a parked object or --destination, one of the two")
    store = node.store_of_a_node(settings)
    is_gone = destination not in (None, *(known.name for known in settings.destinations))
    number = store.outbox.give_up(
        who or login(), why, outbox_id=row, destination=destination, is_gone=is_gone
    )
    typer.echo(f"{number} objects are cancelled")


@app.command()
def rescreen(
    study: Study,
    why: Reason,
    who: Who = "",
    config: Config = None,
) -> None:
    """Screen a study again; the new report names the one it replaces.

    Example: prescreen rescreen 2.25.123 --why "wrong side marker corrected"
    """
    store = node.store_of_a_node(settings_of(config))
    uid = str(reader.show(store.engine, study).study["study_instance_uid"])
    job = store.queue.rescreen(uid, who or login(), why)
    typer.echo(f"job {job} screens study {uid} again")


@app.command()
def recall(
    weights: Annotated[
        str, typer.Option("--weights", help="Digest of the weights (sha256), 8 digits at least.")
    ],
    since: Annotated[
        str, typer.Option("--since", help="Results of studies claimed since then: 2026-01-31.")
    ],
    why: Reason,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the list; nothing is changed.")
    ] = False,
    who: Who = "",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Take back what withdrawn weights said: cancel, reject in the PACS, replace by notices.

    Prints the studies as a list for PACSs that know no rejection notes. Cut off, it goes on where
    it stopped when it is given again.

    Example: prescreen recall --weights 3a7bd3e2360a --since 2026-01-31 --why "wrong threshold"
    """
    from prescreen import recalling, tables

    settings = settings_of(config)
    asked = recalling.asked(weights, since)
    recalls = Recalls(node.store_of_a_node(settings).engine)
    if dry_run:
        tables.show_recall(recalls.affected(asked.sha256, asked.since), settings, as_json)
        return
    found = recalls.recall(asked.sha256, asked.since, who or login(), why)
    tables.show_recall(found, settings, as_json)


@app.command("go-live")
def go_live(destination: Name, why: Reason, who: Who = "", config: Config = None) -> None:
    """Open a destination: results of studies claimed from now on are sent to it.

    Example: prescreen go-live main --who "Dr. A" --why "evaluation agreed on"
    """
    settings = settings_of(config)
    settings.destination(destination)
    store = node.open_store(settings)
    Destinations(store.engine).go_live(destination, who or login(), why)
    typer.echo(f"{destination} is live for studies claimed from now on")


@app.command("go-silent")
def go_silent(destination: Name, why: Reason, who: Who = "", config: Config = None) -> None:
    """Close a destination: results of studies claimed from now on are not sent to it.

    Example: prescreen go-silent main --why "evaluation is over"
    """
    settings = settings_of(config)
    settings.destination(destination)
    store = node.open_store(settings)
    Destinations(store.engine).go_silent(destination, who or login(), why)
    typer.echo(f"{destination} is silent for studies claimed from now on; `hold` stops the rest")


@app.command()
def erase(
    study: Study,
    why: Reason,
    who: Who = "",
    config: Config = None,
) -> None:
    """Forget the patient of a study: identity, answers, files. The audit chain stays whole.

    What the PACS has is deleted there. Example: prescreen erase 2.25.123 --why "asked to"
    """
    from prescreen.store.retention import Retention

    store = node.store_of_a_node(settings_of(config))
    uid = str(reader.show(store.engine, study).study["study_instance_uid"])
    paths = Retention(store.engine).erase(uid, who or login(), why)
    for path in paths:
        store.spool.remove(path)
    typer.echo(f"study {uid} is erased: {len(paths)} files and folders removed")


@app.command()
def hold(
    destination: Annotated[
        str | None, typer.Option("--destination", help="Only this one; default: all.")
    ] = None,
    finding: Annotated[
        str | None, typer.Option("--finding", help="Stop reporting this finding instead.")
    ] = None,
    who: Who = "",
    why: Why = "",
    config: Config = None,
) -> None:
    """Stop sending at once; receiving and screening go on.

    Example: prescreen hold --why "two captures looked wrong"
    """
    _switch(config, destination, finding, who, why, hold=True)


@app.command()
def release(
    destination: Annotated[
        str | None, typer.Option("--destination", help="Only this one; default: all.")
    ] = None,
    finding: Annotated[
        str | None, typer.Option("--finding", help="Report this finding again.")
    ] = None,
    who: Who = "",
    why: Why = "",
    config: Config = None,
) -> None:
    """Resume sending what `hold` stopped.

    Example: prescreen release --why "looked into, see ticket 12"
    """
    _switch(config, destination, finding, who, why, hold=False)


def _switch(
    config: Path | None,
    destination: str | None,
    finding: str | None,
    who: str,
    why: str,
    *,
    hold: bool,
) -> None:
    settings = settings_of(config)
    if destination is not None and finding is not None:
        raise SettingsError("--finding counts for every destination: give one of the two, not both")
    if destination is not None:
        settings.destination(destination)
    switches = Destinations(node.store_of_a_node(settings).engine)
    who, said = who or login(), "held" if hold else "released"
    if finding is not None:
        (switches.hold_finding if hold else switches.release_finding)(finding, who, why)
        typer.echo(f"finding {finding} is {said}")
        return
    (switches.hold if hold else switches.release)(destination, who, why)
    typer.echo(f"{destination or 'every destination'} is {said} (the node on {settings.data_dir})")
    for standing in switches.standings():
        if standing.held and not hold:
            name = "every destination" if standing.name == "*" else standing.name
            typer.echo(f"{name} is still held (by {standing.who}: {standing.why or 'no reason'})")


@app.command()
def echo(destination: Name, config: Config = None) -> None:
    """Ask a destination by C-ECHO whether it is there and knows this node.

    Example: prescreen echo main
    """
    from prescreen.dicom.send import echo as ask

    settings = settings_of(config)
    seconds = ask(settings.destination(destination), settings.receive.ae_title)
    typer.echo(f"{destination} answered within {seconds * 1000:.0f} ms")


@app.command()
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Check settings, weights, disk and destinations, and say who may come in.

    Example: prescreen check --config prescreen.toml
    """
    from prescreen import checks, tables

    results = checks.run(settings_of(config), config)
    tables.show_checks(results, as_json)
    if not all(result.ok for result in results):
        raise typer.Exit(EXIT_WRONG)


@app.command()
def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended; the node must be stopped.")
    ] = False,
    backup_dir: Annotated[
        Path | None,
        typer.Option("--backup", help="A backup to repair from; default: the last one."),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Find and name what is wrong with the data directory. Exit status 1 while something is.

    Example: prescreen doctor --repair --backup /backup/prescreen
    """
    from prescreen import doctor as examination
    from prescreen import mending, tables

    settings = settings_of(config)
    said = mending.repair(settings, backup_dir).said if repair else []
    complaints = examination.look(settings)
    tables.show_complaints(complaints, said, examination.roles_running(settings), as_json)
    if complaints:
        raise typer.Exit(EXIT_WRONG)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Outside the data directory; may be used again.")],
    config: Config = None,
) -> None:
    """Copy database and spool into a folder while the node runs.

    Example: prescreen backup /backup/prescreen
    """
    from prescreen import backup as copies

    made = copies.make(settings_of(config), folder)
    typer.echo(
        f"{made.folder}: {made.files} files, {made.copied / 1e6:.1f} MB of them new, "
        f"audit up to event {made.event_id}"
    )
    if made.only_here:
        typer.echo(
            f"{made.only_here} files are in the backup alone: the data directory should have them; "
            "see `prescreen doctor`"
        )
        raise typer.Exit(EXIT_WRONG)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="What `prescreen backup` wrote.")],
    config: Config = None,
) -> None:
    """Bring a backup back onto a data directory without a database; sending is on hold then.

    Example: prescreen restore /backup/prescreen
    """
    from prescreen import backup as copies

    for line in copies.restore(settings_of(config), folder).said:
        typer.echo(line)


# --- running a command -----------------------------------------------------------------------

_STATUS: tuple[tuple[type[PrescreenError], int], ...] = (
    (SettingsError, EXIT_SETTINGS),
    (WeightsError, EXIT_SETTINGS),
    (NotThere, EXIT_SETTINGS),
    (StoreError, EXIT_STORE),
    (DeliveryError, EXIT_PEER),
)


def main() -> None:
    """The `prescreen` command: an error of ours is one sentence and an exit status.

    What it writes is for its user and group: patients stand in the database, results and backups.
    """
    os.umask(os.umask(0o077) | 0o027)
    try:
        app()
    except PrescreenError as error:
        typer.echo(f"prescreen: {error}", err=True)
        sys.exit(next((code for kind, code in _STATUS if isinstance(error, kind)), EXIT_WRONG))
    except BrokenPipeError:
        _say_no_more()  # the reader of a pipe went away
    except OSError as error:
        _say_no_more()
        where = error.filename or "what it had to say could not be written"
        typer.echo(f"prescreen: {where}: {error.strerror or error}", err=True)
        sys.exit(EXIT_STORE)


def _say_no_more() -> None:
    """Nothing more to standard output, also not at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
