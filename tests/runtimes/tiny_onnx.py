"""A tiny real ONNX artifact, made by hand: a Gated DeltaNet layer and an attention layer on ORT's fused operators.

It speaks the interface of the exported artifacts (names, shapes, states, genai_config.json), so that the runners are
tested against real state semantics without the exporter. Weights are random and seeded.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN = 32
HEADS, KEY_DIM, VALUE_DIM = 2, 16, 16
KERNEL = 4
Q_HEADS, KV_HEADS, HEAD_DIM = 2, 1, 16
ROTARY_DIM = 8
CONTEXT_LENGTH = 256
PREFILL_CHUNK = 32
CHANNELS = HEADS * (2 * KEY_DIM + VALUE_DIM)
TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog and the cat sat on the mat " * 8,
    "hello world user assistant system",
]

Array = NDArray[Any]


class GraphBuilder:
    """Nodes and weights of a graph under construction."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def fused(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        return self.op(kind, inputs, outputs, domain="com.microsoft", **attributes)

    def weight(self, name: str, value: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def linear(self, x: str, name: str, rows: int, columns: int, scale: float = 1.0) -> str:
        value = self.random.standard_normal((rows, columns)).astype(np.float32) * np.float32(scale / np.sqrt(rows))
        return self.op("MatMul", [x, self.weight(f"{name}.weight", value)], [name])


def _delta_layer(graph: GraphBuilder, x: str) -> str:
    """Convolution with state, then the gated delta rule, with its state."""
    qkv = graph.linear(x, "qkv", HIDDEN, CHANNELS, 2.0)
    graph.op("Transpose", [qkv], ["qkv_t"], perm=[0, 2, 1])
    kernel = graph.random.standard_normal((CHANNELS, 1, KERNEL)).astype(np.float32) * np.float32(0.7)
    graph.fused(
        "CausalConvWithState",
        ["qkv_t", graph.weight("conv.weight", kernel), "", "past.0.conv"],
        ["conv_t", "present.0.conv"],
        activation="silu",
        ndim=1,
    )
    graph.op("Transpose", ["conv_t"], ["conv"], perm=[0, 2, 1])
    split = graph.weight("split", np.array([HEADS * KEY_DIM, HEADS * KEY_DIM, HEADS * VALUE_DIM], np.int64))
    graph.op("Split", ["conv", split], ["q_raw", "k_raw", "v"], axis=-1)
    flat = graph.weight("flat", np.array([0, 0, -1], np.int64))
    by_head = graph.weight("by_head", np.array([0, 0, HEADS, -1], np.int64))
    for name in ("q", "k"):
        graph.op("Reshape", [f"{name}_raw", by_head], [f"{name}_heads"])
        graph.op("LpNormalization", [f"{name}_heads"], [f"{name}_norm"], axis=-1, p=2)
        graph.op("Reshape", [f"{name}_norm", flat], [f"{name}_flat"])
    decay = graph.op("Neg", [graph.op("Softplus", [graph.linear(x, "a", HIDDEN, HEADS, 3.0)], ["a_soft"])], ["decay"])
    beta = graph.op("Sigmoid", [graph.linear(x, "b", HIDDEN, HEADS, 3.0)], ["beta"])
    graph.fused(
        "LinearAttention",
        ["q_flat", "k_flat", "v", "past.0.recurrent", decay, beta],
        ["mixed", "present.0.recurrent"],
        q_num_heads=HEADS,
        kv_num_heads=HEADS,
        update_rule="gated_delta",
        scale=1.0,
    )
    return graph.op("Add", [x, graph.linear("mixed", "delta_out", HEADS * VALUE_DIM, HIDDEN, 2.0)], ["after_delta"])


def _attention_layer(graph: GraphBuilder, x: str) -> str:
    """Rotary positions and grouped-query attention over a shared cache."""
    angles = np.arange(CONTEXT_LENGTH)[:, None] / 10.0 ** (np.arange(ROTARY_DIM // 2)[None, :] / 2)
    graph.weight("cos", np.cos(angles).astype(np.float32))
    graph.weight("sin", np.sin(angles).astype(np.float32))
    for name, heads in (("query", Q_HEADS), ("key", KV_HEADS)):
        graph.fused(
            "MRotaryEmbedding",
            [graph.linear(x, f"{name}_raw", HIDDEN, heads * HEAD_DIM, 2.0), "position_ids", "cos", "sin"],
            [name],
            mrope_section=[2, 1, 1],
            mrope_layout=1,
            rotary_embedding_dim=ROTARY_DIM,
            num_heads=heads,
        )
    graph.linear(x, "value", HIDDEN, KV_HEADS * HEAD_DIM, 2.0)
    one = graph.weight("one", np.array(1, np.int64))
    axis = graph.weight("axis", np.array([1], np.int64))
    graph.op("ReduceSum", ["attention_mask", axis], ["filled"], keepdims=0)
    graph.op("Cast", [graph.op("Sub", ["filled", one], ["last"])], ["seqlens_k"], to=TensorProto.INT32)
    graph.op("Gather", [graph.op("Shape", ["attention_mask"], ["mask_shape"]), one], ["total"], axis=0)
    graph.op("Cast", ["total"], ["total_length"], to=TensorProto.INT32)
    graph.fused(
        "GroupQueryAttention",
        ["query", "key", "value", "past_key_values.1.key", "past_key_values.1.value", "seqlens_k", "total_length"],
        ["attended", "present.1.key", "present.1.value"],
        num_heads=Q_HEADS,
        kv_num_heads=KV_HEADS,
        do_rotary=0,
    )
    return graph.op(
        "Add", [x, graph.linear("attended", "attention_out", Q_HEADS * HEAD_DIM, HIDDEN, 2.0)], ["after_attention"]
    )


def tiny_graph(vocab_size: int, *, last_only: bool = True, seed: int = 0) -> onnx.ModelProto:
    """The model; with `last_only` False it gives the logits of every position: a reference for itself."""
    graph = GraphBuilder(seed)
    table = graph.random.standard_normal((vocab_size, HIDDEN)).astype(np.float32)
    x = graph.op("Gather", [graph.weight("embedding", table), "input_ids"], ["embedded"])
    x = _attention_layer(graph, _delta_layer(graph, x))
    if last_only:
        x = graph.op("Gather", [x, graph.weight("last_row", np.array([-1], np.int64))], ["last_hidden"], axis=1)
    graph.linear(x, "logits", HIDDEN, vocab_size, 3.0)
    real = TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
        helper.make_tensor_value_info("position_ids", TensorProto.INT64, [3, "batch", "tokens"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", real, ["batch", "rows", vocab_size])]
    for entry in state_entries():
        shape = ["batch", *entry["shape"][1:]]
        if entry["token_axis"] is not None:
            shape[entry["token_axis"]] = "past"
        inputs.append(helper.make_tensor_value_info(entry["input_name"], real, shape))
        if entry["token_axis"] is not None:
            shape[entry["token_axis"]] = "total_buffer"
        outputs.append(helper.make_tensor_value_info(entry["output_name"], real, shape))
    proto = helper.make_graph(graph.nodes, "tiny", inputs, outputs, graph.weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=10)


def state_entries() -> list[dict[str, Any]]:
    """The state tensors, as a manifest lists them."""
    cache = [1, KV_HEADS, CONTEXT_LENGTH, HEAD_DIM]
    rows: list[tuple[str, str, int, list[int], str, str, int | None]] = [
        ("layers.0.conv", "conv", 0, [1, CHANNELS, KERNEL - 1], "past.0.conv", "present.0.conv", None),
        (
            "layers.0.recurrent",
            "recurrent",
            0,
            [1, HEADS, KEY_DIM, VALUE_DIM],
            "past.0.recurrent",
            "present.0.recurrent",
            None,
        ),
        ("layers.1.key", "key", 1, cache, "past_key_values.1.key", "present.1.key", 2),
        ("layers.1.value", "value", 1, cache, "past_key_values.1.value", "present.1.value", 2),
    ]
    names = ("name", "kind", "layer", "shape", "input_name", "output_name", "token_axis")
    entries = [dict(zip(names, row, strict=True)) for row in rows]
    return [{**entry, "dtype": "float32", "bytes": int(np.prod(entry["shape"])) * 4} for entry in entries]


def tiny_tokenizer(alphabet: Sequence[str] | None = None) -> Tokenizer:
    """A byte-level BPE tokenizer with the special tokens of ChatML; by default over all bytes."""
    letters = pre_tokenizers.ByteLevel.alphabet() if alphabet is None else list(alphabet)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    return tokenizer


def genai_config(vocab_size: int, eos_token_ids: list[int]) -> dict[str, Any]:
    """What stock onnxruntime-genai reads."""
    decoder = {
        "session_options": {"intra_op_num_threads": 1, "provider_options": []},
        "filename": "model.onnx",
        "head_size": HEAD_DIM,
        "hidden_size": HIDDEN,
        "num_attention_heads": Q_HEADS,
        "num_hidden_layers": 2,
        "num_key_value_heads": KV_HEADS,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
            "past_conv_names": "past.%d.conv",
            "past_recurrent_names": "past.%d.recurrent",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
            "present_conv_names": "present.%d.conv",
            "present_recurrent_names": "present.%d.recurrent",
        },
    }
    model = {
        "type": "qwen3_5_text",
        "bos_token_id": eos_token_ids[0],
        "eos_token_id": eos_token_ids,
        "pad_token_id": eos_token_ids[-1],  # onnxruntime-genai masks it out, so it must not be one of a prompt
        "context_length": CONTEXT_LENGTH,
        "vocab_size": vocab_size,
        "decoder": decoder,
    }
    search = {"do_sample": False, "max_length": CONTEXT_LENGTH, "past_present_share_buffer": True, "num_beams": 1}
    return {"model": model, "search": search}


def one_shot_logits(model: onnx.ModelProto, tokens: list[int]) -> Array:
    """Logits of every position by one plain call: no shared buffers, empty states."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    count = len(tokens)
    feeds: dict[str, Array] = {
        "input_ids": np.array([tokens], np.int64),
        "attention_mask": np.ones((1, count), np.int64),
        "position_ids": np.broadcast_to(np.arange(count), (3, 1, count)).copy(),
    }
    for entry in state_entries():
        shape = list(entry["shape"])
        if entry["token_axis"] is not None:
            shape[entry["token_axis"]] = 0
        feeds[entry["input_name"]] = np.zeros(shape, np.float32)
    return np.asarray(session.run(["logits"], feeds)[0])[0]


def reference_case(name: str, tokens: list[int], logits: Array, full: list[int]) -> dict[str, Array]:
    """The tensors of one case of reference.safetensors."""
    positions = np.arange(len(tokens)) if name == "prompt" else np.array(full)
    chosen = logits[positions].astype(np.float32)
    order = np.argsort(-chosen, axis=-1)[:, :64].astype(np.int32)
    peak = chosen.max(axis=-1)
    return {
        f"{name}.tokens": np.array(tokens, np.int64),
        f"{name}.full_positions": np.array(full, np.int64),
        f"{name}.full_logits": logits[full].astype(np.float32),
        f"{name}.top_positions": positions.astype(np.int64),
        f"{name}.top_ids": order,
        f"{name}.top_logits": np.take_along_axis(chosen, order.astype(np.int64), axis=-1),
        f"{name}.lse": (peak + np.log(np.exp(chosen - peak[:, None]).sum(axis=-1))).astype(np.float32),
    }


def write_reference(place: Path, vocab_size: int) -> None:
    """The reference of the tiny model: a prompt, and a sequence as long as the context."""
    model = tiny_graph(vocab_size, last_only=False)
    random = np.random.default_rng(5)
    prompt = random.integers(0, vocab_size, 70).tolist()
    longest = random.integers(0, vocab_size, CONTEXT_LENGTH).tolist()
    tensors = reference_case("prompt", prompt, one_shot_logits(model, prompt), [0, 20, 69])
    tensors |= reference_case("long", longest, one_shot_logits(model, longest), [CONTEXT_LENGTH - 1])
    metadata = {"format": "1", "emulation": "none", "tolerance_kind": "float", "tolerance": "1e-4"}
    save_file(tensors, place, metadata=metadata)


def manifest_dict(directory: Path, *, vocab_size: int, eos_token_ids: list[int], pad_token_id: int) -> dict[str, Any]:
    """A manifest for what lies in a directory."""
    files = sorted(place for place in directory.rglob("*") if place.is_file() and place.name != "manifest.json")
    return {
        "schema_version": 1,
        "model": "tiny",
        "source": {"kind": "random", "id": "tiny", "revision": None, "sha256": None},
        "weights": "random",
        "scheme": "float",
        "method": "rtn",
        "backend": "onnx",
        "runtime": {
            "name": "onnxruntime",
            "version": importlib.metadata.version("onnxruntime"),
            "oldest_version": "1.31",
        },
        "context_length": CONTEXT_LENGTH,
        "prefill_chunk": PREFILL_CHUNK,
        "vocab_size": vocab_size,
        "eos_token_ids": eos_token_ids,
        "pad_token_id": pad_token_id,
        "model_file": "model.onnx",
        "tokenizer_file": "tokenizer.json",
        "chat_template_file": "chat_template.jinja",
        "reference_file": "reference.safetensors",
        "modalities": ["text"],
        "threads": 1,
        "state": state_entries(),
        "files": [
            {
                "path": place.relative_to(directory).as_posix(),
                "bytes": place.stat().st_size,
                "sha256": hashlib.sha256(place.read_bytes()).hexdigest(),
            }
            for place in files
        ],
        "bytes_read_per_decoded_token": 1000,
        "toolchain": {"onnx": importlib.metadata.version("onnx")},
        "inputs": {"spec_hash": "0" * 64, "checkpoint_hash": "1" * 64},
        "measured": {"parity": None, "quality": None},
    }


def write_artifact(directory: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """A whole artifact in a directory; `change` may edit its manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    vocab_size = tokenizer.get_vocab_size() + 3  # as in Qwen3.5, the model has more rows than the tokenizer has tokens
    model = tiny_graph(vocab_size)
    onnx.save_model(
        model, directory / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=256
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    eos = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    (directory / "genai_config.json").write_text(json.dumps(genai_config(vocab_size, eos)))
    write_reference(directory / "reference.safetensors", vocab_size)
    manifest = manifest_dict(directory, vocab_size=vocab_size, eos_token_ids=eos, pad_token_id=eos[1])
    if change is not None:
        change(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory
