"""LoRA adapters that ONNX Runtime loads beside an artifact: `RunOptions.add_active_adapter`.

ONNX Runtime knows an adapter as values for optional graph inputs: an input that has an initializer, which is what it is
worth when no adapter is active. So each quantized product gets two small ones beside it,

    y = MatMulNBits(x) + (x A) B,

A (in, rank) and B (rank, out) being inputs whose initializers have rank 0: the sum is then exactly y. An adapter file
holds the A and B of one fine-tune; many can lie beside one set of weights, of different ranks. Runners need not change,
since nobody has to give an optional input. The artifact's weights stay where they are.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from export.capture import fake_tensors
from export.config import ModelConfig
from export.decoder import Decoder, Part
from export.finetune import FinetuneError
from export.finetune.subject import parameter_name
from export.materialize import select_rows
from export.schemes import Layout
from export.weights import Unit, units

PRODUCT, CODES = "MatMulNBits", ".codes.matrix."
PEFT_PREFIX = "base_model.model."
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PLAIN: Mapping[str, Any] = {
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}
VERSION = 1

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One unit's adapter: `down` (in, rank), and `up` (out, rank) with its scaling multiplied in."""

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Product:
    """A quantized product of the graph: `rows` of the part of a unit that `matrix` computes."""

    node: ir.Node
    matrix: str
    part: Part
    rows: slice

    @property
    def names(self) -> tuple[str, str]:
        """The inputs A and B; pieces of one matrix share A."""
        return f"{self.matrix}.lora_A", f"{self.matrix}.lora_B.{self.rows.start}"


def accept_adapters(source: Path, target: Path, config: ModelConfig, layout: Layout) -> int:
    """Write a graph beside its weights that takes adapters for every quantized product of a layer; returns how many."""
    model = ir.load(source)
    products = list(_products(model.graph, config, layout))
    for product in products:
        _add_correction(model.graph, product)
    ir.save(model, target)
    return len(products)


def write_adapter(
    graph: Path, corrections: Mapping[str, Correction], layout: Layout, config: ModelConfig, place: Path
) -> None:
    """Write the values of a graph's optional inputs for one fine-tune."""
    values: dict[str, Array] = {}
    used = set()
    for product in _products(ir.load(graph).graph, config, layout):
        if product.part.unit not in corrections:
            continue
        used.add(product.part.unit)
        found = corrections[product.part.unit]
        up = select_rows(found.up, product.part, config)[product.rows]
        values |= dict(zip(product.names, (_array(found.down), _array(up.T)), strict=True))
    unused = sorted(set(corrections) - used)
    if unused:
        raise FinetuneError(
            f"{graph}: no quantized product of {unused[0]!r}, which the adapter corrects; merge it instead"
        )
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(VERSION)
    adapter.set_model_version(VERSION)
    adapter.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in values.items()})
    adapter.export_adapter(str(place))


def read_adapters(directory: Path, config: ModelConfig) -> dict[str, Correction]:
    """The adapters of a directory in peft's format, by unit."""
    try:
        settings = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(directory / WEIGHTS_FILE)
        scaling = settings["lora_alpha"] / settings["r"]
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise FinetuneError(
            f"{directory}: holds no LoRA adapters in peft's format ({error}); name the directory of {CONFIG_FILE}"
        ) from error
    for name, plain in PLAIN.items():
        if settings.get(name, plain) not in (plain, None):
            raise FinetuneError(
                f"{directory / CONFIG_FILE}: {name} is {settings[name]!r}; only plain LoRA can be loaded "
                "beside a model, so merge it"
            )
    modules = {PEFT_PREFIX + parameter_name(unit.tensor).removesuffix(".weight"): unit for unit in units(config)}
    found = {}
    for module in sorted({name.rpartition(".lora_")[0] for name in tensors}):
        if module not in modules:
            raise FinetuneError(
                f"{directory / WEIGHTS_FILE}: {module!r} is no matrix of this model; adapters of another model?"
            )
        found[modules[module].name] = _correction(directory, modules[module], tensors, module, scaling)
    return found


def _correction(
    directory: Path, unit: Unit, tensors: Mapping[str, torch.Tensor], module: str, scaling: float
) -> Correction:
    down, up = (tensors.get(f"{module}.lora_{one}.weight") for one in "AB")
    if down is None or up is None or (down.shape[1], up.shape[0]) != (unit.in_features, unit.out_features):
        raise FinetuneError(
            f"{directory / WEIGHTS_FILE}: {module!r} lacks a half or has another shape than {unit.name}; save it again"
        )
    return Correction(down=down.float().T, up=up.float() * scaling)


def _products(graph: ir.Graph, config: ModelConfig, layout: Layout) -> Iterator[Product]:
    """The quantized products of the layers, in graph order; the head is none of them."""
    with fake_tensors():
        recipes = Decoder(config, layout, 1, fuse_quantized=False).recipes()
    for node in graph:
        codes = node.inputs[1].name if node.op_type == PRODUCT and node.inputs[1] is not None else None
        if codes is None or not codes.startswith("layers."):
            continue
        matrix, _, start = codes.partition(CODES)
        first = int(start)
        (part,) = recipes[f"{matrix}.codes"].parts
        yield Product(node=node, matrix=matrix, part=part, rows=slice(first, first + node.attributes["N"].as_int()))


def _add_correction(graph: ir.Graph, product: Product) -> None:
    """Add (x A) B to a product's output."""
    node = product.node
    down = _optional(graph, product.names[0], (node.attributes["K"].as_int(), 0))
    up = _optional(graph, product.names[1], (0, node.attributes["N"].as_int()))
    out, readers = node.outputs[0], tuple(node.outputs[0].uses())
    low = ir.node("MatMul", [node.inputs[0], down], name=f"{node.name}/lora_A")
    high = ir.node("MatMul", [low.outputs[0], up], name=f"{node.name}/lora_B")
    total = ir.node("Add", [out, high.outputs[0]], name=f"{node.name}/lora")
    for one in (low, high, total):
        one.outputs[0].name = str(one.name)
    for reader, place in readers:
        reader.replace_input_with(place, total.outputs[0])
    graph.insert_after(node, [low, high, total])


def _optional(graph: ir.Graph, name: str, shape: tuple[int, int]) -> ir.Value:
    """An input worth an empty matrix unless an adapter says otherwise."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.tensor(np.zeros(shape, np.float32), name=name)
    rank = f"{name}.rank"
    value = ir.Value(
        name=name,
        shape=ir.Shape([one or rank for one in shape]),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=tensor,
    )
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value


def _array(tensor: torch.Tensor) -> Array:
    return np.ascontiguousarray(tensor.numpy(), dtype=np.float32)
