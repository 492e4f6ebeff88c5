"""The export, read from top to bottom: checkpoint, quantize, then per backend lower, record, verify, seal.

Nothing half-done is ever taken for a result: an artifact is made in a hidden directory beside its place and renamed
into place after its manifest was written last. Work is skipped only where a sealed manifest was made from the same
inputs.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from export import user_cache
from export.backends import Lowered, LoweringRequest
from export.bundle import Bundle, break_open, write_bundle
from export.cache_scales import with_cache_scales
from export.calibration import Calibration, Request, calibrate
from export.checkpoint import Checkpoint, check_tensors
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.errors import ParityError, QualityError
from export.manifest import Hashes, artifact_manifest, inputs_hash, is_up_to_date, seal, write_unsealed
from export.output import (
    OTHER_CACHE,
    OTHER_OUT,
    check_space,
    disk_errors,
    own_directory,
    partial_directory,
    put_in_place,
)
from export.parity import cases, noise_draws, record_reference
from export.plan import Build, Plan, make_plan
from export.progress import Progress
from export.quality.report import measure_quality
from export.quality.texts import cut, default_texts
from export.quantize_checkpoint import Job, curvature_sizes, quantize_checkpoint
from export.quantized import QuantizedCheckpoint, members_of
from export.sources import ResolvedCheckpoint, resolve
from export.spec import ExportSpec
from export.static_grids import with_static_grids
from export.tensors import text_tensors, vision_tensors
from export.text_files import TextFiles, copy_text_files, read_text_files
from export.vision.config import image_spec
from export.vision.request import VisionRequest, for_backend, tower_format
from export.vision.weights import TowerWeights

SPACE_MARGIN = 1.05
QUALITY_TOKENS = 2048  # a glance; `python -m export quality` takes as many as it is given
QUALITY_SEQUENCES = 8
REFERENCE_FILE = "reference.safetensors"
MAY_BE_SKIPPED = ("stock_runner",)  # where its package is not installed, or the context too short for it
PROMPT = (
    "In the beginning the river was small and slow, and the people who lived beside it gave it no name. They carried "
    "water in the morning, told stories in the evening, and kept count of the days with knots in a string: 1, 2, 3, "
    "10, 365. Why does the moon follow us home? asked the youngest. Because it is far away, said the oldest, and "
    "whatever is far away seems to follow you. A list of things to remember: bread, salt, a lamp; then wood, wool & "
    "wire (if any is left). f(x) = x^2 + 1 has no real root. It was the best answer that anyone could give, and so "
    "they wrote it down."
)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What every backend builds from."""

    plan: Plan
    resolved: ResolvedCheckpoint
    checkpoint: Checkpoint
    text: TextFiles
    checkpoint_hash: str

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of the text model in the checkpoint."""
        return sum(self.checkpoint.entries[name].size_bytes for name in text_tensors(self.plan.config))

    def vision(self, build: Build) -> VisionRequest | None:
        """The vision tower as a backend takes it, where one is asked for."""
        config, plan = self.plan.vision, self.plan
        if config is None:
            return None
        weights = TowerWeights(checkpoint=self.checkpoint, vision=config, form=tower_format(plan.scheme))
        images = image_spec(self.resolved.path, config, plan.spec.context_length)
        return for_backend(VisionRequest(weights=weights, images=images), build.module, plan.entry.image_grids)

    @property
    def calibration_request(self) -> Request:
        """What a calibration would be made from."""
        weights = FloatWeights(checkpoint=self.checkpoint, config=self.plan.config)
        return Request(
            model=CheckpointModel(weights=weights),
            text=self.text,
            checkpoint_hash=self.checkpoint_hash,
            trained=self.resolved.weights == "trained",
            path=self.plan.spec.calibration,
            wanted=self.plan.spec.calibration_tokens,
        )


def export(spec: ExportSpec, progress: Progress) -> Bundle:
    """Make the bundle that `spec` asks for; raises a ProjectError that says what to do, and then seals nothing."""
    plan = make_plan(spec)
    with own_directory(spec.out), disk_errors(spec.out, OTHER_OUT):
        inputs = decide(read_inputs(plan, progress), progress)
        waiting = [build for build in inputs.plan.builds if not _is_made(inputs, build, progress)]
        calibration = learn_from(inputs, progress) if waiting else None
        for build in waiting:
            make_artifact(inputs, calibration, build, progress)
        return write_bundle(inputs.plan, inputs.resolved, progress)


def read_inputs(plan: Plan, progress: Progress) -> Inputs:
    """Fetch and check the checkpoint."""
    spec = plan.spec
    resolved = resolve(
        plan.entry,
        spec.checkpoint,
        spec.source,
        progress=_stage_of_bytes(progress, "fetch checkpoint"),
        vision=plan.vision is not None,
    )
    progress.note(f"{plan.model} from {resolved.path} ({resolved.weights} weights)")
    checkpoint = Checkpoint.open(resolved.path)
    check_tensors(checkpoint, text_tensors(plan.config) | _tower_tensors(plan, checkpoint))
    text = read_text_files(resolved.path, plan.config.vocab_size)
    return Inputs(
        plan=plan, resolved=resolved, checkpoint=checkpoint, text=text, checkpoint_hash=_hash(checkpoint, progress)
    )


def _tower_tensors(plan: Plan, checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {} if plan.vision is None else vision_tensors(checkpoint.config["vision_config"])


def decide(inputs: Inputs, progress: Progress) -> Inputs:
    """Let a scheme that searches find its formats; a found layout is kept, so finding it again takes no time."""
    if not inputs.plan.scheme.is_searched:
        return inputs
    from export.search.auto import Search, choose_layouts  # Optuna: a second at each start, for searches only

    calibration = calibrate(inputs.calibration_request, progress)
    search = Search(
        checkpoint=inputs.resolved.path,
        checkpoint_hash=inputs.checkpoint_hash,
        tokens=calibration.tokens,
        tokens_hash=calibration.sha256,
        text=inputs.text,
        method=inputs.plan.method,
    )
    return replace(inputs, plan=choose_layouts(inputs.plan, search, progress))


def learn_from(inputs: Inputs, progress: Progress) -> Calibration | None:
    """The text that the method learns from, if it does; made once for all backends."""
    return calibrate(inputs.calibration_request, progress) if inputs.plan.needs_calibration else None


def make_artifact(inputs: Inputs, calibration: Calibration | None, build: Build, progress: Progress) -> None:
    """Build, verify and seal one artifact."""
    out = inputs.plan.spec.out
    place = out / build.backend
    learned = calibration if inputs.plan.method.needs_calibration else None
    _check_space(inputs, build, 0 if learned is None else learned.tokens.numel())
    store = quantize(inputs, build, progress, learned)
    if inputs.plan.scheme.cache == "int8":
        assert calibration is not None
        progress.stage(f"{build.backend}: scales of the KV cache", inputs.plan.config.num_layers, "layer")
        store = with_cache_scales(store, calibration.tokens, lambda name, _: progress.step(name, 1))
    if inputs.plan.scheme.activations == "int8_static":
        assert calibration is not None
        progress.stage(f"{build.backend}: grids of static activations", inputs.plan.config.num_layers, "layer")
        others = build.module.ACTIVATION_KINDS["int8_static"]
        store = with_static_grids(store, others, calibration.tokens, lambda name, _: progress.step(name, 1))
    partial = partial_directory(out, build.backend)
    lowered = lower(inputs, build, store, partial, progress)
    hashes = _hashes(inputs, build)
    manifest = artifact_manifest(inputs.plan, build, inputs.resolved, inputs.text, lowered, hashes, calibration)
    parity = verify(write_unsealed(partial, manifest), build, progress)
    quality = None
    if calibration is not None and inputs.resolved.weights == "trained":
        quality = measure_cost(inputs, calibration, store, lowered, progress)
    seal(partial, manifest, parity, quality)
    break_open(out)
    put_in_place(partial, place)


def quantize(
    inputs: Inputs, build: Build, progress: Progress, calibration: Calibration | None = None
) -> QuantizedCheckpoint:
    """Codes and scales of the checkpoint, from the cache where they were made before."""
    plan = inputs.plan
    job = Job(
        checkpoint=inputs.checkpoint,
        checkpoint_hash=inputs.checkpoint_hash,
        config=plan.config,
        layout=build.layout,
        method=plan.method,
        tokens=None if calibration is None else calibration.tokens,
    )
    name = f"{build.backend}: quantize ({plan.spec.scheme}, {plan.method.name})"
    root = user_cache.directory("quantized")
    if calibration is None:
        progress.stage(name, inputs.checkpoint_bytes)
    else:
        progress.stage(name, len(members_of(plan.config)), "block")

    def step(block: str, num_bytes: int) -> None:
        # with calibration layers take the time, and a large table, which has most bytes, is quick
        progress.step(block, num_bytes if calibration is None else int(num_bytes > 0))

    with disk_errors(root, OTHER_CACHE):
        return quantize_checkpoint(job, root, step)


def _is_made(inputs: Inputs, build: Build, progress: Progress) -> bool:
    """Whether a sealed artifact made from the same inputs lies in its place."""
    place = inputs.plan.spec.out / build.backend
    if not is_up_to_date(place, _hashes(inputs, build)):
        return False
    progress.note(f"{build.backend}: up to date in {place}")
    return True


def _hashes(inputs: Inputs, build: Build) -> Hashes:
    calibration = inputs.calibration_request.identity() if inputs.plan.needs_calibration else None
    return Hashes(
        inputs=inputs_hash(inputs.plan, build, inputs.resolved, inputs.text, calibration, inputs.vision(build)),
        checkpoint=inputs.checkpoint_hash,
    )


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
        activations=plan.scheme.activations,
        cache=plan.scheme.cache,
        vision=inputs.vision(build),
    )
    progress.stage(f"{build.backend}: lower", build.model_bytes)
    lowered: Lowered = build.module.lower(store, request, into, progress.step)
    copy_text_files(inputs.text, into)
    prompt_ids = inputs.text.encode(PROMPT)
    draws = noise_draws(lowered.activations) if _is_quantized(build) else 0
    runs = len(cases(prompt_ids, request.context_length, plan.config)) + draws
    progress.stage(f"{build.backend}: record reference", runs * plan.config.num_layers, "layer")
    record_reference(
        store,
        request,
        lowered.activations,
        prompt_ids,
        into / REFERENCE_FILE,
        lambda name, _: progress.step(name, 1),
        lowered.tolerance,
    )
    return lowered


def _is_quantized(build: Build) -> bool:
    return any(not form.is_float for form in build.layout.values())


def verify(manifest: Path, build: Build, progress: Progress) -> dict[str, Any]:
    """Run the written files in their real runtime, in a fresh process; a failed check raises."""
    progress.stage(f"{build.backend}: verify in {build.module.RUNTIME}", None, "check")
    report: dict[str, Any] | None = None
    with tempfile.TemporaryFile() as errors, _verifier(manifest, errors) as process:
        for line in process.stdout or ():
            entry = _json_object(line)
            report = entry.get("report", report)
            if "check" in entry:
                progress.step(f"{entry['check']}: {entry['outcome']}", 1)
        status = process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if report is None:
        raise ParityError(
            f"{build.backend}: verification of {manifest} ended without a report ({_ending(status)}): "
            f"{said[-800:] or 'no message'}; nothing was sealed, the files are kept there for a look"
        )
    check_report(report, manifest, build)
    progress.end()
    return report


def check_report(report: dict[str, Any], manifest: Path, build: Build) -> None:
    """Refuse a report in which a check failed, or in which what must run did not."""
    checks = report["checks"]
    failed = [f"{check['name']}: {check['reason']}" for check in checks if check["outcome"] == "failed"]
    if failed:
        raise ParityError(
            f"{build.backend}: the written artifact disagrees with eager torch in {len(failed)} of {len(checks)} "
            "checks "
            f"({'; '.join(failed)[:800]}); nothing was sealed, see it again with `python -m runtimes verify {manifest}`"
        )
    skipped = [check for check in checks if check["outcome"] == "skipped" and not _may_be_skipped(check)]
    if skipped or not checks:
        reasons = "; ".join(f"{check['name']}: {check['reason']}" for check in skipped) or "no check at all"
        raise ParityError(
            f"{build.backend}: {manifest} could not be verified ({reasons[:800]}); nothing was sealed, make the "
            "runtime "
            "work here and run the same command again"
        )


def _may_be_skipped(check: dict[str, Any]) -> bool:
    """A comparison with software that is not here, or what a slow engine had no time for after its few steps."""
    return check["name"] in MAY_BE_SKIPPED or check["figures"].get("too_slow") is True


def measure_cost(
    inputs: Inputs, calibration: Calibration, store: QuantizedCheckpoint, lowered: Lowered, progress: Progress
) -> dict[str, Any] | None:
    """What quantization cost on a little held-out text, for the manifest; None where the context is too short."""
    wanted = min(QUALITY_TOKENS, QUALITY_SEQUENCES * inputs.plan.spec.context_length)
    texts = default_texts(inputs.resolved.path, wanted)
    try:
        held_out = cut(texts, inputs.text.encode, wanted, inputs.plan.spec.context_length)
    except QualityError as error:
        progress.note(f"quality not measured: {error}")
        return None
    found = measure_quality(
        store, inputs.checkpoint, held_out.tokens, lowered.activations, calibration.tokens, progress
    )
    loss, divergence = (found["figures"][name]["value"] for name in ("excess_nll", "mean_kld"))
    progress.note(f"quantization cost {loss:+.4f} nats a token, mean KLD {divergence:.4f}, on {found['tokens']} tokens")
    return found


@contextmanager
def _verifier(manifest: Path, errors: IO[bytes]) -> Iterator["subprocess.Popen[str]"]:
    """The verifying process: sees the modules that we see, and never outlives us."""
    command = [sys.executable, "-m", "runtimes", "verify", str(manifest), "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)}
    # errors go to a file: two pipes that are read one after the other can block each other
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def _json_object(line: str) -> dict[str, Any]:
    """The JSON object in a line; anything else is what a library printed."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit {status}"
    hint = ", out of memory?" if -status == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-status).name}{hint}"


def _check_space(inputs: Inputs, build: Build, num_tokens: int) -> None:
    """Both disks must hold what they will get; what is in the cache already is counted again, to be safe."""
    out, cache = inputs.plan.spec.out, user_cache.directory("quantized")
    sizes = curvature_sizes(inputs.plan.config, num_tokens)
    beside = sizes.least_bytes if inputs.plan.method.needs_gradients else 0
    needed = {
        out: int(build.model_bytes * SPACE_MARGIN) + inputs.plan.beside_bytes,
        cache: min(build.model_bytes, inputs.checkpoint_bytes) + beside,
    }
    check_space(needed, {out: OTHER_OUT, cache: OTHER_CACHE})


def _hash(checkpoint: Checkpoint, progress: Progress) -> str:
    """The checkpoint's content hash; files that were hashed before and did not change are not read again."""
    sizes = {file: file.stat().st_size for file in checkpoint.files()}
    progress.stage("checkpoint", sum(sizes.values()))
    for file, size_bytes in sizes.items():
        user_cache.file_sha256(file)
        progress.step(file.name, size_bytes)
    progress.end()
    return checkpoint.content_hash()


def _stage_of_bytes(progress: Progress, name: str) -> Callable[[int, int], None]:
    """A stage that begins with the first report (bytes done, bytes in all)."""
    before: int | None = None

    def report(done_bytes: int, total_bytes: int) -> None:
        nonlocal before
        if before is None:
            progress.stage(name, total_bytes)
        progress.step(name, done_bytes - (before or 0))
        before = done_bytes

    return report
