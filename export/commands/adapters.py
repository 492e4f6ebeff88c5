"""`python -m export adapters`: an ONNX artifact that takes LoRA adapters."""

import argparse
import json
import sys
from pathlib import Path

SUMMARY = "Make an ONNX artifact take LoRA adapters, and write those of a fine-tune beside it."
EXAMPLES = """\
examples:
  train adapters, export what they were trained over, put the two together:
    python -m export finetune --qlora --keep-adapters --checkpoint ./my-model --data chat.jsonl --nll 1 --out ./my-lora
    python -m export --target android --checkpoint ./my-lora --backend onnx --out ./my-bundle
    python -m export adapters ./my-bundle/onnx --checkpoint ./my-lora --out ./my-bundle-with-adapters
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("artifact", metavar="ARTIFACT", help="the ONNX artifact")
    add("--checkpoint", required=True, metavar="PATH", help="what `finetune --qlora --keep-adapters` wrote")
    add("--out", required=True, metavar="DIR", help="a new directory for the artifact that takes adapters")
    add("--json", action="store_true", help="the result as a JSON line on stdout; progress stays on stderr")


def run(arguments: argparse.Namespace) -> int:
    from export.cli import Bars  # it imports this package's catalog
    from export.finetune.adapted_artifact import adapt  # onnxruntime, torch: seconds

    with Bars(quiet=arguments.json or not sys.stderr.isatty()) as progress:
        adapter = adapt(Path(arguments.artifact), Path(arguments.checkpoint), Path(arguments.out), progress)
    if arguments.json:
        sys.stdout.write(json.dumps({"path": arguments.out, "adapter": str(adapter)}) + "\n")
    else:
        sys.stdout.write(f"{arguments.out}: takes adapters; {adapter} is one\n")
    return 0
