"""docs/admin.md names every command and every reason, and the help has examples that parse."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from prescreen import cli
from prescreen.dicom.reasons import ImageReason
from prescreen.gate import MEANINGS, Reason
from prescreen.study import Outcome

ROOT = Path(__file__).parents[2]
ADMIN = (ROOT / "docs" / "admin.md").read_text()
SOURCES = {path: path.read_text() for path in sorted((ROOT / "prescreen").rglob("*.py"))}

#: Codes that neither the gate nor the reading of files gives, each quoted somewhere in the code.
OTHER = (
    "file_missing",
    "file_damaged",
    "not_finite",
    "duplicate",
    "conflict",
    "another_patient",
    "may_not_reject",
    "too_many_attempts",
    "error",
    "no_answer",
    "not_reached",
    "no_image",
    "rejected",
    "recalled",
    "mask_disagreement",
    "anatomy_not_found",
    "below_release_bar",
    "on_hold",
    "not_in_weights",
    "no_threshold",
)


def commands() -> dict[str, Any]:
    """Every command by the words it is called with, groups included."""
    found: dict[str, Any] = {}

    def walk(command: Any, words: str) -> None:
        found[words] = command
        for name, below in getattr(command, "commands", {}).items():
            walk(below, f"{words} {name}")

    walk(typer.main.get_command(cli.app), "prescreen")
    return found


def section(title: str) -> str:
    """The text under a heading of docs/admin.md, up to the next of its level or above."""
    level = len(title.split()[0])
    _, rest = ADMIN.split(f"\n{title}\n", 1)
    return re.split(rf"\n#{{1,{level}}} ", rest)[0]


@pytest.mark.parametrize("words", sorted(commands()))
def test_every_command_is_in_the_documentation(words: str) -> None:
    name = words.removeprefix("prescreen").strip()
    if name.startswith("audit "):
        assert re.search(rf"`{name.split()[1]}\b", section("## Commands")), name
    else:
        assert f"`prescreen {name}`" in ADMIN or not name, name


@pytest.mark.parametrize("words", [w for w, c in commands().items() if not hasattr(c, "commands")])
def test_every_help_has_an_example_that_parses(words: str) -> None:
    command = commands()[words]
    (example,) = re.findall(r"Example: (prescreen .+)", command.help or "")
    assert example.startswith(words)
    arguments = shlex.split(example.split(" > ")[0])[len(words.split()) :]
    with command.make_context(words, arguments, resilient_parsing=False) as context:
        assert context.params


def test_every_option_has_a_help_text() -> None:
    silent = [
        f"{words} {parameter.name}"
        for words, command in commands().items()
        for parameter in command.params
        if not getattr(parameter, "help", None) and parameter.name != "help"
    ]
    assert silent == []


def test_the_exit_statuses_are_those_of_the_code() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d) \|", section("## Exit status"), re.M)}
    constants = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}
    assert listed == {0} | constants
    assert cli.__doc__ is not None
    assert all(f"{code} " in cli.__doc__ for code in listed)


def test_every_complaint_of_the_doctor_is_documented() -> None:
    source = (ROOT / "prescreen" / "doctor.py").read_text()
    given = set(re.findall(r'Complaint\(\s*"(\w+)"', source)) | {"file_missing", "file_damaged"}
    listed = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]+) \|", DAMAGED, re.M)))
    assert sorted(listed) == sorted(given)


def test_every_outcome_is_documented() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section("## How a study ends").split("###")[0], re.M)
    assert sorted(listed) == sorted(Outcome)


DAMAGED = section("## When the data directory is damaged")


def documented_reasons() -> dict[str, str]:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section("### Reasons"), re.M)
    assert len(rows) == len(dict(rows)), "a reason is listed twice"
    return dict(rows)


def test_the_table_of_reasons_is_that_of_the_code() -> None:
    known = {*map(str, Reason), *map(str, ImageReason), *OTHER}
    assert set(documented_reasons()) == known


def test_the_meanings_are_those_of_the_code() -> None:
    source = (ROOT / "prescreen" / "dicom" / "reasons.py").read_text()
    meanings = {code: text for text, code in re.findall(r'#: (.+)\n    \w+ = "(\w+)"', source)}
    assert set(meanings) == set(ImageReason)
    meanings |= {str(reason): text for reason, text in MEANINGS.items()}
    documented = documented_reasons()
    assert {code: documented[code] for code in meanings} == meanings


def test_the_notices_are_those_of_the_gate() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (yes)? ?\|", section("### Reasons"), re.M)
    assert dict(rows) == {str(r): "yes" if r.calls_for_notice else "" for r in Reason}


def test_every_code_that_the_code_gives_is_listed() -> None:
    given = set()
    for text in SOURCES.values():
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "UnusableImage":
                codes = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "reason")]
                given |= {code.value for code in codes if isinstance(code, ast.Constant)}
    assert given <= set(documented_reasons())
    quoted = "\n".join(SOURCES.values())
    assert [code for code in OTHER if f'"{code}"' not in quoted] == []


FORBIDDEN = re.compile(r"\babsent\b|\bnegative\b|\bnormal\b|\bhealthy\b|clear of", re.I)


def _strings(text: str) -> list[str]:
    """What a module may show: its string literals, docstrings left out."""
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documentation
    ]


def test_no_text_we_show_says_that_all_is_well() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {text!r}"
        for path, source in SOURCES.items()
        for text in _strings(source)
        if FORBIDDEN.search(text)
    ]
    helps = [f"{w}: {c.help}" for w, c in commands().items() if FORBIDDEN.search(c.help or "")]
    assert found + helps == []


@pytest.mark.parametrize("page", ["README.md", "docs/admin.md"])
def test_no_page_says_that_all_is_well(page: str) -> None:
    # the sentences that forbid the words may name them, in quotation marks
    text = re.sub(r"[\"“`][^\"”`\n]*[\"”`]", "", (ROOT / page).read_text())
    text = re.sub("silence never means normal", "", text, flags=re.I)
    assert FORBIDDEN.findall(text) == []
