"""A Qwen3.5 checkpoint as a `BlockModel`: each layer a float function of hidden states, one in memory at a time.

The layers are those of export/decoder.py, so what a method fits is what the backends lower. Nothing is fused here: each
matrix keeps its unit's own tensor, which is what methods replace; buffers are made from tensors by the decoder's own
recipes, which are differentiable.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from export.blocks import Fold, Made, Seen
from export.checkpoint import Checkpoint
from export.config import ModelConfig
from export.decoder import Activations, Layer, Matrix, Model, Part, Plain, Recipe, Rope, rope_table, text_positions
from export.materialize import Weights, materialize, select_rows
from export.operators import rms_norm
from export.schemes import FLOAT, Layout
from export.state import state_tensors
from export.weights import EMBEDDING, HEAD, Unit, block_of, plain_tensors, units

Place = tuple[str, Recipe]  # a buffer of the layer, and what it is made from


@dataclass(frozen=True, kw_only=True)
class FloatWeights:
    """A checkpoint read as the decoder's float weights, tensor by tensor."""

    checkpoint: Checkpoint
    config: ModelConfig

    @property
    def layout(self) -> Layout:
        return {unit.name: FLOAT for unit in units(self.config)}

    def weight(self, unit: str, rows: slice | None = None) -> Tensor:
        tensor = next(known.tensor for known in units(self.config) if known.name == unit)
        return self.checkpoint.read(tensor, rows).float()

    def plain(self, name: str) -> Tensor:
        return self.checkpoint.read(plain_tensors(self.config)[name]).float()


@dataclass(frozen=True, kw_only=True)
class CheckpointBlock:
    """One decoder layer with its float weights in memory; see `export.blocks.Block`."""

    name: str
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    layer: Layer
    places: tuple[Place, ...]

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        return {unit.name: (unit.out_features, unit.in_features) for unit in block_units(self.config, self.name)}

    @property
    def folds(self) -> Sequence[Fold]:
        """Where a channel may change its size: behind each norm, along SwiGLU's linear side, and from values on.

        Attention's output gate multiplies after the values are mixed, so values scale through it.
        """
        mixer = self._linear_folds() if self.layer.mixes_linearly else self._attention_folds()
        mlp = f"{self.name}.mlp"
        return (
            *mixer,
            Fold(
                source=f"{self.name}.post_attention_layernorm.weight",
                kind="one_plus",
                readers=(f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            ),
            Fold(source=f"{mlp}.up_proj", kind="rows", readers=(f"{mlp}.down_proj",)),
        )

    def _linear_folds(self) -> tuple[Fold, ...]:
        name = f"{self.name}.linear_attn"
        return (
            self._input_fold(tuple(f"{name}.in_proj_{one}" for one in ("qkv", "z", "a", "b"))),
            Fold(
                source=f"{name}.norm.weight",
                kind="norm",
                readers=(f"{name}.out_proj",),
                repeat=self.config.linear_num_value_heads,
            ),
        )

    def _attention_folds(self) -> tuple[Fold, ...]:
        name = f"{self.name}.self_attn"
        return (
            self._input_fold(tuple(f"{name}.{one}_proj" for one in "qkv")),
            Fold(
                source=f"{name}.v_proj",
                kind="rows",
                readers=(f"{name}.o_proj",),
                group=self.config.head_dim,
                copies=self.config.num_attention_heads // self.config.num_key_value_heads,
            ),
        )

    def _input_fold(self, readers: tuple[str, ...]) -> Fold:
        return Fold(source=f"{self.name}.input_layernorm.weight", kind="one_plus", readers=readers)

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]

    def run(
        self,
        hidden: Tensor,
        replaced: Mapping[str, Tensor] | None = None,
        seen: Seen | None = None,
        made: Made | None = None,
    ) -> Tensor:
        count, length, _ = hidden.shape
        tables = rope_table(self.config, length, "cos"), rope_table(self.config, length, "sin")
        positions = text_positions(0, length).expand(3, count, length)
        rope = Rope(positions, torch.tensor([0]), *tables, self.config.mrope_section)
        with _telling(self.layer, seen), _telling_outputs(self, made):
            update, residual, _ = functional_call(
                self.layer, self._buffers(replaced or {}), (None, hidden, rope, self._zero_state(hidden), False)
            )
        total: Tensor = update + residual
        return total

    def _buffers(self, replaced: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The layer's buffers that the replaced tensors go into."""
        unknown = sorted(set(replaced) - set(self.tensors))
        if unknown:
            raise KeyError(f"{self.name} has no tensor {unknown[0]!r}; it has {', '.join(self.tensors)}")
        source = _InMemory(config=self.config, tensors={**self.tensors, **replaced})
        return {
            place: materialize(recipe, source, 1)
            for place, recipe in self.places
            if any(part.unit in replaced for part in recipe.parts)
        }

    def _zero_state(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        count, length, _ = hidden.shape
        index = int(self.name.rpartition(".")[2])
        first, second = state_tensors(self.config, length)[2 * index : 2 * index + 2]
        return hidden.new_zeros(count, *first.shape[1:]), hidden.new_zeros(count, *second.shape[1:])


@dataclass(frozen=True, kw_only=True)
class CheckpointModel:
    """The text model of a checkpoint; see `export.blocks.BlockModel`."""

    weights: Weights

    @property
    def config(self) -> ModelConfig:
        return self.weights.config

    @property
    def block_names(self) -> Sequence[str]:
        return tuple(f"layers.{index}" for index in range(self.config.num_layers))

    @property
    def head_unit(self) -> str:
        return EMBEDDING if self.config.tie_word_embeddings else HEAD

    def embed(self, tokens: Tensor) -> Tensor:
        """Each row is read on its own: a calibration needs few of a large table."""
        ids, places = tokens.unique(return_inverse=True)
        rows = torch.cat([self.weights.weight(EMBEDDING, slice(int(one), int(one) + 1)) for one in ids])
        return rows[places]

    def block(self, name: str) -> CheckpointBlock:
        tensors = {unit.name: self.weights.weight(unit.name) for unit in block_units(self.config, name)}
        tensors |= {plain: self.weights.plain(plain) for plain in plain_tensors(self.config) if block_of(plain) == name}
        return make_block(self.config, name, tensors)

    def finish(self, hidden: Tensor) -> Tensor:
        norm = materialize(Recipe(field="one_plus", parts=(Part(unit="norm.weight"),)), self.weights, 1)
        found: Tensor = rms_norm(hidden, norm, self.config.rms_norm_eps)
        return found


@dataclass(frozen=True)
class _Apart(Model):
    """A decoder in which no two units become one matrix."""

    def fuses(self, part: Part, following: Part) -> bool:  # noqa: ARG002 (the model's signature)
        return False


@dataclass(frozen=True, kw_only=True)
class _InMemory:
    """`Weights` over tensors of one block."""

    config: ModelConfig
    tensors: Mapping[str, Tensor]

    def weight(self, unit: str, rows: slice | None = None) -> Tensor:
        found = self.tensors[unit]
        return found if rows is None else found[rows]

    def plain(self, name: str) -> Tensor:
        return self.tensors[name]


def make_block(config: ModelConfig, name: str, tensors: Mapping[str, Tensor]) -> CheckpointBlock:
    """One decoder layer on the tensors given, which it shares and does not copy where the decoder takes them whole."""
    by_name = {unit.name: unit for unit in units(config)}
    apart = _Apart(config, dict.fromkeys(by_name, FLOAT), Activations(), by_name, fuse_quantized=False)
    with torch.device("meta"):
        layer = Layer(apart, int(name.rpartition(".")[2]))
    places = tuple(_places(layer))
    source = _InMemory(config=config, tensors=tensors)
    for place, recipe in places:
        path, _, buffer = place.rpartition(".")
        setattr(layer.get_submodule(path), buffer, materialize(recipe, source, 1))
    return CheckpointBlock(name=name, config=config, tensors=tensors, layer=layer, places=places)


def block_units(config: ModelConfig, name: str) -> list[Unit]:
    """The matrices of one block, in file order."""
    return [unit for unit in units(config) if block_of(unit.name) == name]


def _places(layer: Layer) -> Iterator[Place]:
    for prefix, module in layer.named_modules():
        if isinstance(module, Matrix | Plain):
            for buffer, recipe in module.recipes.items():
                yield f"{prefix}.{buffer}", recipe


@contextmanager
def _telling(layer: Layer, seen: Seen | None) -> Iterator[None]:
    """While open, tell `seen` of each input once, with every unit that reads it: they read it one after the other."""
    if seen is None:
        yield
        return
    readers: list[str] = []
    inputs: list[Tensor] = []

    def tell() -> None:
        if inputs:
            seen(tuple(dict.fromkeys(readers)), inputs[0].flatten(0, -2))
        readers.clear()
        inputs.clear()

    def hear(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, Matrix)
        if inputs and inputs[0] is not args[0]:
            tell()
        inputs[:] = [args[0]]
        readers.extend(part.unit for part in module.recipes["weight"].parts)

    matrices = [module for module in layer.modules() if isinstance(module, Matrix)]
    handles = [matrix.register_forward_pre_hook(hear) for matrix in matrices]
    try:
        yield
        tell()
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _telling_outputs(block: CheckpointBlock, made: Made | None) -> Iterator[None]:
    """While open, tell `made` of each matrix's output."""
    matrices = [module for module in block.layer.modules() if isinstance(module, Matrix) and made is not None]

    def hear(module: torch.nn.Module, _: tuple[Tensor, ...], y: Tensor) -> None:
        assert isinstance(module, Matrix)
        assert made is not None
        (part,) = module.recipes["weight"].parts
        numbers = torch.arange(block.shapes[part.unit][0]).unsqueeze(1)
        rows = None if part.rows == "all" else select_rows(numbers, part, block.config).flatten()
        made(part.unit, rows, y)

    handles = [matrix.register_forward_hook(hear) for matrix in matrices]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
