"""A headless Chromium driven over its own protocol, through two pipes: no driver, no port, no package.

`--remote-debugging-pipe` reads commands from descriptor 3 and writes answers and events to descriptor 4, each a JSON
object ended by a zero byte. A page's errors, console and requests are kept as they happen.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REMEDY = "no Chromium here; `apt install chromium`, or put chromium or google-chrome on PATH"
# GPU off: the machine of a test has none; no sandbox: containers run as root
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--mute-audio")


def find_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@dataclass(kw_only=True)
class Page:
    """One tab: what it was told and what happened in it."""

    process: subprocess.Popen[bytes]
    read_fd: int
    write_fd: int
    session: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    _buffer: bytes = b""
    _next_id: int = 0

    def send(self, method: str, timeout_s: float = 120, **parameters: Any) -> dict[str, Any]:
        """Run one command and return its result; events that come meanwhile are kept."""
        self._next_id += 1
        message: dict[str, Any] = {"id": self._next_id, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_fd, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self.receive(deadline)
            if answer.get("id") != self._next_id:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                return dict(answer["result"])

    def wait_for(self, method: str, timeout_s: float = 120) -> dict[str, Any]:
        """Return the first event of this name, among the kept ones or to come."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        while True:
            for event in self.events[seen:]:
                if event.get("method") == method:
                    return event
            seen = len(self.events)
            self.events.append(self.receive(deadline))

    def receive(self, deadline: float) -> dict[str, Any]:
        """Return the next message of the browser."""
        while b"\0" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([self.read_fd], [], [], remaining)[0]:
                raise TimeoutError("the browser said nothing in time")
            got = os.read(self.read_fd, 1 << 20)
            if not got:
                raise ConnectionError(f"the browser ended with status {self.process.poll()}")
            self._buffer += got
        line, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(line))

    def open(self, url: str, timeout_s: float = 120) -> float:
        """Load a page; return the seconds until it was loaded and two frames were painted."""
        self.events.clear()
        started = time.monotonic()
        self.send("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired", timeout_s)
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        return time.monotonic() - started

    def evaluate(self, expression: str) -> Any:
        """Return what an expression is in the page, awaited."""
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"])[:2000])
        return result["result"].get("value")

    def window(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        """Give the page a size, a pixel density and a colour scheme."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page, or of what the window shows of it."""
        self.evaluate("new Promise(done => setTimeout(done, 100))")
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def requests(self) -> list[str]:
        """Return the address of everything that the page asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Return uncaught errors, console errors and blocked resources."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                found.append(details.get("exception", {}).get("description") or details["text"])
            elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
                found.append(str([argument.get("value") for argument in parameters["args"]]))
            elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                found.append(parameters["entry"]["text"])
        return found


@contextmanager
def browsing(program: str, profile: Path) -> Iterator[Page]:
    """Start a browser with a profile of its own and yield its tab; end it afterwards."""
    to_browser, from_page = os.pipe(), os.pipe()
    words = [program, *FLAGS, *QUIET, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
    # the pipes reach descriptors 3 and 4 in a process of its own: here those numbers may be taken
    moves = "import fcntl, os, sys; a, b = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])"
    command = [sys.executable, "-c", f"{moves}; os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[3], sys.argv[3:])"]
    command += [str(to_browser[0]), str(from_page[1]), *words]
    process = subprocess.Popen(
        command, pass_fds=(to_browser[0], from_page[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(to_browser[0])
    os.close(from_page[1])
    page = Page(process=process, read_fd=from_page[0], write_fd=to_browser[1])
    try:
        targets = page.send("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        page.session = page.send("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        yield page
    finally:
        os.close(page.write_fd)
        os.close(page.read_fd)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
