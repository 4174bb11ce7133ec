"""What the commands have in common: options, settings, and how they end."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Annotated

import typer

from prescreen import logs, supervisor
from prescreen.settings import Settings, load

EXIT_WRONG = 1
EXIT_SETTINGS = supervisor.EXIT_SETTINGS
EXIT_STORE = 3
EXIT_PEER = 4

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="PRESCREEN_CONFIG", help="The settings file (TOML)."),
]


def legible(text: str) -> str:
    """The text; bytes that are no UTF-8, as from a Latin-1 terminal, as `\\xe4`.

    A switch shall not fail for an umlaut in its reason.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


Who = Annotated[
    str,
    typer.Option("--who", help="Who decides this; default: the login name.", callback=legible),
]
Why = Annotated[str, typer.Option("--why", help="Why; stands in the audit log.", callback=legible)]


def _said(why: str) -> str:
    if not why.strip():
        raise typer.BadParameter("say why: it stands in the audit log for whoever asks later")
    return legible(why)


#: Of what is not to be done without one.
Reason = Annotated[str, typer.Option("--why", help="Why; stands in the audit log.", callback=_said)]
Study = Annotated[
    str, typer.Argument(help="Study Instance UID, accession number or job.", callback=legible)
]
#: What SQLite numbers rows with.
MOST = 2**63 - 1
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Name = Annotated[str, typer.Argument(metavar="DESTINATION", help="Its name in the settings.")]


def login() -> str:
    try:
        return legible(getpass.getuser())
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def settings_of(config: Path | None) -> Settings:
    settings = load(config)
    logs.configure(settings.log)
    return settings
