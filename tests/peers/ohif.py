"""The OHIF viewer before an Orthanc: its files and the archive's DICOMweb behind one origin.

`python -m tests.peers.ohif` fetches the viewer with npm, once, into a cache of the user.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import mimetypes
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

VERSION = "3.12.10"
#: SHA-512 of the package, as npm states it.
INTEGRITY = (
    "0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA=="
)

_CONFIGURATION = """
window.config = {
  routerBasename: null, extensions: [], modes: [], showStudyList: true,
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  maxNumberOfWebWorkers: 1, showErrorDetails: 'always', investigationalUseDialog: {option: 'never'},
  disableConfirmationPrompts: true,
  defaultDataSourceName: 'dicomweb',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
    sourceName: 'dicomweb',
    configuration: {
      friendlyName: 'a PACS', name: 'orthanc',
      wadoUriRoot: '/dicom-web', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web',
      qidoSupportsIncludeField: false, imageRendering: 'wadors', thumbnailRendering: 'wadors',
      enableStudyLazyLoad: true, supportsFuzzyMatching: false, supportsWildcard: true,
      singlepart: 'bulkdata,video,pdf',
    },
  }],
};
"""


def folder() -> Path:
    """Where the viewer's files lie once fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "prescreen" / f"ohif-{VERSION}"


def fetch() -> Path:
    """Fetch the viewer unless it is there. RuntimeError where npm or the package fails."""
    target = folder()
    if (target / "index.html").is_file():
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is missing; install it with: apt-get install -y npm")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        command = [npm, "pack", "--silent", f"@ohif/app@{VERSION}"]
        subprocess.run(command, cwd=work, check=True, timeout=300, stdout=subprocess.DEVNULL)
        package = next(Path(work).glob("*.tgz"))
        digest = hashlib.sha512(package.read_bytes()).digest()
        if base64.b64encode(digest).decode() != INTEGRITY:
            raise RuntimeError(f"{package.name}: is not the package this test was written for")
        with tarfile.open(package) as archive:  # its digest is known: nothing in it surprises
            archive.extractall(work)
        (Path(work) / "package" / "dist").rename(target)
    return target


def require() -> None:
    """End the process with the way out unless the viewer's files are there."""
    if not (folder() / "index.html").is_file():
        sys.exit("missing peer: OHIF; fetch it with: python3 -m tests.peers.ohif (needs npm)")


class _Handler(http.server.BaseHTTPRequestHandler):
    """Files of the viewer; what begins with /dicom-web is asked of the archive."""

    protocol_version = "HTTP/1.1"
    archive = ""
    files = Path()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/dicom-web"):
            self._ask()
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", _CONFIGURATION.encode())
        else:
            self._file(path.lstrip("/"))

    def do_POST(self) -> None:
        self._ask()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page asks for a hundred files."""

    def _file(self, name: str) -> None:
        found = self.files / name
        inside = self.files.resolve() in found.resolve().parents
        if not (inside and found.is_file()):
            found = self.files / "index.html"  # every other address is a page of the viewer
        kind = mimetypes.guess_type(found.name)[0] or "application/octet-stream"
        if found.suffix in (".js", ".mjs"):
            kind = "text/javascript"
        self._answer(200, kind, found.read_bytes())

    def _ask(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        request = urllib.request.Request(self.archive + self.path, data=body, method=self.command)
        for name in ("Accept", "Content-Type"):
            if self.headers.get(name):
                request.add_header(name, self.headers[name])
        # the archive writes absolute addresses into its answers: they shall be ours
        request.add_header("Host", self.headers["Host"])
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                self._answer(answer.status, answer.headers["Content-Type"], answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, "text/plain", error.read())

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        # without these the viewer's workers have no shared memory
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)


@contextlib.contextmanager
def running(archive: str) -> Iterator[str]:
    """The viewer before the archive at `archive` (http://host:port); its own address."""
    files = folder()
    assert (files / "index.html").is_file(), "OHIF is missing: python -m tests.peers.ohif"
    handler = type("Handler", (_Handler,), {"archive": archive, "files": files})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


if __name__ == "__main__":
    print(json.dumps({"ohif": str(fetch())}), file=sys.stdout)
