"""What int4 costs the trained tiny model: our artifacts and the onnxruntime-genai builder's against float.

Speed at equal bits says nothing if the answers get worse. So each artifact reads the same held-out text, token by token
in its own runtime, and its predictions are compared with transformers' in fp32. A scheme of ours may claim to be
faster than the builder's only where its mean divergence is no larger.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks.errors import BenchmarkError
from benchmarks.side_by_side.builds import Made, build_key, checkpoint_hash, make_build
from benchmarks.side_by_side.divergence import Divergence, compare_logits
from benchmarks.side_by_side.measure import run_worker
from benchmarks.side_by_side.peers import genai_builder, ours
from benchmarks.side_by_side.steps import ResultStore
from benchmarks.side_by_side.subjects import ROOT, Build, Context, module_command
from runtimes.errors import ProjectError

EXAMPLES = """\
examples:
  python -m benchmarks tiny-quality
      the builder's int4 and ours, on the tiny model of this repository
  python -m benchmarks tiny-quality --ours "g64=--backend onnx --scheme int4 --group-size 64"
      one more scheme of ours
"""
TINY = ROOT / "export" / "models" / "tiny"
WINDOW_TOKENS = 256
CONTEXT_LENGTH = 512
BUILDER = "builder"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One artifact's quality."""

    name: str
    file_bytes: int
    divergence: Divergence


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    checkpoint: Path
    text: Path
    work_dir: Path
    ours: dict[str, str]
    json: bool


def run(options: Options) -> list[Row]:
    """Build each artifact, read the text with it and compare."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    options.work_dir.mkdir(parents=True, exist_ok=True)
    windows = write_windows(options)
    made = make_all(options, environment)

    def logits(name: str, worker: str, artifact: Path) -> Any:
        path = options.work_dir / f"{name}.npy"
        arguments = ("--artifact", artifact, "--windows", windows, "--out", path)
        log = options.work_dir / f"{name}.log"
        run_worker(
            name,
            module_command(f"benchmarks.side_by_side.workers.{worker}", *arguments),
            log=log,
            environment=environment,
        )
        return np.load(path)

    reference = logits("float", "float_logits", options.checkpoint)
    rows = []
    for name, build in made.items():
        worker = "genai_logits" if name == BUILDER else "our_logits"
        divergence = compare_logits(reference, logits(name, worker, build.directory))
        rows.append(Row(name=name, file_bytes=build.record["file_bytes"], divergence=divergence))
    return rows


def write_windows(options: Options) -> Path:
    """Cut the text into windows of tokens and write them where the workers read them."""
    if not options.text.is_file():
        raise BenchmarkError(f"--text {options.text}: no such file; give a text the model was not trained on")
    tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
    ids = tokenizer.encode(options.text.read_text(), add_special_tokens=False).ids
    windows = [ids[start : start + WINDOW_TOKENS] for start in range(0, len(ids), WINDOW_TOKENS)]
    path = options.work_dir / "windows.json"
    path.write_text(json.dumps(windows))
    return path


def make_all(options: Options, environment: dict[str, str]) -> dict[str, Made]:
    """The builder's artifact and ours, made or found made."""
    context = Context(
        model="tiny",
        checkpoint=options.checkpoint.resolve(),
        text_config=json.loads((options.checkpoint / "config.json").read_text())["text_config"],
        threads=1,
        context_length=CONTEXT_LENGTH,
        llama_python=Path(sys.executable),
    )
    builds: dict[str, Build] = {BUILDER: genai_builder.peer(context).builds[0]}
    for name, arguments in options.ours.items():
        builds[name] = ours.peer(context, name, arguments).builds[0]
    store = ResultStore(options.work_dir / "results.sqlite")
    sha256 = checkpoint_hash(options.checkpoint)
    work_dir = options.work_dir.resolve()
    return {
        name: make_build(build, build_key(build, sha256, 0), work_dir, store, environment)
        for name, build in builds.items()
    }


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    limit = next(row.divergence.mean_kld for row in rows if row.name == BUILDER)
    lines = ["| artifact | file MB | mean KLD | 99 % KLD | same first choice | no worse than the builder |"]
    lines += ["|---|---:|---:|---:|---:|---|"]
    for row in rows:
        found = row.divergence
        cells = [
            row.name,
            f"{row.file_bytes / 1e6:.2f}",
            f"{found.mean_kld:.5f}",
            f"{found.p99_kld:.4f}",
            f"{100 * found.same_top_share:.1f} %",
            "yes" if found.mean_kld <= limit else "**no**",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"KL(float || artifact), nats, over {rows[0].divergence.positions} positions.", ""])


def parse_options(arguments: Sequence[str] | None) -> Options:
    """The command line as data."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tiny-quality",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, default=TINY, help="(default: the tiny model of this repository)")
    parser.add_argument("--text", type=Path, default=TINY / "held_out.txt", help="held-out text (default: %(default)s)")
    parser.add_argument("--work-dir", type=Path, default=Path("build/tiny-quality"), help="(default: %(default)s)")
    parser.add_argument("--ours", action="append", default=[], metavar="NAME=EXPORT_ARGUMENTS")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args(arguments)
    named = dict(pair.split("=", 1) for pair in given.ours if "=" in pair)
    if len(named) != len(given.ours):
        parser.error("--ours takes NAME=EXPORT_ARGUMENTS, each name once")
    return Options(
        checkpoint=given.checkpoint,
        text=given.text,
        work_dir=given.work_dir,
        ours={"ours-int4-g32": ours.DEFAULT_EXPORTS["ours-onnx"], **named},
        json=given.json,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison from the command line: 0 done, 1 a named error, 2 usage."""
    options = parse_options(arguments)
    try:
        rows = run(options)
    except ProjectError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    text = as_markdown(rows)
    data = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    (options.work_dir / "quality.md").write_text(text)
    (options.work_dir / "quality.json").write_text(data)
    sys.stdout.write(data if options.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
