"""The rules of the house that can be checked: who imports what, what is banned, what is listed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "prescreen"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "train").rglob("*.py")])


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / line for line in listed.splitlines()]


def test_the_import_contracts_hold() -> None:
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("heavy", ["torch", "apscheduler", "alembic", "highdicom"])
def test_what_every_role_imports_is_light(heavy: str) -> None:
    code = (
        "import sys; import prescreen.cli; import prescreen.dicom.receive; "
        f"import prescreen.dicom.send; sys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_room_is_called_by_an_empty_word() -> None:
    banned = re.compile(r"utils?|helpers?|common|core|base|managers?|services?|handlers?")
    assert [path for path in SOURCES if banned.fullmatch(path.stem)] == []


def test_nothing_is_global_and_nothing_is_a_stub() -> None:
    found = []
    for path in SOURCES:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Global):
                found.append(f"{path}:{node.lineno} global")
        found += [f"{path}: {word}" for word in re.findall(r"\b(?:TODO|FIXME|XXX)\b", text)]
        found += [f"{path}: stub" for _ in re.findall(r"NotImplementedError", text)]
    assert found == []


def test_functions_stay_short() -> None:
    long = []
    written = [path for path in SOURCES if "migrations" not in path.parts]  # those list tables
    for path in written:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 80:
                    long.append(f"{path}:{node.lineno} {node.name}: {length} lines")
    assert long == []


def test_tests_are_never_skipped() -> None:
    words = re.compile(r"pytest\.(skip|xfail|importorskip)|mark\.(skip|xfail)")
    here = Path(__file__)
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path != here]
    assert [path for path in tests if words.search(path.read_text())] == []


def test_no_file_names_a_package_registry() -> None:
    hosts = ("pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "deb.debian" + ".org")
    text_files = [p for p in _tracked() if p.suffix not in {".safetensors", ".png"} and p.exists()]
    naming = [
        path
        for path in text_files
        if any(host in path.read_text(errors="ignore") for host in hosts)
    ]
    assert naming == []


def test_constraints_pin_a_torch_that_torchvision_works_with() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert all("/" not in version for version in pins.values()), "a constraint names a place"
    code = (
        "import importlib.metadata as m, torchvision.ops; torchvision.ops.nms; "
        "print(m.version('torch'), m.version('torchvision'))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [pins["torch"], pins["torchvision"]]
