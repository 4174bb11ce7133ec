"""`python -m bench --json FILE`: everything measured side by side in one run, or one part alone."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import end_to_end, engines, memory, objects, receiving
from bench.pictures import CODINGS
from bench.processes import end_in_order
from bench.standing import machine
from bench.table import objects as objects_table
from bench.table import printed

_FULL: dict[str, dict[str, Any]] = {
    "receive": {"instances": 50, "pairs": 5},
    "end_to_end": {"studies": 24, "rounds": 5, "compressed": 8, "alone": 9},
    "objects": {"times": 60},
    "memory": {"associations": 16, "instances": 2},
}
_QUICK: dict[str, dict[str, Any]] = {
    "receive": {"instances": 2, "pairs": 1},
    "end_to_end": {
        "studies": 2,
        "rounds": 1,
        "compressed": 1,
        "alone": 1,
        "codings": {"RLE": CODINGS["RLE"]},
    },
    "objects": {"times": 1},
    "memory": {"associations": 4, "instances": 1},
}
_PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "receive": receiving.measured,
    "end_to_end": end_to_end.measured,
    "objects": objects.measured,
    "memory": memory.measured,
}


@dataclass(frozen=True)
class Bar:
    """One figure that has a bar."""

    name: str
    value: float
    bar: float
    unit: str
    at_least: bool
    met: bool


def main() -> None:
    """Measure, print the table, write the JSON. The exit status says nothing of the bars."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="where the figures are written")
    parser.add_argument("--quick", action="store_true", help="a few studies: that it runs, no more")
    parser.add_argument("--only", choices=_PARTS, help="one part alone, without bars")
    options = parser.parse_args()
    end_in_order()
    plan = _QUICK if options.quick else _FULL
    found: dict[str, Any] = {"machine": machine(), "quick": options.quick}
    with tempfile.TemporaryDirectory(prefix="prescreen-bench-") as folder:
        os.environ["TMPDIR"] = folder  # a child that is killed leaves what it wrote
        for name in [options.only] if options.only else _PARTS:
            found[name] = _PARTS[name](Path(folder) / name, **plan[name])
        found["machine"]["load_average_after"] = os.getloadavg()[0]
        if options.only is None:  # here, for what compiles the networks writes to that folder too
            found["networks"] = _networks(options.quick)
    if options.only is None:
        found["latency"] = found["end_to_end"].pop("latency")
        found["bars"] = [asdict(bar) for bar in _bars(found)]
        printed(found, Console())
    elif options.only == "objects":
        Console().print(objects_table(found["objects"]))
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="ascii")


def _networks(quick: bool) -> dict[str, Any]:
    """The networks alone, in processes that need nothing of the node's but them."""
    weights = Path(__file__).parents[1] / "weights"
    if quick:
        return engines.measured(weights, ("folded",), (1,), 0.01)
    return engines.measured(weights)


def _bars(found: Mapping[str, Any]) -> list[Bar]:
    end, used = found["end_to_end"], found["memory"]
    all_screened = set(end["outcomes"]) == {"screened"}
    own = _at_most("own CPU a study, beyond the networks", end["own_ms"], end_to_end.BAR, "ms")
    if not all_screened:  # a study that is refused on the way costs less than one that is not
        own = Bar(**{**asdict(own), "name": f"{own.name} (not all were screened)", "met": False})
    ratio = found["receive"]["ratio"]
    rate = "rate of receiving, against storescp"
    growth = "growth in times the bytes in flight"
    built = found["objects"]["presets"]["modern"]["build_ms"]
    return [
        Bar(rate, ratio, receiving.BAR, "", at_least=True, met=ratio >= receiving.BAR),
        own,
        _at_most("CPU of building a study's results (modern)", built, objects.BAR, "ms"),
        _at_most("receiver at rest", used["at_rest_mib"], memory.REST_BAR, "MiB"),
        _at_most(growth, used["growth_ratio"], memory.GROWTH_BAR, ""),
    ]


def _at_most(name: str, value: float, bar: float, unit: str) -> Bar:
    return Bar(name, value, bar, unit, at_least=False, met=value <= bar)


if __name__ == "__main__":
    main()
