"""`.ci/audit`: a known flaw fails the checks; that nobody could be asked is said, and does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAW = {"id": "CVE-2026-0001", "fix_versions": ["2.0"]}

# what pip-audit would do, with an answer of the test's choosing
TOOL = """\
#!{python}
import pathlib, sys
answer = {answer!r}
if answer:
    pathlib.Path(sys.argv[sys.argv.index("--output") + 1]).write_text(answer)
sys.exit({status})
"""


def audited(tools: Path, answer: str, status: int) -> subprocess.CompletedProcess[str]:
    """The audit with a pip-audit that gives this answer."""
    (tools / "bin").mkdir()
    (tools / "bin" / "python").symlink_to(sys.executable)
    tool = tools / "bin" / "pip-audit"
    tool.write_text(TOOL.format(python=sys.executable, answer=answer, status=status))
    tool.chmod(0o755)
    return subprocess.run(
        [ROOT / ".ci" / "audit", tools], capture_output=True, text=True, timeout=60, check=False
    )


def told(*packages: Mapping[str, object]) -> str:
    return json.dumps({"dependencies": list(packages)})


GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "1.0", "vulns": [FLAW]}
UNASKED = {"name": "unasked", "skip_reason": "no answer"}


@pytest.mark.parametrize(
    ("answer", "left", "status", "words"),
    [
        ("", 1, 0, "could not ask (offline?)"),
        ("no JSON", 1, 0, "could not ask (offline?)"),
        (told(UNASKED), 0, 0, "of 1 of 1 packages nothing could be asked (offline?)"),
        (told(GOOD, UNASKED), 0, 0, "no known flaw in 1 pinned packages"),
        (told(GOOD), 0, 0, "no known flaw in 1 pinned packages"),
        (told(GOOD, BAD), 1, 1, "bad 1.0: CVE-2026-0001, mended in 2.0"),
    ],
)
def test_a_flaw_fails_and_silence_is_told(
    tmp_path: Path, answer: str, left: int, status: int, words: str
) -> None:
    said = audited(tmp_path, answer, left)
    assert words in said.stdout, said.stderr
    assert said.returncode == status


def test_make_check_asks_and_make_sbom_writes_cyclonedx() -> None:
    makefile = (ROOT / "Makefile").read_text()
    check = makefile.split("\ncheck:")[1].split("\n\n")[0]
    sbom = makefile.split("\nsbom:")[1].split("\n\n")[0]
    assert ".ci/audit" in check
    assert "cyclonedx-py environment" in sbom
