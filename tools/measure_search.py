"""Measure what searched layouts win over uniform ones of the same bytes, on the tiny model, as a method quantizes both.

    python tools/measure_search.py --method awq-gptq
    python tools/measure_search.py --method rtn --backend executorch

For the bytes of each uniform layout the knapsack finds one of its own, by prices made for that method; both are
quantized as an export would and compared token by token on the chapters of a book that the tiny model never saw.
"""

import argparse
import json
from functools import partial

import torch

from export import catalog
from export.calibration import Request, calibrate
from export.checkpoint import Checkpoint
from export.checkpoint_blocks import CheckpointModel, FloatWeights
from export.cli import Bars
from export.config import parse_config
from export.decoder import Activations
from export.models.tiny.corpus import read_book
from export.progress import Progress
from export.quality.evaluate import evaluate
from export.quality.metrics import Mean, as_json, difference, share_removed, summarize
from export.quality.subjects import float_subject, quantized_subject
from export.quality.texts import Sequences
from export.quantize_checkpoint import load_method
from export.schemes import Layout
from export.search.auto import Search, priced
from export.search.layouts import Space, Wish, best_layout, uniform_layouts
from export.sources import read_model_entry, resolve
from export.spec import DEFAULT_METHOD
from export.text_files import read_text_files

CONTEXT_LENGTH = 4096
TOKENS = 256
FIGURES: tuple[Mean, ...] = ("excess_nll", "mean_kld")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default=DEFAULT_METHOD, help=f"what quantizes (default: {DEFAULT_METHOD})")
    parser.add_argument("--backend", default="onnx", help="whose formats and bytes (default: onnx)")
    parser.add_argument("--tokens", type=int, default=20480, help="held-out tokens (default: 20480)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with Bars(quiet=False) as progress:
        found = measure(arguments, progress)
    print(json.dumps(found, indent=2))


def measure(arguments: argparse.Namespace, progress: Progress) -> dict[str, object]:
    """By uniform layout: its bytes and losses, those of the searched one, and the share of loss that search removed."""
    resolved = resolve(read_model_entry("tiny"), None)
    checkpoint = Checkpoint.open(resolved.path)
    config = parse_config(checkpoint.config)
    text = read_text_files(resolved.path, config.vocab_size)
    content_hash = checkpoint.content_hash()
    model = CheckpointModel(weights=FloatWeights(checkpoint=checkpoint, config=config))
    trained = resolved.weights == "trained"
    learned = calibrate(Request(model=model, text=text, checkpoint_hash=content_hash, trained=trained), progress)
    search = Search(
        checkpoint=resolved.path,
        checkpoint_hash=content_hash,
        tokens=learned.tokens,
        tokens_hash=learned.sha256,
        text=text,
        method=load_method(arguments.method),
    )
    space = Space(config=config, backend=catalog.load("backends", arguments.backend), context_length=CONTEXT_LENGTH)
    _, costs = priced(arguments.backend, space, search, progress)
    uniform = {name: one for name, one in uniform_layouts(space).items() if name != "int8"}
    searched = {
        name: best_layout(space, costs, Wish(budget_bytes=space.file_bytes(one))).layout
        for name, one in uniform.items()
    }
    quantize = partial(search.quantize, config, progress=progress)
    layouts: list[Layout] = [*uniform.values(), *searched.values()]
    candidates = [quantized_subject(str(index), quantize(one), Activations()) for index, one in enumerate(layouts)]
    reference, _, _ = float_subject("float", resolved.path)
    book = torch.tensor(text.encode("\n\n".join(read_book().held_out)))
    measured = evaluate(reference, candidates, held_out(book, arguments.tokens), progress)
    rows = {}
    for index, name in enumerate(uniform):
        plain, ours = measured[index].stats, measured[index + len(uniform)].stats
        rows[name] = {
            "bytes": [space.file_bytes(uniform[name]), space.file_bytes(searched[name])],
            "uniform": as_json({figure: summarize(plain)[figure] for figure in FIGURES}),
            "searched": as_json({figure: summarize(ours)[figure] for figure in FIGURES}),
            "kld_difference": as_json({"mean_kld": difference(ours, plain, "mean_kld")}),
            "removed": as_json({figure: share_removed(ours, plain, figure) for figure in FIGURES}),
            "formats": sorted({str(form) for form in searched[name].values()}),
        }
    return {"method": arguments.method, "tokens": len(measured[0].stats), "layouts": rows}


def held_out(ids: torch.Tensor, tokens: int) -> Sequences:
    """Whole sequences spread evenly over a text."""
    rows = ids[: len(ids) // TOKENS * TOKENS].view(-1, TOKENS)
    rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), tokens // TOKENS)).round().long()]
    scored = torch.ones_like(rows, dtype=torch.bool)
    scored[:, -1] = False
    return Sequences(tokens=rows, scored=scored, source=(0,) * len(rows), names=("book",))


if __name__ == "__main__":
    main()
