"""The export, read from top to bottom: checkpoint, quantize, then per backend lower, record, verify, seal.

Nothing half-done is ever taken for a result: an artifact is made in a hidden directory beside its place and renamed into
place after its manifest was written last. Work is skipped only where a sealed manifest was made from the same inputs.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from export import user_cache
from export.backends import Lowered, LoweringRequest
from export.bundle import Bundle, write_bundle
from export.calibrate import FloatWeights, calibration_hash, calibration_tokens, default_text, input_importance
from export.checkpoint import Checkpoint, check_tensors
from export.errors import OutputError, ParityError
from export.manifest import artifact_manifest, is_up_to_date, seal, spec_hash, write_unsealed
from export.parity import record_reference
from export.plan import Build, Plan, make_plan
from export.progress import Progress
from export.quantized import Method, QuantizedCheckpoint, StoreKey, quantize_checkpoint
from export.sources import ResolvedCheckpoint, check_same_model, resolve
from export.spec import ExportSpec
from export.tensors import text_tensors
from export.text_files import TextFiles, copy_text_files, read_text_files

LOCK_FILE = ".export.lock"
PARTIAL = ".{}.partial"
SPACE_MARGIN = 1.05
REFERENCE_FILE = "reference.safetensors"
PROMPT = (
    "In the beginning the river was small and slow, and the people who lived beside it gave it no name. They carried "
    "water in the morning, told stories in the evening, and kept count of the days with knots in a string: 1, 2, 3, 10, "
    "365. Why does the moon follow us home? asked the youngest. Because it is far away, said the oldest, and whatever is "
    "far away seems to follow you. A list of things to remember: bread, salt, a lamp; then wood, wool & wire (if any is "
    "left). f(x) = x^2 + 1 has no real root. It was the best answer that anyone could give, and so they wrote it down."
)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What every backend builds from."""

    plan: Plan
    resolved: ResolvedCheckpoint
    checkpoint: Checkpoint
    text: TextFiles
    checkpoint_hash: str


def export(spec: ExportSpec, progress: Progress) -> Bundle:
    """Make the bundle that `spec` asks for; raises a ProjectError that says what to do, and then seals nothing."""
    plan = make_plan(spec)
    with _output(spec.out), _disk_errors(spec.out):
        inputs = read_inputs(plan, progress)
        for build in plan.builds:
            make_artifact(inputs, build, progress)
        return write_bundle(plan, inputs.resolved, progress)


def read_inputs(plan: Plan, progress: Progress) -> Inputs:
    """Fetch and check the checkpoint."""
    spec = plan.spec
    progress.stage("checkpoint")
    resolved = resolve(plan.entry, spec.checkpoint, spec.source, progress=_bytes_done(progress))
    if spec.model is not None:
        check_same_model(plan.entry, resolved)
    checkpoint = Checkpoint.open(resolved.path)
    check_tensors(checkpoint, text_tensors(plan.config))
    text = read_text_files(resolved.path, plan.config.vocab_size)
    progress.note(f"{plan.model} from {resolved.path} ({resolved.weights} weights)")
    return Inputs(
        plan=plan, resolved=resolved, checkpoint=checkpoint, text=text, checkpoint_hash=checkpoint.content_hash()
    )


def make_artifact(inputs: Inputs, build: Build, progress: Progress) -> None:
    """Build, verify and seal one artifact, unless a sealed one was made from the same inputs."""
    place = inputs.plan.spec.out / build.backend
    wanted = spec_hash(inputs.plan, build)
    if is_up_to_date(place, wanted, inputs.checkpoint_hash):
        progress.note(f"{build.backend}: up to date in {place}")
        return
    _check_space(inputs.plan.spec.out, build)
    store = quantize(inputs, build, progress)
    partial = inputs.plan.spec.out / PARTIAL.format(build.backend)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    lowered = lower(inputs, build, store, partial, progress)
    hashes = (wanted, inputs.checkpoint_hash)
    manifest = artifact_manifest(inputs.plan, build, inputs.resolved, inputs.text, lowered, hashes)
    parity = verify(write_unsealed(partial, manifest), build, progress)
    seal(partial, manifest, parity)
    _put_in_place(partial, place)


def quantize(inputs: Inputs, build: Build, progress: Progress) -> QuantizedCheckpoint:
    """Codes and scales of the checkpoint, from the cache where they were made before."""
    plan = inputs.plan
    method, calibration = _method(inputs, progress)
    key = StoreKey(
        checkpoint_hash=inputs.checkpoint_hash,
        layout=build.layout,
        method=plan.spec.method,
        calibration_hash=calibration,
    )
    total = sum(inputs.checkpoint.entries[name].size_bytes for name in text_tensors(plan.config))
    progress.stage(f"{build.backend}: quantize ({plan.spec.scheme}, {plan.spec.method})", total)
    root = user_cache.directory("quantized")
    return quantize_checkpoint(inputs.checkpoint, plan.config, key, root, method, progress.step)


def _method(inputs: Inputs, progress: Progress) -> tuple[Method, str]:
    """The quantization method, with what it has to learn from data, and the hash of that data."""
    plan = inputs.plan
    if not plan.method.NEEDS_CALIBRATION:
        return Method(quantize=plan.method.quantize), ""
    tokens = calibration_tokens(inputs.text.encode(default_text()))
    progress.stage("calibrate", tokens.numel() * plan.config.num_layers, "token")
    weights = FloatWeights(checkpoint=inputs.checkpoint, config=plan.config)
    importance = input_importance(weights, tokens, progress.step)
    return Method(quantize=plan.method.quantize, importance=importance), calibration_hash(tokens)


def lower(inputs: Inputs, build: Build, store: QuantizedCheckpoint, into: Path, progress: Progress) -> Lowered:
    """Write the model files, the tokenizer files and the reference into `into`."""
    plan = inputs.plan
    request = LoweringRequest(
        config=plan.config,
        layout=build.layout,
        context_length=plan.spec.context_length,
        threads=plan.threads,
        bos_token_id=inputs.text.bos_token_id,
        eos_token_ids=inputs.text.eos_token_ids,
        pad_token_id=inputs.text.pad_token_id,
    )
    progress.stage(f"{build.backend}: lower", build.model_bytes)
    lowered: Lowered = build.module.lower(store, request, into, progress.step)
    copy_text_files(inputs.text, into)
    steps = 2 * plan.config.num_layers
    progress.stage(f"{build.backend}: record reference", steps, "layer")
    prompt_ids = inputs.text.encode(PROMPT)
    record_reference(
        store, request, lowered.activations, prompt_ids, into / REFERENCE_FILE, lambda name, _: progress.step(name, 1)
    )
    return lowered


def verify(manifest: Path, build: Build, progress: Progress) -> dict[str, Any]:
    """Run the written files in their real runtime, in a fresh process, and return the figures; a failed check raises."""
    progress.stage(f"{build.backend}: verify in {build.module.RUNTIME}", None, "check")
    command = [sys.executable, "-m", "runtimes", "verify", str(manifest), "--json"]
    report: dict[str, Any] | None = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            entry = json.loads(line)
            report = entry.get("report", report)
            if "check" in entry:
                progress.step(f"{entry['check']}: {entry['outcome']}", 1)
        errors = process.stderr.read()
    if report is None:
        raise ParityError(
            f"{build.backend}: verification of {manifest} ended without a report (exit {process.returncode}): "
            f"{errors.strip()[-800:] or 'no message'}; nothing was sealed, the files are kept there for a look"
        )
    failed = [f"{check['name']}: {check['reason']}" for check in report["checks"] if check["outcome"] == "failed"]
    if failed:
        raise ParityError(
            f"{build.backend}: the written artifact disagrees with eager torch in {len(failed)} of {len(report['checks'])} "
            f"checks ({'; '.join(failed)[:800]}); nothing was sealed, see it again with `python -m runtimes verify {manifest}`"
        )
    return report


@contextmanager
def _output(out: Path) -> Iterator[None]:
    """The output directory, writable and ours alone."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK_FILE, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"{out}: another export is writing here; wait for it, or choose another --out") from error
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """A full or read-only disk becomes a sentence; what was finished stays and the next run goes on from there."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"{error.filename or out}: no space left on the disk; free some and run the same command again, finished "
                "layers are kept"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise OutputError(
                f"{error.filename or out}: cannot be written ({error.strerror}); choose another --out"
            ) from error
        raise


def _check_space(out: Path, build: Build) -> None:
    free = shutil.disk_usage(out).free
    needed = int(build.model_bytes * SPACE_MARGIN)
    if free < needed:
        raise OutputError(
            f"{out}: {free} bytes free, {build.backend} needs about {needed}; free some, or choose another --out"
        )


def _put_in_place(partial: Path, place: Path) -> None:
    """Make the finished directory visible in one rename; an older artifact leaves first."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    partial.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes_done(progress: Progress) -> Any:
    """Adapt (done, total) reports to steps."""
    before = 0

    def report(done_bytes: int, total_bytes: int) -> None:
        nonlocal before
        if before == 0:
            progress.stage("checkpoint", total_bytes)
        progress.step("checkpoint", done_bytes - before)
        before = done_bytes

    return report
