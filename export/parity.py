"""Record what an artifact must answer: logits of its quantized weights in eager torch, one layer in memory at a time.

The eager decoder emulates the runtime's activation quantization, so the comparison is like with like: what remains is
the order of additions, and int8 codes that fall on the other side of a rounding. What quantization itself costs is
another question (quality). The format of `reference.safetensors` is described in runtimes/reference.py.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from export import operators as edge
from export.backends import IN_32_BITS, LoweringRequest, Tolerance
from export.config import ModelConfig
from export.decoder import Activations, Layer, Model, Part, Recipe, Rope, rope_table, text_positions
from export.materialize import load_layer, materialize
from export.quantized import QuantizedCheckpoint
from export.schemes import FLOAT
from export.state import state_tensors
from export.vision.reference import ImagePrompt, image_prompt, view_prompts
from export.weights import EMBEDDING, HEAD, units

FORMAT = "1"
PROMPT_TOKENS = 200
FULL_POSITIONS = 4
LONG_POSITIONS = 8
TOP = 64
TOKENS_AT_ONCE = 512
MOST_LONG_PRODUCTS = 10**11  # multiplications: seconds; 0.8B at 4096 tokens has 20 times as many
JITTER = 3e-7  # relative, of what each layer reads; runtimes differ by 5e-8 behind a norm, 1e-6 behind the delta rule
NOISE_MARGIN = 2.0  # runtimes were 0.7 to 2 times as far away
STATIC_DRAWS = 3  # on a static grid a small move is lost or not: one draw may see nothing
ROWS_AT_ONCE = 16384

Progress = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A token sequence and the positions whose logits are wanted: all of `full`, the best of `top`."""

    tokens: Tensor
    full: tuple[int, ...]
    top: tuple[int, ...]
    images: ImagePrompt | None = None

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(sorted({*self.full, *self.top}))


def record_reference(
    store: QuantizedCheckpoint,
    request: LoweringRequest,
    activations: Activations,
    prompt_ids: Sequence[int],
    path: Path,
    progress: Progress,
    tolerance: Tolerance = IN_32_BITS,
) -> None:
    """Write `reference.safetensors` for all cases."""
    arrays: dict[str, Any] = {}
    noise = 0.0
    quantized = any(not form.is_float for form in request.layout.values())
    for name, case in (cases(prompt_ids, request.context_length, request.config) | _seen(request, prompt_ids)).items():
        logits = stream_logits(store, request, activations, case, progress)
        arrays |= {f"{name}.{field}": array for field, array in _arrays(case, logits).items()}
        if case.images is not None:
            pictures = enumerate(case.images.pictures)
            arrays |= {f"{name}.picture_{number}": picture for number, picture in pictures}
        if name == "prompt" and quantized:
            noise = _noise_floor(store, request, activations, case, logits, progress)
    metadata = {
        "format": FORMAT,
        "emulation": activations.kind if quantized else "none",
        "tolerance_kind": "quantized" if quantized else "float",
        "tolerance": repr(max(tolerance.quantized_kld, NOISE_MARGIN * noise) if quantized else tolerance.float_error),
        "noise_floor": repr(noise),
        # which codes these are, and the format of each matrix: a quality report finds them by this
        "codes": store.path.name,
        "formats": json.dumps({unit: str(form) for unit, form in request.layout.items()}),
        "cache_scales": json.dumps({name: float(scale) for name, scale in store.cache_scales.items()}),
        "grids": json.dumps({name: grid.tolist() for name, grid in store.grids.items()}),
    }
    path.write_bytes(reference_bytes(arrays, metadata))


def reference_bytes(arrays: dict[str, Any], metadata: dict[str, str]) -> bytes:
    """A safetensors file; safetensors itself writes metadata in another order each time."""
    plain = save(arrays)
    start = 8 + int.from_bytes(plain[:8], "little")
    header = json.dumps({"__metadata__": metadata, **json.loads(plain[8:start])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors are aligned
    return len(header).to_bytes(8, "little") + header + plain[start:]


def _seen(request: LoweringRequest, prompt_ids: Sequence[int]) -> dict[str, Recorded]:
    """The cases of a model that sees: "image", and "view_RxC" for each grid of a tower that takes these only.

    Verification feeds the pictures, so preprocessing and tower are in it.
    """
    if request.vision is None:
        return {}
    found: dict[str, Recorded] = {}
    prompt = image_prompt(request.vision, prompt_ids, request.context_length)
    if prompt is not None:
        last = prompt.tokens.numel() - 1
        found["image"] = Recorded(tokens=prompt.tokens, full=(last,), top=tuple(range(last + 1)), images=prompt)
    for name, view in view_prompts(request.vision, prompt_ids, request.context_length).items():
        found[name] = Recorded(tokens=view.tokens, full=(), top=(view.tokens.numel() - 1,), images=view)
    return found


def _noise_floor(
    store: QuantizedCheckpoint,
    request: LoweringRequest,
    activations: Activations,
    case: Recorded,
    logits: Tensor,
    progress: Progress,
) -> float:
    """How far the reference moves (mean KLD of a position) when its inputs move by a float32 rounding or two.

    Int8 activations make the reference a step function: where a model amplifies a step, as deep random weights do, no
    runtime can agree with it more closely than it agrees with itself.
    """
    every = replace(case, full=(), top=case.positions)
    largest = 0.0
    for seed in range(noise_draws(activations)):
        chance = torch.Generator().manual_seed(seed)
        moved = stream_logits(store, request, activations, every, progress, jitter=chance)
        found = torch.stack([_divergence(row, other) for row, other in zip(logits, moved, strict=True)]).mean()
        largest = max(largest, float(found))
    return largest


def noise_draws(activations: Activations) -> int:
    """How often the noise floor of a quantized reference is drawn; the largest counts."""
    return STATIC_DRAWS if activations.static else 1


def _divergence(base: Tensor, other: Tensor) -> Tensor:
    expected = base.double().log_softmax(-1)
    return (expected.exp() * (expected - other.double().log_softmax(-1))).sum()


def cases(prompt_ids: Sequence[int], context_length: int, config: ModelConfig) -> dict[str, Recorded]:
    """The prompt with every position recorded, and one sequence that fills the context, its last positions recorded.

    The second is left out where eager torch would take minutes for it; verification then fills the context all the same
    and asks for finite logits and a refusal of one token more.
    """
    count = max(2, min(PROMPT_TOKENS, context_length - 1))
    prompt = torch.tensor(np.resize(np.array(prompt_ids, dtype=np.int64), count))
    long = torch.tensor(np.resize(np.array(prompt_ids, dtype=np.int64), context_length))
    spread = sorted({round(share * (count - 1)) for share in np.linspace(0.25, 1.0, FULL_POSITIONS)})
    last = range(max(0, context_length - LONG_POSITIONS), context_length)
    found = {"prompt": Recorded(tokens=prompt, full=tuple(spread), top=tuple(range(count)))}
    layer_weights = sum(unit.num_weights for unit in units(config) if unit.name not in (EMBEDDING, HEAD))
    if layer_weights * context_length <= MOST_LONG_PRODUCTS:
        found["long"] = Recorded(tokens=long, full=(), top=tuple(last))
    return found


@torch.no_grad()
def stream_logits(
    store: QuantizedCheckpoint,
    request: LoweringRequest,
    activations: Activations,
    case: Recorded,
    progress: Progress,
    *,
    jitter: torch.Generator | None = None,
) -> Tensor:
    """Logits (positions, vocab) of one sequence, teacher-forced, with one layer's weights in memory at a time.

    `jitter` draws how far what each layer reads is moved, to see how much the answer depends on it.
    """
    config = request.config
    model = Model(config, request.layout, activations, {unit.name: unit for unit in units(config)}, fuse_quantized=True)
    tokens = case.tokens.numel()
    tables = rope_table(config, tokens, "cos"), rope_table(config, tokens, "sin")
    state = state_tensors(config, tokens)
    residual, update = _embed(store, case.tokens), None
    if case.images is not None:
        residual[0, case.tokens == case.images.image_token_id] = case.images.features
    for index in range(config.num_layers):
        if jitter is not None:
            residual = residual * (1 + JITTER * torch.randn(residual.shape, generator=jitter))
        layer = load_layer(Layer(model, index), store)
        pair = (torch.zeros(state[2 * index].shape), torch.zeros(state[2 * index + 1].shape))
        updates, residuals = [], []
        for start in range(0, tokens, TOKENS_AT_ONCE):
            part = slice(start, start + TOKENS_AT_ONCE)
            rope = Rope(
                _rows(case, start, min(TOKENS_AT_ONCE, tokens - start)),
                torch.tensor([start]),
                *tables,
                config.mrope_section,
            )
            before = None if update is None else update[:, part]
            after, kept, pair = layer(before, residual[:, part], rope, pair, False)
            updates.append(after)
            residuals.append(kept)
        update, residual = torch.cat(updates, dim=1), torch.cat(residuals, dim=1)
        progress(f"reference layer {index + 1} of {config.num_layers}", tokens)
    assert update is not None
    wanted = list(case.positions)
    norm = materialize(Recipe(field="one_plus", parts=(Part(unit="norm.weight"),)), store, tokens)
    x, _ = edge.add_rms_norm(update[0, wanted], residual[0, wanted], norm, config.rms_norm_eps)
    return _head(store, x, activations)


def _rows(case: Recorded, start: int, count: int) -> Tensor:
    """Positions (3, 1, count)."""
    if case.images is None:
        return text_positions(start, count)
    return case.images.rows[:, start : start + count].unsqueeze(1)


def _embed(store: QuantizedCheckpoint, tokens: Tensor) -> Tensor:
    """Embedding rows (1, T, hidden), reading the table block by block."""
    found = torch.empty(1, tokens.numel(), store.config.hidden_size)
    for rows in _row_blocks(store.config.vocab_size):
        inside = (tokens >= rows.start) & (tokens < rows.stop)
        if inside.any():
            found[0, inside] = _weight(store, EMBEDDING, rows)[tokens[inside] - rows.start]
    return found


def _head(store: QuantizedCheckpoint, x: Tensor, activations: Activations) -> Tensor:
    """Logits (positions, vocab) of normed hidden states (positions, hidden), block by block of the vocabulary."""
    unit = EMBEDDING if store.config.tie_word_embeddings else HEAD
    form = store.layout[unit]
    if form != FLOAT:
        x = edge.quantize_activation(x, activations.kind, activations.group(x.shape[-1], form.group_size))
    logits = torch.empty(x.shape[0], store.config.vocab_size)
    for rows in _row_blocks(store.config.vocab_size):
        logits[:, rows] = x @ _weight(store, unit, rows).T
    return logits


def _weight(store: QuantizedCheckpoint, unit: str, rows: slice) -> Tensor:
    if store.layout[unit].is_float:
        return store.weight(unit, rows)
    return edge.dequantize(store.codes(unit, rows), store.scales(unit, rows))


def _row_blocks(rows: int) -> list[slice]:
    return [slice(start, min(start + ROWS_AT_ONCE, rows)) for start in range(0, rows, ROWS_AT_ONCE)]


def _arrays(case: Recorded, logits: Tensor) -> dict[str, Any]:
    """The tensors of one case; row by row, since a copy of all logits would be the largest thing in memory."""
    place = {position: row for row, position in enumerate(case.positions)}
    rows = [logits[place[position]] for position in case.top]
    best = [row.topk(min(TOP, logits.shape[1])) for row in rows]
    full = logits[[place[position] for position in case.full]]
    return {
        "tokens": case.tokens.numpy(),
        "full_positions": np.array(case.full, dtype=np.int64),
        "full_logits": full.contiguous().numpy(),
        "top_positions": np.array(case.top, dtype=np.int64),
        "top_ids": torch.stack([found.indices for found in best]).to(torch.int32).numpy(),
        "top_logits": torch.stack([found.values for found in best]).numpy(),
        "lse": torch.stack([torch.logsumexp(row.double(), dim=-1) for row in rows]).float().numpy(),
    }
