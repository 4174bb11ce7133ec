"""A pytest plugin that fails a test after which a canary was seen where no patient may be.

Looked at are the texts of all errors of ours, whatever is logged at any level, the details of audit
events, figures, messages for an audit record repository, standard output and error of the test and
of every Python it starts, and each file it leaves behind that is no DICOM file, no database and no
manifest of a result.
"""

from __future__ import annotations

import functools
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from prescreen import errors, metrics, syslog
from prescreen.errors import trace_of
from prescreen.store import audit
from tests import canaries

#: The marker of a test that rightly shows a patient, with the reason.
MARKER = "shows_patients"
#: Names of what carries patients because it must: the database with its parts, and the manifest
#: that lies beside each result.
_KEEPS = ("prescreen.db", "manifest.json")
_MOST = 8 << 20  # bytes of a file that are looked at
_LONG = 1 << 18  # of one that is looked through first: weights


class Watch:
    """What was seen since the last test, and the folders made since the last module."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.folders: list[tuple[Path, bool]] = []
        #: Whether the test that runs now may show a patient, and is the last of its module.
        self.may_show = self.module_ends = False

    def hear(self, where: str, text: str | bytes | None) -> None:
        """Look at what was told."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        self.seen += [f"{where}: {line}" for line in canaries.seen(text or "")]

    def since_last(self) -> list[str]:
        """What was seen since this was asked last; at the end of a module, in its files too."""
        if self.may_show:
            self.seen = []
        if self.module_ends:
            self._look()
        seen, self.seen = self.seen, []
        return seen

    def _look(self) -> None:
        made, self.folders = self.folders, []
        for folder, may_show in made:
            if not may_show:
                self.look_into(folder)

    def look_into(self, folder: Path) -> None:
        """Look at every file of a folder, now and not again."""
        self.folders = [made for made in self.folders if made[0] != folder]
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                self._look_at(path, folder)

    def _look_at(self, path: Path, folder: Path) -> None:
        try:
            with path.open("rb") as file:
                content = file.read(_MOST)
        except OSError:
            return
        if len(content) > _LONG and not canaries.may_be_in(content):
            return
        if not _may_keep(path, content):
            self.hear(f"{folder.name}/{path.relative_to(folder)}", content)


WATCH = Watch()


def _may_keep(path: Path, content: bytes) -> bool:
    is_dicom = content[128:132] == b"DICM"
    is_sent = is_dicom or path.suffix == ".dcm"  # what tests make to be sent, damaged or not
    return is_sent or path.name.startswith(_KEEPS) or content.startswith(b"SQLite format 3")


class _Listener(logging.Handler):
    """Hears what is logged, a traceback as the node tells it."""

    def emit(self, record: logging.LogRecord) -> None:
        WATCH.hear("log", record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            WATCH.hear("log", trace_of(record.exc_info[1]))


def _after(owner: Any, name: str, look: Callable[..., None]) -> None:
    """Let `look` see the result and arguments of each call."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def watched(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        look(result, *arguments, **options)
        return result

    setattr(owner, name, watched)


def _error(_: None, error: Exception, *told: Any, **more: Any) -> None:
    WATCH.hear(type(error).__name__, " ".join(map(str, told)))


def _event(_: int, connection: Any, kind: str, *more: Any, detail: Any = None, **rest: Any) -> None:
    WATCH.hear(f"audit {kind}", json.dumps(detail, ensure_ascii=False, default=str))


def _ended(_: None, ended: subprocess.CompletedProcess[Any], *more: Any, **rest: Any) -> None:
    if ended.args and str(ended.args[0]) == sys.executable:
        for where in ("stdout", "stderr"):
            WATCH.hear(where, getattr(ended, where))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}(why): what it tells has a patient in it")
    _after(errors.PrescreenError, "__init__", _error)
    _after(audit, "append", _event)
    _after(metrics.Sight, "exposition", lambda text, *_: WATCH.hear("figures", text))
    _after(metrics.Sight, "hindrances", lambda told, *_: WATCH.hear("hindrances", "\n".join(told)))
    _after(syslog, "message", lambda text, *_: WATCH.hear("audit message", text))
    _after(subprocess.CompletedProcess, "__init__", _ended)
    _after(pytest.CaptureFixture, "readouterr", _said)
    _after(pytest.TempPathFactory, "mktemp", lambda path, *_, **__: _made(path))
    logger = logging.getLogger("prescreen")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(_Listener())


def _said(said: tuple[str, str], *_: Any) -> None:
    WATCH.hear("said", "\n".join(map(str, said)))


def _made(path: Path) -> None:
    WATCH.folders.append((path, WATCH.may_show))


@pytest.fixture(autouse=True)
def _folder(request: pytest.FixtureRequest) -> Iterator[None]:
    """Look into the folder of a test when all that writes there is over, before it is removed."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None and not WATCH.may_show:
        WATCH.look_into(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    WATCH.may_show = item.get_closest_marker(MARKER) is not None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    WATCH.module_ends = nextitem is None or nextitem.path != item.path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "teardown":
        for title, text in report.sections:
            if not title.startswith("Captured log"):  # pytest's, with texts that ours leave out
                WATCH.hear(title, text)
        seen = WATCH.since_last()
        if seen:
            report.outcome = "failed"
            report.longrepr = "a patient can be read in\n" + "\n".join(dict.fromkeys(seen[:50]))
    return report
