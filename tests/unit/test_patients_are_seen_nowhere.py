"""tests/watch.py finds what is planted; every data set of the tests has canaries in it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import canaries

ROOT = Path(__file__).parents[2]

#: Tests that each let a canary out in one way, as the name says, and two that may.
LEAKS = """
import logging, subprocess, sys
import pytest
from prescreen.errors import StoreError

SAY = "import sys; print('CANARY^NAME', file=sys.stderr)"

def test_error():
    with pytest.raises(StoreError):
        raise StoreError("of CANARYID")

def test_log():
    logging.getLogger("prescreen.here").debug("came: %s", "Canary^Bird")

def test_traceback():
    try:
        raise StoreError("born 19171107")
    except StoreError:
        logging.getLogger("prescreen.here").exception("it went wrong")

def test_print():
    print("born 1917-11-07")

def test_child():
    subprocess.run([sys.executable, "-c", SAY])

def test_captured_child():
    subprocess.run([sys.executable, "-c", SAY], capture_output=True)

def test_read_from_capfd(capfd):
    print("CANARYACC")
    capfd.readouterr()

def test_quiet(tmp_path):
    (tmp_path / "sent.dcm").write_bytes(b"CANARY^NAME")
    logging.getLogger("prescreen.here").info("2.25.119171107 came")

def test_file(tmp_path):
    (tmp_path / "core.1").write_bytes(bytes(9) + b"CANARY^NAME")
    (tmp_path / "core.2").write_bytes(bytes(1 << 20) + "WAŁĘSA".encode())

@pytest.mark.shows_patients("a name is what it is asked for")
def test_may():
    print("CANARY^NAME")
"""
FOUND = {
    *("error", "log", "traceback", "print", "child", "captured_child", "read_from_capfd", "file"),
}


@pytest.mark.shows_patients("of what it plants")
def test_what_is_planted_is_found(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.watch"]\n')
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_leaks.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    ).stdout
    found = set(re.findall(r"^ERROR test_leaks.py::test_(\w+)", said, re.M))
    assert found == FOUND, said
    assert "test_file0/core.1: " in said and "test_file0/core.2: " in said
    assert f"{len(FOUND) + 2} passed" in said


PATHS = [path for folder in ("tests", "bench") for path in (ROOT / folder).rglob("*.py")]
SOURCES = {path: ast.parse(path.read_text()) for path in sorted(PATHS)}
#: Who reads the files of pydicom-data, and who makes up patients in their stead.
MADE_HERE = ROOT / "tests" / "canaries.py"


def _calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            yield called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def test_files_of_pydicom_are_read_with_canaries_alone() -> None:
    readers = {"get_testdata_file", "get_testdata_files", "get_charset_files"}
    found = [path for path, tree in SOURCES.items() if readers & set(_calls(tree))]
    assert found == [MADE_HERE]


def test_every_data_set_that_is_made_is_planted() -> None:
    """A function that makes a data set with a SOP Instance UID of its own calls `plant`."""
    missing = []
    for path, tree in SOURCES.items():
        functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
        missing += [
            f"{path.name}: {function.name}"
            for function in functions
            if _makes_an_instance(function) and "plant" not in set(_calls(function))
        ]
    assert missing == []


def _makes_an_instance(function: ast.FunctionDef) -> bool:
    named = {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)}
    made = {"Dataset", "FileDataset"} & set(_calls(function))
    return bool(made) and "SOPInstanceUID" in named and "file_meta" in named


WHO = {
    *("PatientName", "PatientID", "AccessionNumber", "OtherPatientIDs"),
    *("patient_name", "patient_id", "accession_number"),
}


def _given(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Attribute of a patient or order, and the text that a test gives it."""
    for node in ast.walk(tree):
        pairs: list[tuple[ast.AST, ast.AST]] = []
        if isinstance(node, ast.Call):
            pairs = [(ast.Constant(k.arg), k.value) for k in node.keywords]
        elif isinstance(node, ast.Dict):
            pairs = [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key]
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                lists = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs += (
                    zip(target.elts, node.value.elts, strict=False)  # type: ignore[attr-defined]
                    if lists
                    else [(target, node.value)]
                )
        for key, value in pairs:
            name = key.attr if isinstance(key, ast.Attribute) else getattr(key, "value", None)
            text = getattr(value, "value", None)
            if name in WHO and isinstance(text, str | bytes) and text.strip():
                yield str(name), text if isinstance(text, str) else text.decode("latin-1")


def test_patients_that_tests_make_up_are_canaries_too() -> None:
    found = [
        f"{path.name}: {name} = {text!r}"
        for path, tree in SOURCES.items()
        for name, text in _given(tree)
        if not canaries.seen(text)
    ]
    assert found == []
