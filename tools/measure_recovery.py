"""Measure what QAT recovers of what the default recipe loses, on the tiny model at a coarse format.

    python tools/measure_recovery.py --format row --steps 300 --out build/recovery
    python tools/measure_recovery.py --format 64 --out build/recovery-g64

Trains (or finds what an earlier run trained), quantizes both checkpoints, and compares them token by token on the
chapters of the book that the tiny model never saw. `row` is 4 bits with one scale a row, coarser than any group; the
shares come with a paired bootstrap over sequences.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from export import user_cache
from export.calibration import Calibration, Request, calibrate
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.cli import Bars
from export.config import ModelConfig
from export.decoder import Activations
from export.finetune.pipeline import Base, open_base, recover
from export.finetune.spec import DEFAULT_START, DEFAULT_STEPS, FinetuneSpec
from export.models.tiny.corpus import read_book
from export.progress import Progress
from export.quality.evaluate import Measurement, evaluate
from export.quality.metrics import Mean, as_json, share_removed, summarize
from export.quality.subjects import float_subject, quantized_subject
from export.quality.texts import Sequences
from export.quantize_checkpoint import Job, load_method, quantize_checkpoint
from export.quantized import QuantizedCheckpoint
from export.schemes import KEEP_GATES, Format, Layout, Rule, Scheme, layout
from export.spec import RECOVERED_METHOD
from export.weights import units

TOKENS = 512
FIGURES: tuple[Mean, ...] = ("excess_nll", "mean_kld")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", default="row", help="'row', or the group size")
    parser.add_argument(
        "--method", default=DEFAULT_START, help=f"the default recipe's method (default: {DEFAULT_START})"
    )
    parser.add_argument("--kind", choices=("qat", "codes"), default="qat", help="what training changes (default: qat)")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--out", type=Path, required=True, help="where the recovered checkpoint goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with Bars(quiet=False) as progress:
        found = measure(arguments, progress)
    print(json.dumps(found, indent=2))


def measure(arguments: argparse.Namespace, progress: Progress) -> dict[str, object]:
    """Losses of round-to-nearest, the default recipe and QAT, and the share of the default's that QAT removed."""
    spec = FinetuneSpec(
        kind=arguments.kind,
        model="tiny",
        out=arguments.out,
        method=arguments.method,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
    )
    base = open_base(spec)
    base = replace(base, layout=coarse_layout(base.config, arguments.format))
    recovered = Checkpoint.open(recover(spec, base, progress).path)
    stores = {
        "rtn": quantized(base.checkpoint, base, "rtn", None),
        arguments.method: quantized(base.checkpoint, base, arguments.method, calibration(base, progress).tokens),
        "qat": quantized(recovered, base, RECOVERED_METHOD, None),
    }
    reference, _, _ = float_subject("float", base.checkpoint.path)
    candidates = [quantized_subject(name, store, Activations()) for name, store in stores.items()]
    measured = dict(zip(stores, evaluate(reference, candidates, held_out(base), progress), strict=True))
    return report(measured, arguments.method)


def report(measured: dict[str, Measurement], default: str) -> dict[str, object]:
    losses = {name: as_json(summarize(one.stats)) for name, one in measured.items()}
    shares = {name: share_removed(measured["qat"].stats, measured[default].stats, name) for name in FIGURES}
    return {
        "tokens": len(measured["qat"].stats),
        "losses": {name: {figure: found[figure] for figure in FIGURES} for name, found in losses.items()},
        "recovered_by_qat": as_json(shares),
    }


def coarse_layout(config: ModelConfig, form: str) -> Layout:
    """4 bits for every matrix but the gates', in groups of that size or one group a row."""
    group_size = 32 if form == "row" else int(form)
    four = Rule(pattern="*", format=Format(bits=4, group_size=group_size))
    found = layout(Scheme(summary="", rules=(*KEEP_GATES, four)), config)
    if form != "row":
        return found
    widths = {unit.name: unit.in_features for unit in units(config)}
    return {name: one if one.is_float else Format(bits=4, group_size=widths[name]) for name, one in found.items()}


def calibration(base: Base, progress: Progress) -> Calibration:
    """What the default recipe learns from."""
    model = CheckpointModel(weights=FloatWeights(checkpoint=base.checkpoint, config=base.config))
    request = Request(model=model, text=base.text, checkpoint_hash=base.content_hash, trained=base.trained)
    return calibrate(request, progress)


def quantized(checkpoint: Checkpoint, base: Base, method: str, tokens: Tensor | None) -> QuantizedCheckpoint:
    job = Job(
        checkpoint=checkpoint,
        checkpoint_hash=checkpoint.content_hash(),
        config=base.config,
        layout=base.layout,
        method=load_method(method),
        tokens=tokens,
    )
    return quantize_checkpoint(job, user_cache.directory("quantized"), lambda *_: None)


def held_out(base: Base) -> Sequences:
    """The chapters that were kept from training, each cut on its own; the short rest of a chapter is filled up."""
    rows, scored, source = [], [], []
    chapters = read_book().held_out
    for index, chapter in enumerate(chapters):
        ids = base.text.encode(chapter)
        for start in range(0, len(ids), TOKENS):
            part = ids[start : start + TOKENS]
            rows.append(part + [0] * (TOKENS - len(part)))
            scored.append([place < len(part) - 1 for place in range(TOKENS)])
            source.append(index)
    names = tuple(f"chapter {index}" for index in range(len(chapters)))
    return Sequences(tokens=torch.tensor(rows), scored=torch.tensor(scored), source=tuple(source), names=names)


if __name__ == "__main__":
    main()
