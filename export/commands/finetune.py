"""`python -m export finetune`: training that recovers what quantization lost."""

import argparse
import json
import sys
from pathlib import Path

from export.errors import SpecError
from export.finetune.spec import DEFAULT_RANK, DEFAULT_START, DEFAULT_STEPS, LEARNING_RATES, FinetuneSpec
from export.sources import DEFAULT_SOURCE, source_names
from export.spec import DEFAULT_MODEL, DEFAULT_SCHEME

SUMMARY = "Recover what quantization lost: train weights through their rounding (QAT), codes, or adapters (QLoRA)."
EXAMPLES = """\
examples:
  QAT of the tiny model at 4 bits in groups of 64, on text that it makes up itself, then the export of what came out:
    python -m export finetune --qat --model tiny --group-size 64 --out build/tiny-qat
    python -m export --target android --checkpoint build/tiny-qat --group-size 64
  your own text, a fifth of the loss following it and the rest the float model:
    python -m export finetune --qat --checkpoint ./my-model --data chat.jsonl --nll 0.2 --steps 2000 --out ./my-qat
  a method's codes moved one by one where text says surely that it pays, with scales: gentle, for short training:
    python -m export finetune --codes --method guided --checkpoint ./my-model --data text.txt --out ./my-codes
  adapters over frozen 4-bit weights, merged into the checkpoint, or left beside it for others to load:
    python -m export finetune --qlora --checkpoint ./my-model --data chat.jsonl --nll 1 --out ./my-lora
    python -m export finetune --qlora --keep-adapters --checkpoint ./my-model --data chat.jsonl --nll 1 --out ./my-lora
a killed run goes on where it was: give the same command again
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--qat", action="store_true", help="train every quantized matrix through its rounding")
    kind.add_argument("--codes", action="store_true", help="move the codes themselves by one, and train their scales")
    kind.add_argument("--qlora", action="store_true", help="train low-rank adapters over frozen quantized matrices")
    add("--model", metavar="NAME", help=f"a model of the catalog (default: the checkpoint's, else {DEFAULT_MODEL})")
    add("--checkpoint", metavar="PATH", help="a local checkpoint directory")
    add(
        "--source",
        default=DEFAULT_SOURCE,
        metavar="NAME",
        help=f"hub to fetch from: {', '.join(source_names())} (default: {DEFAULT_SOURCE})",
    )
    add(
        "--data",
        metavar="FILE",
        help="text, or .jsonl with 'text' or 'messages' (default: text that the float model makes up itself)",
    )
    add("--scheme", default=DEFAULT_SCHEME, metavar="NAME", help=f"scheme to train for (default: {DEFAULT_SCHEME})")
    add(
        "--method",
        default=DEFAULT_START,
        metavar="NAME",
        help=f"method whose codes training starts from (default: {DEFAULT_START})",
    )
    add("--group-size", type=int, metavar="N", help="weights that share a scale in 4-bit matrices: 32, 64 or 128")
    add("--steps", type=int, default=DEFAULT_STEPS, metavar="N", help=f"batches to train on (default: {DEFAULT_STEPS})")
    add(
        "--learning-rate",
        type=float,
        metavar="X",
        help=f"in steps of the grid for QAT (default: {LEARNING_RATES['qat']}), the share of codes that move at a step "
        f"(default: {LEARNING_RATES['codes']}), plain for QLoRA (default: {LEARNING_RATES['qlora']})",
    )
    add(
        "--nll",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the loss that follows the text, the rest follows the float model (default: 0)",
    )
    add("--rank", type=int, default=DEFAULT_RANK, metavar="N", help=f"rank of the adapters (default: {DEFAULT_RANK})")
    add("--keep-adapters", action="store_true", help="leave the adapters beside the quantized weights, do not merge")
    add("--out", required=True, metavar="DIR", help="the recovered checkpoint's directory, new or of an earlier run")
    add("--json", action="store_true", help="the result as a JSON line on stdout; progress stays on stderr")


def run(arguments: argparse.Namespace) -> int:
    from export.cli import Bars  # it imports this package's catalog
    from export.finetune.pipeline import finetune  # transformers: seconds

    if not arguments.out:
        raise SpecError("--out is empty; name a directory (an unset shell variable?)")
    spec = FinetuneSpec(
        kind="qat" if arguments.qat else "codes" if arguments.codes else "qlora",
        out=Path(arguments.out),
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        source=arguments.source,
        data=None if arguments.data is None else Path(arguments.data),
        scheme=arguments.scheme,
        group_size=arguments.group_size,
        method=arguments.method,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        nll_share=arguments.nll,
        rank=arguments.rank,
        keep_adapters=arguments.keep_adapters,
    )
    with Bars(quiet=arguments.json or not sys.stderr.isatty()) as progress:
        found = finetune(spec, progress)
    if arguments.json:
        sys.stdout.write(json.dumps({"path": str(found.path), "loss": found.loss, "steps": found.steps}) + "\n")
    else:
        sys.stdout.write(f"{found.path}: {found.steps} steps, last loss {found.loss:.4f} nats per token\n")
    return 0
