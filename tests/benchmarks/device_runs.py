"""What tests of devices share: a small real artifact's cases, and a run of them that goes into a store of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.cases import Case, CaseFile
from benchmarks.devices import Device
from benchmarks.oracle import Oracle
from benchmarks.session import Run, measure
from benchmarks.store import open_store
from runtimes.artifact import Artifact

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
NEW_TOKENS = 12


def warm_case(name: str = "warm", **changes: Any) -> CaseFile:
    """One process with one case: two generations after a warm-up, on one thread."""
    settings: dict[str, Any] = {"kind": "warm", "prompt": PROMPT, "new_tokens": NEW_TOKENS, "warm_ups": 1, "repeats": 2}
    return CaseFile(threads=1, cases=[Case(case=name, **{**settings, **changes})])


def protocol(**changes: Any) -> record.Protocol:
    """A protocol that waits for nothing."""
    settings: dict[str, Any] = {"prompt_tokens": (len(PROMPT),), "new_tokens": NEW_TOKENS, "warm_ups": 1, "repeats": 2}
    limits: dict[str, Any] = {"sustained_s": 0, "settle_s": 0, "sample_hz": 0, "timeout_s": 600}
    return record.Protocol(**{**settings, **limits, **changes})


def run_on(
    device: Device,
    artifact: Artifact,
    store: Path,
    cases: Sequence[CaseFile] | None = None,
    *,
    keep: bool = False,
    oracle: Oracle | None = None,
    **changes: Any,
) -> tuple[record.RunRecord, list[str]]:
    """Measure, store, read back; the record and the warnings."""
    warnings: list[str] = []
    run_id = record.new_run_id()
    run = Run(
        artifact=artifact,
        protocol=protocol(**changes),
        cases=[warm_case()] if cases is None else cases,
        run_id=run_id,
        session_id=run_id,
        keep=keep,
        oracle=oracle,
    )
    with open_store(str(store)) as opened:
        made = measure(device, run, opened, lambda *_: None, warn=warnings.append)
        assert opened.get(run_id) == made
    return made, warnings
