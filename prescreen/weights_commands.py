"""`prescreen weights`: list, verify, import, use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prescreen import node
from prescreen.command import EXIT_WRONG, AsJson, Config, Who, Why, login, settings_of

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The weights: list, verify, import, use."
)


@app.command("list")
def weights_list(config: Config = None, as_json: AsJson = False) -> None:
    """The weights this node has: which are in use, who chose them, what they can answer for.

    Example: prescreen weights list
    """
    from prescreen import shelf, tables

    found = shelf.holdings(settings_of(config))
    tables.show_holdings(found, as_json)
    if any(holding.problem for holding in found if holding.in_use):
        raise typer.Exit(EXIT_WRONG)


@app.command("verify")
def weights_verify(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of weights; none: those in use.")
    ] = None,
    config: Config = None,
) -> None:
    """Check digests and every tensor of weights, and let them look at two pictures.

    Example: prescreen weights verify /srv/weights/txrv
    """
    from prescreen import shelf

    settings = settings_of(config)
    folder = folder or node.weights_dir(settings)
    typer.echo(f"{folder}: {shelf.in_words(shelf.verify(folder))}")


@app.command("import")
def weights_import(
    checkpoint: Annotated[Path, typer.Argument(help="A state dict: .pt, .pth.tar, .safetensors.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make; must not be there.")],
    name: Annotated[str, typer.Option("--name", help="What the weights are called in reports.")],
    licence: Annotated[str, typer.Option("--licence", help="Under which terms they are used.")],
    labels: Annotated[
        str | None, typer.Option("--labels", help="The names of all outputs, in order, by comma.")
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option("--thresholds", help="JSON: name of an output to its threshold.")
    ] = None,
    input_size: Annotated[
        int, typer.Option("--input-size", help="Side of the square they were trained at, pixels.")
    ] = 224,
    config: Config = None,
) -> None:
    """Make a folder of weights out of a DenseNet-121 that the site already has.

    Nothing is in use by that: see `weights use`, and docs/weights.md.

    Example: prescreen weights import state.pt --out txrv --name txrv-all --licence Apache-2.0
    """
    from prescreen import shelf

    brought = shelf.Brought(checkpoint, out, name, licence, labels, thresholds, input_size)
    typer.echo(f"{out}: {shelf.in_words(shelf.bring(settings_of(config), brought))}")


@app.command("use")
def weights_use(
    wanted: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS", help="A folder, a name from `weights list`, shipped, or previous."
        ),
    ],
    why: Why,
    who: Who = "",
    config: Config = None,
) -> None:
    """Choose the weights for studies claimed from now on; the node need not be restarted.

    They are verified and copied first. Back again: `prescreen weights use previous --why …`.

    Example: prescreen weights use /srv/weights/txrv --why "compared on 300 of our studies"
    """
    from prescreen import shelf

    name = shelf.use(settings_of(config), wanted, who or login(), why)
    typer.echo(f"weights {name} are used for studies claimed from now on")
