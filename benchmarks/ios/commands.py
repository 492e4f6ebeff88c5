"""The commands that reach an iPhone: pymobiledevice3 anywhere, `xcrun devicectl` for copying and launching on a Mac.

Both are called as programs, so that each call has a time limit and an answer of bounded size; pymobiledevice3's own
functions wait for ever in places. Nothing here was run against an iPhone. Options of pymobiledevice3 are checked
against the installed one. Those of devicectl (Xcode 15 and later) were written from memory, and compared since with
scripts in public repositories that call it (`device copy to` and `from` an appDataContainer, `device process launch`
with `--terminate-existing`, the app's own words behind its identifier); never with Apple's help text, nor on a Mac.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Phone"]

Command = list[str]


@dataclass(frozen=True, kw_only=True)
class Phone:
    """One iPhone and the app on it; `devicectl` says whether copying and launching go through Xcode's tool."""

    udid: str
    bundle_id: str
    devicectl: bool = False

    def info(self) -> Command:
        """Everything that lockdownd tells, as JSON."""
        return self._tool("lockdown", "info")

    def battery(self) -> Command:
        """The power source's registry entry, as JSON."""
        return self._tool("diagnostics", "battery", "single")

    def installed(self) -> Command:
        """What is known of the app, as JSON; an empty object where it isn't installed."""
        return self._tool("apps", "query", self.bundle_id)

    def push(self, source: Path, name: str) -> Command:
        """Copy a file into the app's Documents."""
        if self.devicectl:
            return self._copy("to", str(source), f"Documents/{name}")
        return self._tool("apps", "push", "--documents", self.bundle_id, str(source), name)

    def pull(self, name: str, target: Path) -> Command:
        """Copy a file out of the app's Documents."""
        if self.devicectl:
            return self._copy("from", f"Documents/{name}", str(target))
        return self._tool("apps", "pull", "--documents", self.bundle_id, name, str(target))

    def remove(self, name: str) -> Command:
        """Delete a file of the app's Documents."""
        return self._tool("apps", "rm", "--documents", self.bundle_id, name)

    def launch(self, arguments: Sequence[str]) -> Command:
        """Start the app anew; needs developer mode, and on iOS 17 or later a tunnel, which needs no root here."""
        if self.devicectl:
            start = ["xcrun", "devicectl", "device", "process", "launch", "--device", self.udid, "--terminate-existing"]
            return [*start, self.bundle_id, *arguments]
        return self._tool("developer", "dvt", "launch", "--userspace", " ".join([self.bundle_id, *arguments]))

    def process_id(self) -> Command:
        """The app's process, 0 where it doesn't run."""
        return self._tool("developer", "dvt", "process-id-for-bundle-id", "--userspace", self.bundle_id)

    def kill(self, pid: int) -> Command:
        """End a process."""
        return self._tool("developer", "dvt", "kill", "--userspace", str(pid))

    def jetsam_reports(self, folder: Path) -> Command:
        """Fetch the reports of kills for memory."""
        return self._tool("crash", "pull", "--match", "^JetsamEvent", str(folder))

    def _tool(self, *words: str) -> Command:
        return [*pymobiledevice3(), *words, "--udid", self.udid]

    def _copy(self, direction: str, source: str, destination: str) -> Command:
        app = ["--domain-type", "appDataContainer", "--domain-identifier", self.bundle_id]
        copy = ["xcrun", "devicectl", "device", "copy", direction, "--device", self.udid]
        return [*copy, *app, "--source", source, "--destination", destination]


def pymobiledevice3() -> Command:
    """The tool of this Python, plain."""
    return [sys.executable, "-m", "pymobiledevice3", "--no-color"]


def list_phones() -> Command:
    """The UDIDs that usbmuxd knows, as JSON."""
    return [*pymobiledevice3(), "usbmux", "list", "--simple"]
