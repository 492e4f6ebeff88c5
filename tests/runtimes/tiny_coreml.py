"""A tiny real Core ML artifact, made by hand: a package with a decayed sum, and one with attention over a cache.

It speaks the interface of the exported artifacts (`coreml.json`, both functions in both layouts of the state, padded
prefill), so that the runner is tested without the exporter.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.runtimes.mil.packages import function, save
from tests.runtimes.tiny_onnx import TEMPLATE, reference_case, tiny_tokenizer

HIDDEN, CONTEXT_LENGTH, CHUNK, DECAY = 32, 100, 8, 0.8
MASKED = np.float16(-1e4)
TOLERANCE = 5e-3
PACKAGES = ("first.mlpackage", "second.mlpackage")
LAYOUTS = {"inside": "", "outside": "_outside"}
SUM_SHAPE, CACHE_SHAPE = (1, 1, HIDDEN), (1, CONTEXT_LENGTH, HIDDEN)

Array = NDArray[Any]
Weights = Mapping[str, Array]


def weights(vocab_size: int) -> Weights:
    """Random and seeded, in fp16."""
    random = np.random.default_rng(2)
    table = random.normal(size=(vocab_size, HIDDEN))
    made = {name: random.normal(size=(HIDDEN, HIDDEN)) / HIDDEN**0.5 for name in ("query", "key", "value", "out")}
    head = random.normal(size=(vocab_size, HIDDEN)) / HIDDEN**0.5
    return {name: value.astype(np.float16) for name, value in {"table": table, "head": head, **made}.items()}


def all_logits(held: Weights, tokens: list[int]) -> Array:
    """Logits of every position in double precision, one token at a time."""
    w = {name: value.astype(np.float64) for name, value in held.items()}
    total, keys, values, rows = np.zeros(HIDDEN), [], [], []
    for token in tokens:
        total = DECAY * total + w["table"][token]
        x = w["table"][token] + total
        keys.append(w["key"] @ x)
        values.append(w["value"] @ x)
        scores = np.stack(keys) @ (w["query"] @ x) / HIDDEN**0.5
        shares = np.exp(scores - scores.max())
        rows.append(w["head"] @ (x + w["out"] @ (shares / shares.sum() @ np.stack(values))))
    return np.stack(rows).astype(np.float32)


def first(held: Weights, tokens: int, outside: bool) -> Any:
    """Embedding and the decayed sum."""

    def body(**given: Any) -> list[Any]:
        x = mb.gather(x=held["table"], indices=given["input_ids"], axis=0)
        steps = np.arange(tokens)
        lower = np.tril(DECAY ** np.clip(steps[:, None] - steps[None], 0, None)).astype(np.float16)[None]
        fading = (DECAY ** (steps + 1)).astype(np.float16).reshape(1, tokens, 1)
        before = given["total"] if outside else mb.read_state(input=given["total"])
        sums = mb.add(x=mb.matmul(x=lower, y=x), y=mb.mul(x=before, y=fading))
        last = sums if tokens == 1 else _last(sums, given["length"], tokens)
        hidden = mb.add(x=x, y=sums, name="hidden")
        if outside:
            return [hidden, mb.identity(x=last, name="total_out")]
        mb.coreml_update_state(state=given["total"], value=last)
        return [hidden]

    inputs: dict[str, Array] = {"input_ids": np.zeros((1, tokens), np.int32)}
    if tokens > 1:
        inputs["length"] = np.zeros(1, np.int32)
    if outside:
        return function({**inputs, "total": np.zeros(SUM_SHAPE, np.float16)}, {}, body)
    return function(inputs, {"total": SUM_SHAPE}, body)


def second(held: Weights, tokens: int) -> Any:
    """Attention over a cache, and the head."""

    def body(**given: Any) -> Any:
        x, position = given["hidden"], given["position"]
        query, new_key, new_value = (mb.linear(x=x, weight=held[name]) for name in ("query", "key", "value"))
        key, value = (
            _cached(given[name], rows, position, tokens) for name, rows in (("keys", new_key), ("values", new_value))
        )
        rows = mb.add(x=np.arange(tokens, dtype=np.int32).reshape(-1, 1), y=position)
        behind = mb.greater(x=np.arange(CONTEXT_LENGTH, dtype=np.int32).reshape(1, -1), y=rows)
        mask = mb.mul(x=mb.cast(x=behind, dtype="fp16"), y=MASKED)
        scores = mb.mul(x=mb.matmul(x=query, y=key, transpose_y=True), y=np.float16(HIDDEN**-0.5))
        mixed = mb.matmul(x=mb.softmax(x=mb.add(x=scores, y=mask)), y=value)
        y = mb.add(x=x, y=mb.linear(x=mixed, weight=held["out"]))
        last = y if tokens == 1 else _last(y, given["length"], tokens)
        return mb.linear(x=last, weight=held["head"], name="logits")

    inputs: dict[str, Array] = {
        "hidden": np.zeros((1, tokens, HIDDEN), np.float16),
        "position": np.zeros(1, np.int32),
    }
    if tokens > 1:
        inputs["length"] = np.zeros(1, np.int32)
    return function(inputs, {"keys": CACHE_SHAPE, "values": CACHE_SHAPE}, body)


def _last(x: Any, length: Any, tokens: int) -> Any:
    """The row of the last token that counts."""
    chosen = mb.equal(x=np.arange(1, tokens + 1, dtype=np.int32).reshape(1, 1, -1), y=length)
    return mb.matmul(x=mb.cast(x=chosen, dtype="fp16"), y=x)


def _cached(state: Any, rows: Any, position: Any, tokens: int) -> Any:
    zero = np.zeros(1, np.int32)
    end = mb.add(x=position, y=np.full(1, tokens, np.int32))
    updated = mb.slice_update(
        x=mb.read_state(input=state),
        update=rows,
        begin=mb.concat(values=[zero, position, zero], axis=0),
        end=mb.concat(values=[np.ones(1, np.int32), end, np.full(1, HIDDEN, np.int32)], axis=0),
    )
    return mb.coreml_update_state(state=state, value=updated)


def state_entries(*, outside: bool) -> list[dict[str, Any]]:
    """The states of one layout, as `coreml.json` lists them."""
    rows: list[tuple[str, str, tuple[int, ...], int | None]] = [
        ("total", "recurrent", SUM_SHAPE, None),
        ("keys", "key", CACHE_SHAPE, 1),
        ("values", "value", CACHE_SHAPE, 1),
    ]
    return [
        {
            "name": name,
            "kind": kind,
            "layer": 0,
            "shape": list(shape),
            "dtype": "float16",
            "token_axis": axis,
            "input_name": name if outside and axis is None else None,
            "output_name": f"{name}_out" if outside and axis is None else None,
        }
        for name, kind, shape, axis in rows
    ]


def description() -> dict[str, Any]:
    """The content of `coreml.json`."""
    return {
        "format": 1,
        "packages": list(PACKAGES),
        "tokens": {"decode": 1, "prefill": CHUNK},
        "default_layout": "inside",
        "layouts": {
            layout: {
                "functions": {call: f"{call}{suffix}" for call in ("decode", "prefill")},
                "states": state_entries(outside=bool(suffix)),
            }
            for layout, suffix in LAYOUTS.items()
        },
    }


def write_artifact(directory: Path) -> Path:
    """A whole Core ML artifact in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    vocab_size = tokenizer.get_vocab_size()
    held = weights(vocab_size)
    calls = {"decode": 1, "prefill": CHUNK}
    names = [(f"{call}{suffix}", tokens, bool(suffix)) for suffix in LAYOUTS.values() for call, tokens in calls.items()]
    save({name: first(held, tokens, outside) for name, tokens, outside in names}, directory / PACKAGES[0])
    save({name: second(held, tokens) for name, tokens, _ in names}, directory / PACKAGES[1])
    (directory / "coreml.json").write_text(json.dumps(description()))
    random = np.random.default_rng(5)
    tensors: dict[str, Array] = {}
    for case, count in (("prompt", 70), ("long", CONTEXT_LENGTH)):
        tokens = random.integers(0, vocab_size, count).tolist()
        tensors |= reference_case(case, tokens, all_logits(held, tokens), [count // 2, count - 1])
    metadata = {"format": "1", "emulation": "none", "tolerance_kind": "float", "tolerance": str(TOLERANCE)}
    save_file(tensors, directory / "reference.safetensors", metadata=metadata)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    eos = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    (directory / "manifest.json").write_text(json.dumps(_manifest(directory, vocab_size, eos)))
    return directory


def _manifest(directory: Path, vocab_size: int, eos: list[int]) -> dict[str, Any]:
    version = importlib.metadata.version("coremltools")
    return {
        "schema_version": 1,
        "model": "tiny",
        "source": {"kind": "random", "id": "tiny", "revision": None, "sha256": None},
        "weights": "random",
        "scheme": "float",
        "method": "rtn",
        "backend": "coreml",
        "runtime": {"name": "coreml", "version": version, "oldest_version": "9"},
        "context_length": CONTEXT_LENGTH,
        "prefill_chunk": CHUNK,
        "vocab_size": vocab_size,
        "eos_token_ids": eos,
        "pad_token_id": None,
        "model_file": "coreml.json",
        "tokenizer_file": "tokenizer.json",
        "chat_template_file": "chat_template.jinja",
        "reference_file": "reference.safetensors",
        "modalities": ["text"],
        "threads": 1,
        "state": [{**entry, "bytes": 2 * int(np.prod(entry["shape"]))} for entry in state_entries(outside=False)],
        "files": [
            {
                "path": place.relative_to(directory).as_posix(),
                "bytes": place.stat().st_size,
                "sha256": hashlib.sha256(place.read_bytes()).hexdigest(),
            }
            for place in sorted(directory.rglob("*"))
            if place.is_file()
        ],
        "bytes_read_per_decoded_token": 1000,
        "toolchain": {"coremltools": version},
        "inputs": {"spec_hash": "0" * 64, "checkpoint_hash": "1" * 64},
        "measured": {"parity": None, "quality": None},
    }
