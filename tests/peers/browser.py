"""Chromium without a screen, driven by its DevTools protocol over a pair of pipes.

The protocol needs no library: JSON messages that end in a zero byte, on descriptors 3 and 4 of the
browser (`--remote-debugging-pipe`).
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

_SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in a container
    "--remote-debugging-pipe",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--window-size=1600,1000",
    "--lang=en-US",
)


class Browser:
    """One page of one browser. Every method returns, or raises TimeoutError or RuntimeError."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        #: what the page wrote on its console as an error, and what it threw
        self.errors: list[str] = []

    def attach(self) -> None:
        """Open a page and listen to it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        size = {"width": 1600, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        """One command of the protocol and its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            answer = self._read(deadline)
            if answer.get("id") == self._last:
                break
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def open(self, url: str) -> None:
        """Go to `url`; errors of the page before are forgotten."""
        self.errors.clear()
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def text(self) -> str:
        """What is written on the page."""
        return str(self.run("document.body ? document.body.innerText : ''") or "")

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """Wait until `condition` is true; its value. TimeoutError with `what` and the errors."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):  # a page that is being replaced
                if value := condition():
                    return value
            time.sleep(0.25)
        said = "; ".join(self.errors[-5:])
        raise TimeoutError(f"{what}; the page says {self.text()[-600:]!r}; {said}")

    def click(self, x: float, y: float, count: int = 1) -> None:
        """Press the left button at (x, y), `count` times as a double click is."""
        for number in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.call(
                    "Input.dispatchMouseEvent",
                    **{"type": kind, "x": x, "y": y, "button": "left", "clickCount": number},
                )

    def picture(self) -> Pixels:
        """The page as it is seen, (rows, columns, 3), RGB."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            return np.asarray(image.convert("RGB"))

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._from], [], [], max(left, 0))
            chunk = os.read(self._from, 1 << 20) if ready else b""
            if not chunk:
                raise TimeoutError("the browser does not answer")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: Mapping[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            detail = parameters["exceptionDetails"]
            thrown = detail.get("exception", {}).get("description", detail.get("text", ""))
            self.errors.append(str(thrown))
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            said = [str(a.get("value", a.get("description", ""))) for a in parameters["args"]]
            self.errors.append(" ".join(said))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """Chromium with a profile of its own in `folder` until the block ends."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    assert binary is not None, "chromium is not installed: apt-get install -y chromium"
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    command = [binary, *_SWITCHES, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    # the browser reads on descriptor 3 and writes on 4
    shell = f'exec "$@" 3<&{to_read} 4>&{from_write}'
    log = (folder / "chromium.log").open("wb")
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *command],
        pass_fds=(to_read, from_write),
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    os.close(to_read)
    os.close(from_write)
    browser = Browser(to_write, from_read)
    try:
        browser.attach()
        yield browser
    finally:
        with contextlib.suppress(Exception):
            os.write(to_write, b'{"id": 1000000, "method": "Browser.close"}\0')
        _end(process)
        os.close(to_write)
        os.close(from_read)
        log.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)
