"""What each layer's quantization costs by itself: the KLD of a model in which one layer alone is quantized.

All these models are read in one pass: where layer i has been loaded, the models that quantized an earlier layer take
its float weights, and one more model branches off with its quantized ones. So the pass holds one layer's weights, and
one set of hidden states for every layer behind it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from export.progress import Progress
from export.quality.evaluate import Subject, places
from export.quality.metrics import Estimate, summarize
from export.quality.reading import Outputs, compare, embed, load_reading_layer, outputs_of, run_layer
from export.quality.texts import Sequences

MAX_TOKENS = 1024  # it costs about half a pass for every layer
EMBEDDING, HEAD = "embedding", "head"


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Mean KLD where only this part is quantized."""

    part: str
    mean_kld: Estimate


@torch.no_grad()
def layer_sensitivity(
    reference: Subject, candidate: Subject, sequences: Sequences, progress: Progress
) -> list[Sensitivity]:
    """One figure for the embedding, each layer, and the head, on the first sequences of the text."""
    some = sequences.part(slice(0, max(2, MAX_TOKENS // sequences.tokens.shape[1])))
    config = reference.reading.weights.config
    progress.stage(f"{candidate.name}: layer by layer", config.num_layers, "layer")
    base = embed(reference.reading.weights, some.tokens)
    branches = {EMBEDDING: embed(candidate.reading.weights, some.tokens)}
    for index in range(config.num_layers):
        quantized = load_reading_layer(candidate.reading, index)
        branched = run_layer(quantized, candidate.reading, index, base)
        layer = load_reading_layer(reference.reading, index)
        branches = {name: run_layer(layer, reference.reading, index, states) for name, states in branches.items()}
        branches[f"layers.{index}"] = branched
        base = run_layer(layer, reference.reading, index, base)
        progress.step(f"layer {index + 1}", 1)
    found = _figures(reference, candidate, base, branches, some)
    progress.end()
    return found


def _figures(
    reference: Subject, candidate: Subject, base: Tensor, branches: dict[str, Tensor], some: Sequences
) -> list[Sensitivity]:
    where = places(some)
    expected = outputs_of(reference.reading, base[some.scored])
    outputs: dict[str, Outputs] = {
        name: outputs_of(reference.reading, states[some.scored]) for name, states in branches.items()
    }
    outputs[HEAD] = outputs_of(candidate.reading, base[some.scored])
    stats = compare(expected, list(outputs.values()), where.targets, where.position, where.block)
    return [
        Sensitivity(part=name, mean_kld=summarize(one)["mean_kld"]) for name, one in zip(outputs, stats, strict=True)
    ]


def largest(found: list[Sensitivity], count: int) -> list[Sensitivity]:
    """The parts that cost most."""
    order = np.argsort([-one.mean_kld.value for one in found])
    return [found[int(place)] for place in order[:count]]
