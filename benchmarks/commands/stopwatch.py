"""Hold an independent stopwatch against a host run: do the recorded medians agree within 2 %?

Exit status: 0 they agree and the record is valid, 1 something is not so, 2 usage.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import record
from benchmarks.devices.host import HostDevice
from benchmarks.protocol import COLD_LOADS, plan_cases
from benchmarks.run_progress import showing
from benchmarks.session import Run, measure
from benchmarks.stopwatch import FIRST_VARIABLE, LIMIT, PIPE_VARIABLE, Comparison, compare, watching, worker_command
from benchmarks.store import open_store
from benchmarks.workload import make_workload
from runtimes.artifact import find_artifact

__all__ = ["main"]


def main(words: Sequence[str] | None = None) -> int:
    """Run, watch and compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stopwatch", description=__doc__)
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="an artifact, or a bundle with --runtime")
    parser.add_argument("--runtime", help="which artifact of a bundle, by its runtime")
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[16, 128], help="prompt lengths (16 128)")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens of each generation (32)")
    parser.add_argument("--repeats", type=int, default=5, help="timed generations of a warm case (5)")
    parser.add_argument("--threads", type=int, help="threads; by default the runner chooses")
    parser.add_argument("--store", help="keep the record here; by default it is thrown away")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    options = parser.parse_args(words)
    made, found = _compare(options)
    agreed = all(comparison.difference <= LIMIT for comparison in found)
    for comparison in found:
        line = {**asdict(comparison), "difference": comparison.difference}
        sys.stdout.write(f"{json.dumps(line) if options.json else _readable(comparison)}\n")
    for violation in made.validity.violations:
        sys.stderr.write(f"not valid: {violation}\n")
    return 0 if agreed and made.validity.valid else 1


def _compare(options: argparse.Namespace) -> tuple[record.RunRecord, list[Comparison]]:
    artifact = find_artifact(options.artifact, options.runtime)
    protocol = record.Protocol(
        name="stopwatch",
        prompt_tokens=tuple(sorted(set(options.prompt_tokens))),
        new_tokens=options.new_tokens,
        warm_ups=1,
        repeats=options.repeats,
        sustained_s=0,
        settle_s=0,
        sample_hz=0,
        timeout_s=600,
        details={COLD_LOADS: 1.0},
    )
    workload = make_workload(
        artifact.tokenizer_file,
        prompt_tokens=list(protocol.prompt_tokens),
        decode_tokens=protocol.new_tokens,
        context_length=artifact.manifest.context_length,
    )
    files = plan_cases(protocol, workload, threads=options.threads)
    run_id = record.new_run_id()
    run = Run(artifact=artifact, protocol=protocol, cases=files, run_id=run_id, session_id=run_id)
    with tempfile.TemporaryDirectory(prefix="qwen-edge-stopwatch-") as work:
        pipe = Path(work) / "pipe"
        variables = {PIPE_VARIABLE: str(pipe)}
        if options.threads == 1:  # with more it could take every core from everybody
            variables[FIRST_VARIABLE] = "1"
        device = HostDevice(worker_command(), variables)
        store = options.store or str(Path(work) / "thrown-away.sqlite")
        with watching(pipe) as watch, open_store(store) as opened, showing(sys.stderr) as progress:
            made = measure(device, run, opened, progress.report, warn=progress.warn)
    return made, compare(made, watch, [file.cases[0] for file in files], artifact.manifest.prefill_chunk)


def _readable(comparison: Comparison) -> str:
    verdict = "ok" if comparison.difference <= LIMIT else f"more than {LIMIT:.0%}"
    return (
        f"{comparison.case:<14} {comparison.metric:<13} recorded {comparison.recorded_ms:10.3f} ms   "
        f"stopwatch {comparison.watched_ms:10.3f} ms   {comparison.difference:7.3%}  {verdict}"
    )
