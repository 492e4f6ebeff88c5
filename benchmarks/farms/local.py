"""Owned phones, and this machine: a job is `python -m benchmarks run` in a process of its own.

The phones are a pool: jobs of different devices run side by side, jobs of one device one after the other. The record on
the process's stdout is the result; its exit status only says where to look when there is none. A night that is killed
takes its process with it, which cleans up after itself.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from benchmarks.farms import FarmError, Poll, Work, parsed_settings
from benchmarks.protocol import COLD_LOADS, case_timeout_s
from benchmarks.record import RunRecord, read_record
from benchmarks.tethered import run_tethered

__all__ = ["Local", "open_farm"]

RESULT = "record.json"
LOG = "run.log"
MAX_RECORD_BYTES = 512 * 1024 * 1024
MOST_TEXT = 600


class _Settings(BaseModel):
    """What is to be known of an owned device."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    device: Literal["host", "android", "android_app", "ios"]
    serial: str | None = None
    udid: str | None = None
    runner: str | None = None
    app: str | None = None
    threads: int | None = None
    max_temperature_c: float | None = None


class Local:
    """The pool of devices that this machine reaches by itself."""

    poll_s = 1.0

    def plan(self, work: Work) -> list[str]:
        """The command that would run."""
        return [" ".join(_command(work))]

    def submit(self, work: Work) -> str:
        """Run the job to its end, unless its record is here already; the handle is the record's place."""
        place = work.folder / RESULT
        if not place.is_file():
            _run(work, place)
        return str(place)

    def poll(self, work: Work, handle: str) -> Poll:
        """Done, or not: it ran when it was submitted."""
        if Path(handle).is_file():
            return Poll(state="done")
        said = _last_words(work.folder / LOG)
        return Poll(state="failed", reason=f"there is no record: {said}", status="not_run")

    def collect(self, work: Work, handle: str) -> RunRecord:
        """The record that the process printed."""
        del work
        with Path(handle).open("rb") as file:
            content = file.read(MAX_RECORD_BYTES + 1)
        if len(content) > MAX_RECORD_BYTES:
            raise FarmError(f"{handle}: more than {MAX_RECORD_BYTES} bytes; delete it, then start the night again")
        return read_record(content, source=handle)


def open_farm(settings: Mapping[str, Any]) -> Local:
    """The pool needs no settings."""
    if settings:
        raise FarmError(f"[farms.local] has no settings, found {', '.join(settings)}; delete them", "not_run")
    return Local()


def _command(work: Work) -> list[str]:
    found = parsed_settings(_Settings, work.settings, f"[devices.{work.device}]")
    protocol = work.protocol
    options: dict[str, object | None] = {
        "--device": found.device,
        "--serial": found.serial,
        "--udid": found.udid,
        "--runner": found.runner,
        "--app": found.app,
        "--threads": found.threads,
        "--protocol": protocol.name,
        "--new-tokens": protocol.new_tokens,
        "--repeats": protocol.repeats,
        "--warm-ups": protocol.warm_ups,
        "--cold": int(protocol.details.get(COLD_LOADS, 0)),
        "--sustained": protocol.sustained_s,
        "--settle": protocol.settle_s,
        "--max-temperature": found.max_temperature_c,
        "--cool-down": protocol.cool_down_s,
        "--timeout": protocol.timeout_s,
        "--store": work.store_url,
        "--session": work.session_id,
    }
    words = [sys.executable, "-m", "benchmarks", "run", str(work.artifact.path), "--json"]
    words += ["--prompt-tokens", *map(str, protocol.prompt_tokens)]
    for name, value in options.items():
        words += [] if value is None else [name, str(value)]
    return words


def _run(work: Work, place: Path) -> None:
    """Run the command; its output becomes the record's file only when the process has ended."""
    limit_s = 600 + 2 * sum(
        case_timeout_s(work.protocol, cases) + work.protocol.settle_s + work.protocol.cool_down_s
        for cases in work.cases
    )
    unfinished = place.with_suffix(".part")
    with unfinished.open("wb") as out, (work.folder / LOG).open("wb") as log:
        try:
            run_tethered(_command(work), stdout=out, stderr=log, timeout_s=limit_s)
        except subprocess.TimeoutExpired as error:
            raise FarmError(f"the run took longer than {limit_s:g} s; it was ended", "timeout") from error
    if unfinished.stat().st_size:
        unfinished.replace(place)


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "it was never started"
    told = next(
        (line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "it said nothing"
    )
    return "".join(letter if letter.isprintable() else " " for letter in told)[:MOST_TEXT]
