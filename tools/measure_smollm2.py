"""Measure the whole recipe on SmolLM2-135M: a method, a searched layout of the same bytes, and training from there.

    python -m tools.measure_smollm2 --calibration text.txt                          # uniform and searched layouts
    python -m tools.measure_smollm2 --calibration text.txt --steps 200 --data more.txt
    python -m tools.measure_smollm2 --calibration text.txt --text prose.txt         # judged on another text
    python -m tools.measure_smollm2 --calibration text.txt --tokens 537600 --method guided --priced-by curvature \\
        --more-bytes 0.97 --train codes --batch 8 --steps 160 --data more.txt --threads 2  # the best there is

Formats are priced as `--scheme auto` prices them, or by what `guided` expects of them; the knapsack has the bytes of 4
bits in groups of 64 (and a share more, if asked), and everything is judged as tools/compare_methods.py judges methods.
What was computed is kept in the work folder, so a run that was stopped goes on.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from export.blocks import BlockResult
from export.cli import Bars
from export.finetune.any_model import results_of, start_of, subject_of
from export.finetune.qat import CodesStudent, QatStudent
from export.finetune.spec import LEARNING_RATES
from export.finetune.train import Recipe, SavedState, train
from export.progress import Silent
from export.quality.subjects import unit_bytes
from export.quantize import Codes, rtn
from export.quantize.guided import expected_divergence
from export.quantize_checkpoint import load_method
from export.schemes import INT8_ROW, Format
from export.search.knapsack import Option, solve
from export.search.rounding import Rounding
from export.search.sensitivity import Costs, fisher_costs, trace
from export.search.sensitivity import Subject as Priced
from export.spec import DEFAULT_METHOD
from export.transformers_blocks import TransformersModel
from export.weights import EMBEDDING, block_of
from tools import compare_methods as compare

UNIFORM = Format(bits=4, group_size=64)
FINER = Format(bits=4, group_size=32)
COARSER = Format(bits=4, group_size=128)
EIGHT = Format(bits=8, group_size=32)
CURVATURE = "curvature"  # in the place of a method that prices
FOLDED_TOKENS = 18_432
PRICED_TOKENS = 4096
PRICED_LENGTH = 128
Results = Mapping[str, BlockResult]


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """Results as `export.search.rounding.Stored`."""

    results: Results

    def codes(self, unit: str) -> Tensor:
        return self.results[block_of(unit)].codes[unit].codes

    def scales(self, unit: str) -> Tensor:
        return self.results[block_of(unit)].codes[unit].scales

    def factors(self, unit: str) -> tuple[Tensor, Tensor]:
        found, one = self.results[block_of(unit)], torch.ones(1, 1)
        return found.rows.get(unit, one), found.columns.get(unit, one)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every step needs."""

    options: compare.Options
    subject: compare.Subject
    table: Codes
    learned: Tensor
    method: str

    def quantized(self, formats: Mapping[str, Format]) -> tuple[dict[str, BlockResult], float]:
        """A layout as the method quantizes it, and the seconds it took."""
        key = [
            *compare.key_of(self.method, self.options, self.learned),
            {unit: str(one) for unit, one in formats.items()},
        ]
        make = partial(compare.quantize, self.subject, self.options, self.method, formats, self.learned, self.table)
        found: tuple[dict[str, BlockResult], float] = compare.kept(self.options, key, make)
        return found


def main() -> int:
    given = parse()
    torch.set_num_threads(given.threads)
    options = compare.Options(
        model="smollm2",
        methods=(given.method,),
        group_size=UNIFORM.group_size or 0,
        text=given.text,
        calibration=given.calibration,
        eval_tokens=given.eval_tokens,
        drawn_tokens=given.tokens,
        prose_tokens=0,
        work_dir=given.work_dir,
        json=False,
    )
    found = measure(options, given)
    print(compare.as_table(compare.as_rows(found), len(found["rtn"].stats)), end="")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=Path, required=True, help="text that the method learns from")
    parser.add_argument("--tokens", type=int, default=18432, help="of it (default: 18432)")
    parser.add_argument("--method", default=DEFAULT_METHOD, help=f"what quantizes (default: {DEFAULT_METHOD})")
    parser.add_argument(
        "--priced-by", help="method whose prices the layout is found by, or `curvature` (default: --method)"
    )
    parser.add_argument("--more-bytes", type=float, default=0.0, help="percent above uniform that search may use")
    parser.add_argument("--steps", type=int, default=0, help="of training (default: none)")
    parser.add_argument("--data", type=Path, help="text to train on (default: --calibration)")
    parser.add_argument("--train", choices=("weights", "codes"), default="weights", help="what training changes")
    parser.add_argument("--batch", type=int, default=4, help="sequences of 256 tokens a step (default: 4)")
    parser.add_argument("--learning-rate", type=float, help="as of `finetune --qat` and `--codes` (default: theirs)")
    parser.add_argument("--text", type=Path, help="judge on this file (default: held-out chapters of a book)")
    parser.add_argument("--eval-tokens", type=int, default=20480)
    parser.add_argument("--uniform", action="store_true", help="with --priced-by: the method in uniform groups as well")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--work-dir", type=Path, default=Path("build/compare-methods"))
    return parser.parse_args()


def measure(options: compare.Options, given: argparse.Namespace) -> dict[str, compare.Measured]:
    """Round-to-nearest and the method in uniform groups, the searched layout, and what training made of it."""
    options.work_dir.mkdir(parents=True, exist_ok=True)
    subject = compare.load_smollm2()
    table = rtn.quantize_table(subject.table, INT8_ROW, None)
    learned = compare.calibration_tokens(subject, options)
    work = Work(options=options, subject=subject, table=table, learned=learned, method=given.method)
    uniform = compare.formats_of(subject.model, options.group_size)
    if given.priced_by == CURVATURE:
        costs = expected_costs(work, uniform)
    else:
        costs = prices(replace(work, method=given.priced_by or given.method), uniform)
    searched = search(work, uniform, costs, given.more_bytes)
    rounded = {unit: rtn.quantize_table(weight, UNIFORM, None) for unit, weight in weights_of(subject).items()}
    results: dict[str, tuple[Results, Mapping[str, Format]]] = {
        "rtn": (by_block(rounded), uniform),
        "searched": (work.quantized(searched)[0], searched),
    }
    if given.uniform or not given.priced_by:
        results[given.method] = work.quantized(uniform)[0], uniform
    if given.steps:
        results["trained"] = trained(work, given, searched), searched
    judged = compare.evaluation_tokens(subject, options)
    return {name: judge(work, name, one, formats, judged) for name, (one, formats) in results.items()}


def judge(work: Work, name: str, results: Results, formats: Mapping[str, Format], tokens: Tensor) -> compare.Measured:
    """A layout's figures over held-out tokens, by the codes themselves."""
    hashed = hashlib.sha256()
    for result in results.values():
        for codes in result.codes.values():
            hashed.update(codes.codes.numpy().tobytes() + codes.scales.numpy().tobytes())
    place = compare.digest(tokens)
    reference = compare.kept(
        work.options, ["reference", place], lambda: compare.hidden_states(work.subject, None, None, tokens)
    )
    make = partial(compare.token_stats, work.subject, reference, results, work.table, tokens)
    stats = compare.kept(work.options, ["judged", hashed.hexdigest(), place], make)
    return compare.Measured(
        method=name, stats=stats, seconds=0.0, weight_bytes=compare.weight_bytes(work.subject, formats)
    )


def search(work: Work, uniform: Mapping[str, Format], costs: Costs, more_percent: float) -> dict[str, Format]:
    """The layout of least predicted divergence at the bytes of the uniform one, and some percent more."""
    shapes = compare.shapes_of(work.subject.model)
    budget = sum(unit_bytes(*shapes[unit], uniform[unit]) for unit in shapes)
    budget += int(compare.weight_bytes(work.subject, uniform) * more_percent / 100)
    items = [
        [Option(num_bytes=unit_bytes(*shapes[unit], form), cost=cost) for form, cost in costs[unit].items()]
        for unit in shapes
    ]
    solution = solve(items, budget)
    found = {unit: list(costs[unit])[choice] for unit, choice in zip(shapes, solution.choices, strict=True)}
    before = sum(costs[unit][uniform[unit]] for unit in shapes)
    sys.stderr.write(f"predicted divergence: uniform {before:.4f}, searched {solution.cost:.4f} nats a token\n")
    for unit, form in found.items():
        if form != uniform[unit]:
            sys.stderr.write(f"{unit}: {form}, uniform cost {costs[unit][uniform[unit]]:.5f}\n")
    return found


def prices(work: Work, uniform: Mapping[str, Format]) -> Costs:
    """What each format of each matrix costs, from what the method made of the model in that format throughout."""
    stores = {
        UNIFORM: InMemory(results=work.quantized(uniform)[0]),
        FINER: InMemory(results=work.quantized(dict.fromkeys(uniform, FINER))[0]),
    }

    def make() -> Costs:
        rounding = Rounding(by_row=load_method(work.method).quantize_table, stores=stores)
        priced = Priced(model=work.subject.model, table=lambda _: work.subject.table, rounding=rounding)
        rows = work.learned.flatten().view(-1, PRICED_LENGTH)
        rows = rows[torch.linspace(0, len(rows) - 1, PRICED_TOKENS // PRICED_LENGTH).round().long()]
        seen = trace(priced, rows, Silent().step)
        candidates = dict.fromkeys(uniform, (UNIFORM, FINER, EIGHT))
        with Bars(quiet=False) as progress:
            progress.stage("price formats", rows.numel() * len(work.subject.model.block_names), "token")
            return fisher_costs(priced, seen, candidates, 0, progress.step)

    key = ["prices", *compare.key_of(work.method, work.options, work.learned)]
    found: Costs = compare.kept(work.options, key, make)
    return found


def expected_costs(work: Work, uniform: Mapping[str, Format]) -> Costs:
    """What `guided` expects of each format of each matrix, with the folds that `awq` finds on a little of the text."""
    model, little = work.subject.model, work.learned[: FOLDED_TOKENS // compare.SEQUENCE_TOKENS]

    def make() -> Costs:
        done = InMemory(results=replace(work, method="awq", learned=little).quantized(uniform)[0])
        curvature = compare.curvature_of(
            work.subject, work.options, work.learned, lambda step, _: print(step, file=sys.stderr)
        )
        found: dict[str, dict[Format, float]] = {}
        for name in model.block_names:
            block = model.block(name)
            for unit, of_unit in curvature.of(block, list(block.shapes)).items():
                weight, count, factors = block.tensor(unit), work.learned.numel(), done.factors(unit)
                found[unit] = {
                    form: expected_divergence(weight, of_unit, form, count, factors)
                    for form in (UNIFORM, FINER, COARSER, EIGHT)
                    if block.shapes[unit][1] % (form.group_size or 1) == 0
                }
        return found

    found: Costs = compare.kept(work.options, ["expected", *compare.key_of("guided", work.options, work.learned)], make)
    return found


def trained(work: Work, given: argparse.Namespace, formats: Mapping[str, Format]) -> dict[str, BlockResult]:
    """The searched layout after training; its state lies in the work folder, for the run to go on after a kill."""
    assert isinstance(work.subject.model, TransformersModel)
    start, _ = work.quantized(formats)
    trainee = subject_of(work.subject.model)
    student_of = QatStudent if given.train == "weights" else CodesStudent
    student = student_of(trainee, start_of(trainee, start, formats, {EMBEDDING: work.table}))
    data = given.data or given.calibration
    ids = torch.tensor(work.subject.encode(data.read_text(encoding="utf-8")))
    tokens = ids[: len(ids) // compare.SEQUENCE_TOKENS * compare.SEQUENCE_TOKENS].view(-1, compare.SEQUENCE_TOKENS)
    rate = given.learning_rate or LEARNING_RATES["qat" if given.train == "weights" else "codes"]
    recipe = Recipe(steps=given.steps, learning_rate=rate, batch=given.batch)
    key = json.dumps(
        [compare.digest(tokens), compare.digest(work.learned), given.more_bytes, given.train, *vars(recipe).values()]
    )
    saved = SavedState(file=work.options.work_dir / "training.pt", key=key)
    with Bars(quiet=False) as progress:
        train(trainee, student, tokens, recipe, saved, progress)
    return results_of(student, start)


def weights_of(subject: compare.Subject) -> dict[str, Tensor]:
    model = subject.model
    return {unit: model.block(name).tensor(unit) for name in model.block_names for unit in model.block(name).shapes}


def by_block(codes: Mapping[str, Codes]) -> dict[str, BlockResult]:
    blocks: dict[str, dict[str, Codes]] = {}
    for unit, one in codes.items():
        blocks.setdefault(block_of(unit), {})[unit] = one
    return {name: BlockResult(codes=own) for name, own in blocks.items()}


if __name__ == "__main__":
    sys.exit(main())
