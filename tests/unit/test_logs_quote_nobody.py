"""A foreign error's text, which may quote a data set, is in no traceback that is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prescreen.errors import PrescreenError, trace_of

SCRIPT = """
import logging, sys, threading
from prescreen import logs
from prescreen.errors import StoreError
from prescreen.settings import Log

logs.configure(Log(format=sys.argv[1]))

def parse():
    raise ValueError("Canary^Bird")

def keep():
    try:
        parse()
    except ValueError as error:
        raise StoreError("the file cannot be kept") from error

if sys.argv[2] == "logged":
    try:
        keep()
    except StoreError:
        logging.getLogger("here").exception("it went wrong")
elif sys.argv[2] == "thread":
    thread = threading.Thread(target=keep)
    thread.start()
    thread.join()
elif sys.argv[2] == "warned":
    import warnings
    warnings.warn("Invalid value: Canary^Bird")
    keep()
elif sys.argv[2] == "lost":
    class Lost:
        def __del__(self):
            parse()
    Lost()
else:
    keep()
"""


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("way", ["logged", "thread", "main", "lost", "warned"])
def test_a_traceback_has_the_place_and_not_the_text(form: str, way: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT, form, way],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = said.stdout + said.stderr
    assert "Canary" not in told
    assert "ValueError" in told
    assert "in parse" in told
    assert way == "lost" or "the file cannot be kept" in told
    assert said.returncode == (1 if way in ("main", "warned") else 0)


def test_ours_and_the_systems_texts_are_told() -> None:
    assert "say this" in trace_of(PrescreenError("say this"))
    assert "No such file" in trace_of(FileNotFoundError(2, "No such file"))
    assert "Canary" not in trace_of(KeyError("Canary^Bird"))
