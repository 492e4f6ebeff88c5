"""Adapters in stock ONNX Runtime against eager torch with the same corrections added."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from export import catalog
from export.decoder import Matrix, text_positions
from export.finetune import FinetuneError
from export.finetune.onnx_adapters import Correction, accept_adapters, read_adapters, write_adapter
from export.finetune.subject import parameter_name
from export.materialize import select_rows
from export.onnx_lowering.lowering import ACTIVATIONS
from export.quantized import QuantizedCheckpoint
from export.state import zero_state
from export.weights import EMBEDDING, units
from tests.subjects import CONTEXT, eager, quantized, random_tokens, relative_error, request

RANK, TOKENS = 4, 12
TOLERANCE = 0.03  # activations are rounded to int8: one that falls on the other side moves logits by a percent


def save_peft(directory: Path, store: QuantizedCheckpoint, **settings: object) -> Path:
    """Random adapters of every quantized matrix of the layers, as peft writes them."""
    directory.mkdir()
    generator = torch.Generator().manual_seed(9)
    tensors = {}
    for unit in units(store.config):
        if not store.layout[unit.name].is_float and unit.name not in (EMBEDDING, "lm_head"):
            name = "base_model.model." + parameter_name(unit.tensor).removesuffix(".weight")
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, unit.in_features, generator=generator) * 0.1
            tensors[f"{name}.lora_B.weight"] = torch.randn(unit.out_features, RANK, generator=generator) * 0.1
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"r": RANK, "lora_alpha": 2 * RANK, "bias": "none", **settings}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def store(fixture_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> QuantizedCheckpoint:
    return quantized(fixture_checkpoint("like_4b"), tmp_path_factory.mktemp("store"), "int4")


@pytest.fixture(scope="module")
def graph(store: QuantizedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of an artifact, and beside it the one that takes adapters."""
    directory = tmp_path_factory.mktemp("artifact")
    catalog.load("backends", "onnx").lower(store, request(store), directory, lambda *_: None)
    count = accept_adapters(directory / "model.onnx", directory / "adapted.onnx", store.config, store.layout)
    quantized_units = [name for name, form in store.layout.items() if not form.is_float and name != EMBEDDING]
    attention = sum(kind == "full_attention" for kind in store.config.layer_types)
    assert count == len(quantized_units) + attention  # q_proj is two products: queries and their gate
    return directory / "adapted.onnx"


def run(model: Path, store: QuantizedCheckpoint, adapter: Path | None) -> Tensor:
    """Logits of the last of some tokens in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(model), options)
    tokens = random_tokens(store.config, TOKENS)
    known = {
        "input_ids": tokens.numpy(),
        "attention_mask": np.ones((1, TOKENS), np.int64),
        "position_ids": text_positions(0, TOKENS).contiguous().numpy(),
    }
    feeds = {
        one.name: known.get(
            one.name, np.zeros([axis if isinstance(axis, int) else 0 for axis in one.shape], np.float32)
        )
        for one in session.get_inputs()
    }
    settings = onnxruntime.RunOptions()
    if adapter is not None:
        loaded = onnxruntime.LoraAdapter()
        loaded.Load(str(adapter))
        settings.add_active_adapter(loaded)
    return torch.from_numpy(session.run(["logits"], feeds, settings)[0]).flatten()


def corrected(store: QuantizedCheckpoint, corrections: dict[str, Correction]) -> Tensor:
    """Logits of the same tokens in eager torch, each matrix with its correction added."""
    decoder = eager(store, ACTIVATIONS, fuse_quantized=False)

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(module, Matrix)
        if "codes" not in module.recipes or module.recipes["codes"].parts[0].unit not in corrections:
            return output
        (part,) = module.recipes["codes"].parts
        found = corrections[part.unit]
        return output + inputs[0] @ found.down @ select_rows(found.up, part, store.config).T

    for module in decoder.modules():
        if isinstance(module, Matrix):
            module.register_forward_hook(add)
    with torch.no_grad():
        tokens = random_tokens(store.config, TOKENS)
        state = zero_state(store.config, CONTEXT)
        found, _ = decoder(tokens, text_positions(0, TOKENS), torch.tensor([0]), state, last_only=True)
    return found.flatten()


def test_without_an_adapter_the_graph_computes_the_very_bits_that_it_did(
    graph: Path, store: QuantizedCheckpoint
) -> None:
    assert torch.equal(run(graph, store, None), run(graph.with_name("model.onnx"), store, None))


def test_an_active_adapter_computes_what_eager_torch_does_with_the_corrections(
    graph: Path, store: QuantizedCheckpoint, tmp_path: Path
) -> None:
    corrections = read_adapters(save_peft(tmp_path / "adapters", store), store.config)
    write_adapter(graph, corrections, store.layout, store.config, tmp_path / "one.onnx_adapter")
    expected = corrected(store, corrections)
    found = run(graph, store, tmp_path / "one.onnx_adapter")
    assert relative_error(found, expected) <= TOLERANCE
    assert relative_error(run(graph, store, None), expected) > 10 * TOLERANCE, "the adapter changed nothing"


def test_adapters_that_cannot_lie_beside_a_model_are_named(
    graph: Path, store: QuantizedCheckpoint, tmp_path: Path
) -> None:
    with pytest.raises(FinetuneError, match="holds no LoRA adapters in peft's format"):
        read_adapters(tmp_path, store.config)
    with pytest.raises(FinetuneError, match="use_dora is True; only plain LoRA"):
        read_adapters(save_peft(tmp_path / "dora", store, use_dora=True), store.config)
    foreign = save_peft(tmp_path / "foreign", store)
    save_file(
        {"base_model.model.model.layers.77.mlp.up_proj.lora_A.weight": torch.ones(1, 1)},
        foreign / "adapter_model.safetensors",
    )
    with pytest.raises(FinetuneError, match="is no matrix of this model"):
        read_adapters(foreign, store.config)
    gates = {"layers.0.linear_attn.in_proj_a": Correction(down=torch.ones(64, 1), up=torch.ones(4, 1))}
    with pytest.raises(FinetuneError, match="no quantized product of 'layers.0.linear_attn.in_proj_a'.*merge it"):
        write_adapter(graph, gates, store.layout, store.config, tmp_path / "two.onnx_adapter")
