"""The table for people: each bar with its figure, then the stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import engines


def printed(found: Mapping[str, Any], console: Console) -> None:
    """Print the bars, and what lies behind them."""
    console.print(_bars(found["bars"]))
    console.print(_stages("CPU a study, uncompressed CR of 4 megapixels", found["end_to_end"]))
    console.print(_compressed(found["end_to_end"]["compressed"]))
    console.print(objects(found["objects"]))
    console.print(_stages("Latency of one study on an idle node", found["latency"]))
    console.print(_beside(found))
    console.print(
        "The networks alone", *engines.lines(found["networks"]), sep="\n", highlight=False
    )


def _bars(bars: list[Mapping[str, Any]]) -> Table:
    table = Table("bar", "figure", "asked", "", title="prescreen bench")
    for bar in bars:
        sign = "≥" if bar["at_least"] else "≤"
        word = "met" if bar["met"] else "not met"
        table.add_row(
            bar["name"], f"{bar['value']:.4g} {bar['unit']}", f"{sign} {bar['bar']:g}", word
        )
    return table


def _stages(title: str, part: Mapping[str, Any]) -> Table:
    table = Table("stage", "ms", title=title)
    for stage, spent in part["stages_ms"].items():
        table.add_row(stage, f"{spent:.1f}")
    table.add_section()
    for name in ("own_ms", "networks_ms", "bare_networks_ms", "total_ms", "acknowledged_ms"):
        if name in part:
            table.add_row(name.removesuffix("_ms").replace("_", " "), f"{part[name]:.1f}")
    return table


def _compressed(codings: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(
        "coding", "MB", "open and decode ms", "all own ms", title="Compressed, CPU a study"
    )
    for name, one in codings.items():
        cells = (one["megabytes"], one["open_and_decode_ms"], one["own_ms"])
        table.add_row(name, *(f"{cell:.1f}" for cell in cells))
    return table


def objects(found: Mapping[str, Any]) -> Table:
    """What each object costs, and a study of each preset."""
    table = Table("object", "build ms", "last look ms", title="Objects of one study, CPU")
    for name, cost in found["each"].items():
        table.add_row(name, f"{cost['build_ms']:.1f}", f"{cost['look_ms']:.1f}")
    table.add_section()
    for name, total in found["presets"].items():
        table.add_row(f"{name}, documents alone", f"{total['documents_ms']:.1f}", "")
        table.add_row(f"{name}, all", f"{total['build_ms']:.1f}", f"{total['look_ms']:.1f}")
    return table


def _beside(found: Mapping[str, Any]) -> Table:
    receive, end, memory = found["receive"], found["end_to_end"], found["memory"]
    rows = {
        "node, durable, MB/s": receive["node_mb_s"],
        "storescp, not durable, MB/s": receive["storescp_mb_s"],
        "node, CPU ms a 10 MB instance": receive["cpu_ms_each"]["node"],
        "storescp, CPU ms a 10 MB instance": receive["cpu_ms_each"]["storescp"],
        "sender's own CPU, share of the time": max(receive["sender_busy"].values()),
        "studies a minute, end to end": end["studies_a_minute"],
        "keeping a study's bytes with nothing done to them, CPU ms": end["bytes_alone"]["cpu_ms"],
        "results (built and looked at), ms a study": end["results_ms"],
        "results, share of a study's own CPU": end["results_share_of_own_cpu"],
        "results, share of the time end to end": end["results_share_of_wall_time"],
        "images a minute, bare networks": end["bare_networks_a_minute"],
        "receiver's highest memory, MiB": memory["highest_mib"],
        "bytes in flight, MiB": memory["in_flight_mib"],
    }
    table = Table("beside", "", title="Beside")
    for name, value in rows.items():
        table.add_row(name, f"{value:.4g}")
    return table
