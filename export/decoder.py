"""Our export-friendly Qwen3.5 text decoder: pure functions of (tokens, positions, state) to (logits, new state).

One decoder serves every backend. It is plain torch except for the `edge::` operators (export/operators.py), state
goes in and out explicitly, and matrices that read the same input are fused row-wise on their codes before capture.
Tested against transformers' `Qwen3_5ForConditionalGeneration`. With `last_only`, everything after the last layer's
token mixer runs for the last token alone: a prefill needs no other logits, and that saves the head, one MLP and one
output projection.

No tensor of the decoder is stored in it: `recipes()` says how each parameter is made from the quantized checkpoint, so
that a backend can capture with fake tensors and write weights one at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from export import operators as edge
from export.config import ModelConfig
from export.schemes import CacheKind, Format, Layout
from export.weights import EMBEDDING, HEAD, Unit, units

L2_EPS = 1e-6  # modeling_qwen3_5.py `l2norm`; not a config field

Field = Literal[
    "codes", "scales", "weight", "plain", "grid", "output_grid", "one_plus", "negative_exp", "conv", "cos", "sin"
]
Rows = Literal["all", "query", "gate"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of one unit: all of it, or the query or gate half of a q_proj (interleaved per head in the checkpoint)."""

    unit: str
    rows: Rows = "all"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one decoder tensor is made: the parts' `field`, concatenated along rows."""

    field: Field
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What a runtime rounds besides weights.

    `kind` is what it does to inputs of quantized matrices (see `edge::linear`), `group_cap` bounds the block (ONNX).
    With `cache` int8 keys and values are rounded as they enter the cache. `static` names the grids that calibration
    learned (export/static_grids.py): matrices that have one are "int8_static" instead. With `static_outputs` their
    products are rounded to 8 bits too.
    """

    kind: str = "none"
    group_cap: int = 0
    cache: CacheKind = "float"
    static: frozenset[str] = frozenset()
    static_outputs: bool = False

    def group(self, in_features: int, group_size: int | None) -> int:
        """Inputs that share one activation scale in a matrix with that many inputs."""
        if self.kind != "int8_group":
            return in_features
        return group_size or largest_block(in_features, self.group_cap)


def largest_block(in_features: int, cap: int) -> int:
    """The largest power of two up to `cap` that divides `in_features`: the block a per-row format is packed in."""
    block = cap
    while in_features % block:
        block //= 2
    return block


class Matrix(nn.Module):
    """One matrix product: codes and scales in a quantized format, or a float weight."""

    weight: Tensor
    codes: Tensor
    scales: Tensor
    output_grid: Tensor | None

    def __init__(self, parts: tuple[Part, ...], shape: tuple[int, int], form: Format, activations: Activations) -> None:
        super().__init__()
        out_features, in_features = shape
        self.form = form
        self.parts = parts
        self.group_size = form.group_size or in_features
        self.activation = activations.kind
        self.activation_group = activations.group(in_features, form.group_size)
        self.grid: Plain | None = None
        self.recipes: dict[str, Recipe] = {}
        grid = input_grid_name(parts[0].unit)
        if grid in activations.static:
            self.activation = edge.STATIC
            self.grid = Plain(grid, (2,), "grid")
        self.register_buffer("output_grid", None)
        if output_grid_name(parts[0]) in activations.static:
            self.output_grid = torch.empty(out_features, 2)
            self.recipes["output_grid"] = Recipe(field="output_grid", parts=parts)
        if form.is_float:
            self.register_buffer("weight", torch.empty(out_features, in_features))
            self.recipes["weight"] = Recipe(field="weight", parts=parts)
        else:
            self.register_buffer("codes", torch.empty(out_features, in_features, dtype=torch.int8))
            self.register_buffer("scales", torch.empty(out_features, form.groups(in_features)))
            self.recipes["codes"] = Recipe(field="codes", parts=parts)
            self.recipes["scales"] = Recipe(field="scales", parts=parts)

    def forward(self, x: Tensor) -> Tensor:
        if self.form.is_float:
            return functional.linear(x, self.weight)
        product: Tensor = edge.linear(
            x,
            self.codes,
            self.scales,
            self.form.bits,
            self.group_size,
            self.activation,
            self.activation_group,
            None if self.grid is None else self.grid(),
            self.output_grid,
        )
        return product

    def rows(self, ids: Tensor) -> Tensor:
        """Use the matrix as an embedding table: ids (B, T) -> (B, T, in_features)."""
        if self.form.is_float:
            return functional.embedding(ids, self.weight)
        found: Tensor = edge.embedding(ids, self.codes, self.scales, self.form.bits, self.group_size)
        return found


class Projection(nn.Module):
    """Matrices that read the same input, fused where the model says so; returns one tensor per part."""

    def __init__(self, parts: Sequence[Part], sizes: Sequence[int], model: "Model") -> None:
        super().__init__()
        self.sizes: list[list[int]] = []
        self.matrices = nn.ModuleList()
        run: list[int] = []
        for index, part in enumerate(parts):
            run.append(index)
            if index + 1 == len(parts) or not model.fuses(part, parts[index + 1]):
                widths = [sizes[member] for member in run]
                fused = tuple(parts[member] for member in run)
                self.matrices.append(model.matrix(fused, sum(widths)))
                self.sizes.append(widths)
                run = []

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = []
        for matrix, widths in zip(self.matrices, self.sizes, strict=True):
            y = matrix(x)
            outputs += torch.split(y, widths, dim=-1) if len(widths) > 1 else [y]
        return outputs


@dataclass(frozen=True)
class Model:
    """What every layer needs to know to build itself."""

    config: ModelConfig
    layout: Layout
    activations: Activations
    units: dict[str, Unit]
    fuse_quantized: bool

    def fuses(self, part: Part, following: Part) -> bool:
        """Whether two neighbours become one product: they must share a format, and float ones always gain."""
        form = self.layout[part.unit]
        return form == self.layout[following.unit] and (form.is_float or self.fuse_quantized)

    def matrix(self, parts: tuple[Part, ...], out_features: int) -> Matrix:
        unit = self.units[parts[0].unit]
        return Matrix(parts, (out_features, unit.in_features), self.layout[unit.name], self.activations)

    def whole(self, name: str) -> Matrix:
        return self.matrix((Part(unit=name),), self.units[name].out_features)


class Plain(nn.Module):
    """One small float tensor, as an operator reads it (norm weights hold 1 + w)."""

    value: Tensor

    def __init__(self, name: str, shape: tuple[int, ...], field: Field = "plain") -> None:
        super().__init__()
        self.register_buffer("value", torch.empty(shape))
        self.recipes = {"value": Recipe(field=field, parts=(Part(unit=name),))}

    def forward(self) -> Tensor:
        return self.value


class CacheRounding(nn.Module):
    """What becomes of keys or values in an int8 cache; `scale` (1,) is calibrated (export/cache_scales.py)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.scale = Plain(name, (1,))

    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = edge.round_to_cache(x, self.scale())
        return rounded


class DeltaNet(nn.Module):
    """Gated DeltaNet (GDN): linear attention with a recurrent state per value head."""

    def __init__(self, model: Model, layer: int) -> None:
        super().__init__()
        config, name = model.config, f"layers.{layer}.linear_attn"
        heads = config.linear_num_value_heads
        self.config = config
        self.in_proj = Projection(
            [Part(unit=f"{name}.in_proj_qkv"), Part(unit=f"{name}.in_proj_z")],
            [config.conv_dim, config.linear_value_dim],
            model,
        )
        self.gate_proj = Projection(
            [Part(unit=f"{name}.in_proj_a"), Part(unit=f"{name}.in_proj_b")], [heads, heads], model
        )
        self.conv = Plain(f"{name}.conv1d.weight", (config.conv_dim, config.linear_conv_kernel_dim), "conv")
        self.decay_scale = Plain(f"{name}.A_log", (heads,), "negative_exp")
        self.dt_bias = Plain(f"{name}.dt_bias", (heads,))
        self.norm = Plain(f"{name}.norm.weight", (config.linear_value_head_dim,))
        self.out_proj = model.whole(f"{name}.out_proj")

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor], last_only: bool) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        config = self.config
        conv_state, recurrent_state = state
        mixed, z = self.in_proj(x)
        a, b = self.gate_proj(x)
        log_decay, beta = edge.delta_gate(a, b, self.decay_scale(), self.dt_bias())  # (B, T, Hv) each
        mixed, conv_state = edge.causal_conv(mixed, self.conv(), conv_state)
        qk, v = torch.split(mixed, [2 * config.linear_key_dim, config.linear_value_dim], dim=-1)
        qk = edge.l2_norm(qk.unflatten(-1, (2 * config.linear_num_key_heads, config.linear_key_head_dim)), L2_EPS)
        q, k = torch.split(qk, [config.linear_num_key_heads, config.linear_num_key_heads], dim=2)  # (B, T, Hk, D)
        v = v.unflatten(-1, (config.linear_num_value_heads, config.linear_value_head_dim))  # (B, T, Hv, D)
        scale = config.linear_key_head_dim**-0.5
        out, recurrent_state = edge.gated_delta(q, k, v, log_decay, beta, recurrent_state, scale)
        if last_only:
            out, z = out[:, -1:], z[:, -1:]
        z = z.unflatten(-1, (config.linear_num_value_heads, config.linear_value_head_dim))
        out = edge.gated_rms_norm(out, z, self.norm(), config.rms_norm_eps)
        return self.out_proj(out.flatten(2)), (conv_state, recurrent_state)


class FullAttention(nn.Module):
    """Gated grouped-query attention with interleaved mRoPE on a quarter of each head."""

    def __init__(self, model: Model, layer: int) -> None:
        super().__init__()
        config, name = model.config, f"layers.{layer}.self_attn"
        self.config = config
        self.in_proj = Projection(
            [
                Part(unit=f"{name}.q_proj", rows="query"),
                Part(unit=f"{name}.q_proj", rows="gate"),
                Part(unit=f"{name}.k_proj"),
                Part(unit=f"{name}.v_proj"),
            ],
            [config.query_dim, config.query_dim, config.key_value_dim, config.key_value_dim],
            model,
        )
        self.q_norm = Plain(f"{name}.q_norm.weight", (config.head_dim,), "one_plus")
        self.k_norm = Plain(f"{name}.k_norm.weight", (config.head_dim,), "one_plus")
        self.o_proj = model.whole(f"{name}.o_proj")
        if model.activations.cache == "int8":
            key_scale, value_scale = cache_scale_names(layer)
            self.round_keys: nn.Module = CacheRounding(key_scale)
            self.round_values: nn.Module = CacheRounding(value_scale)
        else:
            self.round_keys = self.round_values = nn.Identity()

    def forward(
        self, x: Tensor, rope: "Rope", state: tuple[Tensor, Tensor], last_only: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        config = self.config
        q, gate, k, v = self.in_proj(x)
        q = edge.rms_norm(
            q.unflatten(-1, (config.num_attention_heads, config.head_dim)), self.q_norm(), config.rms_norm_eps
        )
        k = edge.rms_norm(
            k.unflatten(-1, (config.num_key_value_heads, config.head_dim)), self.k_norm(), config.rms_norm_eps
        )
        v = v.unflatten(-1, (config.num_key_value_heads, config.head_dim))
        q, k = rope.rotate(q), rope.rotate(k)
        k, v = self.round_keys(k), self.round_values(v)
        out, k_cache, v_cache = edge.attention(q, k, v, *state, rope.start, config.head_dim**-0.5)
        if last_only:
            out, gate = out[:, -1:], gate[:, -1:]
        return self.o_proj(edge.sigmoid_gate(out.flatten(2), gate)), (k_cache, v_cache)


@dataclass(frozen=True)
class Rope:
    """Positions of one call: rows (3, B, T) for time, height, width; `start` (1,) is the first cache slot."""

    positions: Tensor
    start: Tensor
    cos_table: Tensor
    sin_table: Tensor
    sections: tuple[int, int, int]

    def rotate(self, x: Tensor) -> Tensor:
        rotated: Tensor = edge.rotary(x, self.positions, self.cos_table, self.sin_table, list(self.sections))
        return rotated


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, model: Model, layer: int) -> None:
        super().__init__()
        name, wide = f"layers.{layer}.mlp", model.config.intermediate_size
        self.in_proj = Projection([Part(unit=f"{name}.gate_proj"), Part(unit=f"{name}.up_proj")], [wide, wide], model)
        self.down_proj = model.whole(f"{name}.down_proj")

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.in_proj(x)
        hidden: Tensor = self.down_proj(edge.swiglu(gate, up))
        return hidden


class Layer(nn.Module):
    """A token mixer and a feed-forward, each behind its norm."""

    def __init__(self, model: Model, layer: int) -> None:
        super().__init__()
        hidden = (model.config.hidden_size,)
        self.mixes_linearly = model.config.layer_types[layer] == "linear_attention"
        self.eps = model.config.rms_norm_eps
        self.input_norm = Plain(f"layers.{layer}.input_layernorm.weight", hidden, "one_plus")
        self.mixer = DeltaNet(model, layer) if self.mixes_linearly else FullAttention(model, layer)
        self.feed_norm = Plain(f"layers.{layer}.post_attention_layernorm.weight", hidden, "one_plus")
        self.feed_forward = FeedForward(model, layer)

    def forward(
        self, update: Tensor | None, residual: Tensor, rope: Rope, state: tuple[Tensor, Tensor], last_only: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """(feed-forward output not yet added, residual, new state); `update` is the previous layer's such output."""
        if update is None:
            x = edge.rms_norm(residual, self.input_norm(), self.eps)
        else:
            x, residual = edge.add_rms_norm(update, residual, self.input_norm(), self.eps)
        if isinstance(self.mixer, DeltaNet):
            mixed, state = self.mixer(x, state, last_only)
        else:
            mixed, state = self.mixer(x, rope, state, last_only)
        if last_only:
            residual = residual[:, -1:]
        x, residual = edge.add_rms_norm(mixed, residual, self.feed_norm(), self.eps)
        return self.feed_forward(x), residual, state


class Decoder(nn.Module):
    """Tokens (B, T), positions (3, B, T), start (1,) and state to logits (B, T or 1, vocab) and the new state.

    State tensors come and go in the order of `export.state.state_tensors`. Buffers are uninitialised: fill them with
    `load` or capture under FakeTensorMode.
    """

    cos_table: Tensor
    sin_table: Tensor

    def __init__(
        self,
        config: ModelConfig,
        layout: Layout,
        context_length: int,
        activations: Activations | None = None,
        fuse_quantized: bool = True,
    ) -> None:
        super().__init__()
        by_name = {unit.name: unit for unit in units(config)}
        model = Model(config, layout, activations or Activations(), by_name, fuse_quantized)
        self.config = config
        self.embed = model.whole(EMBEDDING)
        self.layers = nn.ModuleList(Layer(model, layer) for layer in range(config.num_layers))
        self.final_norm = Plain("norm.weight", (config.hidden_size,), "one_plus")
        self.head = None if config.tie_word_embeddings else model.whole(HEAD)
        self.register_buffer("cos_table", torch.empty(context_length, config.rotary_dim // 2))
        self.register_buffer("sin_table", torch.empty(context_length, config.rotary_dim // 2))

    def forward(
        self, tokens: Tensor, positions: Tensor, start: Tensor, state: list[Tensor], last_only: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        return self.run(self.embed.rows(tokens), positions, start, state, last_only)

    def run(
        self, embeddings: Tensor, positions: Tensor, start: Tensor, state: list[Tensor], last_only: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """The decoder from embeddings (B, T, hidden) on."""
        rope = Rope(positions, start, self.cos_table, self.sin_table, self.config.mrope_section)
        new_state: list[Tensor] = []
        update, residual = None, embeddings
        for index, layer in enumerate(self.layers):
            trim = last_only and index + 1 == len(self.layers)
            update, residual, pair = layer(update, residual, rope, (state[2 * index], state[2 * index + 1]), trim)
            new_state += pair
        assert update is not None
        x, _ = edge.add_rms_norm(update, residual, self.final_norm(), self.config.rms_norm_eps)
        head = self.embed if self.head is None else self.head
        return head(x), new_state

    def recipes(self) -> dict[str, Recipe]:
        """How each buffer is made, by its qualified name."""
        found = {"cos_table": Recipe(field="cos"), "sin_table": Recipe(field="sin")}
        for prefix, module in self.named_modules():
            if isinstance(module, Matrix | Plain):
                found |= {f"{prefix}.{name}": recipe for name, recipe in module.recipes.items()}
        return found


def cache_scale_names(layer: int) -> tuple[str, str]:
    """The names under which a layer's scales of keys and values are stored."""
    return f"layers.{layer}.self_attn.key_cache_scale", f"layers.{layer}.self_attn.value_cache_scale"


def input_grid_name(unit: str) -> str:
    """The name under which the static grid of a matrix's inputs is stored; matrices with one input have equal ones."""
    return f"{unit}.input_grid"


def output_grid_name(part: Part) -> str:
    """The name under which the static grid of a product is stored."""
    return f"{part.unit}.{part.rows}.output_grid"


def rope_table(config: ModelConfig, context_length: int, field: Literal["cos", "sin"]) -> Tensor:
    """cos or sin of position times frequency, float32 (context_length, rotary_dim / 2), as transformers computes it."""
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    angles = torch.arange(context_length, dtype=torch.float32).unsqueeze(-1) * frequencies
    return angles.cos() if field == "cos" else angles.sin()


def text_positions(start: int, tokens: int) -> Tensor:
    """Position rows of plain text: int64 (3, 1, T), all three rows alike."""
    return torch.arange(start, start + tokens).expand(3, 1, tokens)
