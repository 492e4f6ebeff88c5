"""Our export-friendly form of Qwen3.5's vision tower and merger: patches and their positions to embeddings.

Plain torch except for four `edge::` operators, checked against transformers' `Qwen3_5VisionModel`. The patch embedding
is a matrix product, since a 3-D convolution whose stride is its kernel is one. One call sees one image: attention never
crosses images, and a video is its frames, one call each (modeling_qwen3_5.py does the same with cu_seqlens).

Quantized matrices multiply int8 codes, one scale a row, with inputs rounded as the runtime does; patch embedding and
merger stay float: they are 3 of 50 matrices, and what they lose nothing after them repairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.decoder import Activations, Matrix, Part, Plain, Recipe
from export.schemes import FLOAT, Format
from export.vision import operators as edge
from export.vision.config import NORM_EPS, VisionConfig
from export.vision.positions import PatchPositions


class RowActivations(Activations):
    """Inputs rounded symmetrically to int8 with one scale a patch: groups as long as the row."""

    def group(self, in_features: int, group_size: int | None) -> int:
        return group_size or in_features


ACTIVATIONS = RowActivations(kind="int8_group")


@dataclass(frozen=True, kw_only=True)
class BlockFormat:
    """How the matrices of the blocks are held, and what the runtime does to their inputs."""

    form: Format = FLOAT
    activations: Activations = ACTIVATIONS


class Linear(nn.Module):
    """A matrix product with a bias."""

    def __init__(self, name: str, shape: tuple[int, int], held: BlockFormat = BlockFormat()) -> None:
        super().__init__()
        self.matrix = Matrix((Part(unit=name),), shape, held.form, held.activations)
        self.bias = Plain(f"{name}.bias", shape[:1])

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = self.matrix(x) + self.bias()
        return product


class LayerNorm(nn.Module):
    """Mean and variance normalised, with weight and bias."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.weight = Plain(f"{name}.weight", (size,))
        self.bias = Plain(f"{name}.bias", (size,))
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, [self.size], self.weight(), self.bias(), NORM_EPS)


class Attention(nn.Module):
    """Full attention with a rotary embedding of row and column."""

    def __init__(self, config: VisionConfig, name: str, held: BlockFormat) -> None:
        super().__init__()
        self.config = config
        self.qkv = Linear(f"{name}.qkv", (3 * config.hidden_size, config.hidden_size), held)
        self.proj = Linear(f"{name}.proj", (config.hidden_size, config.hidden_size), held)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        config = self.config
        parts = torch.split(self.qkv(x), [config.hidden_size] * 3, dim=-1)
        q, k, v = (part.unflatten(-1, (config.num_heads, config.head_dim)) for part in parts)  # (B, N, H, D)
        q, k = edge.rotate_patches(q, cos, sin), edge.rotate_patches(k, cos, sin)
        out = edge.full_attention(q, k, v, config.head_dim**-0.5)
        attended: Tensor = self.proj(out.flatten(2))
        return attended


class Block(nn.Module):
    """Attention and a feed-forward, each behind its norm."""

    def __init__(self, config: VisionConfig, layer: int, held: BlockFormat) -> None:
        super().__init__()
        name, wide = f"blocks.{layer}", config.intermediate_size
        self.norm1 = LayerNorm(f"{name}.norm1", config.hidden_size)
        self.attn = Attention(config, f"{name}.attn", held)
        self.norm2 = LayerNorm(f"{name}.norm2", config.hidden_size)
        self.fc1 = Linear(f"{name}.mlp.linear_fc1", (wide, config.hidden_size), held)
        self.fc2 = Linear(f"{name}.mlp.linear_fc2", (config.hidden_size, wide), held)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        hidden = functional.gelu(self.fc1(self.norm2(x)), approximate="tanh")
        total: Tensor = x + self.fc2(hidden)
        return total


class Merger(nn.Module):
    """A block of neighbouring patches becomes one embedding of the text model."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = LayerNorm("merger.norm", config.hidden_size)
        self.fc1 = Linear("merger.linear_fc1", (config.merged_dim, config.merged_dim))
        self.fc2 = Linear("merger.linear_fc2", (config.out_hidden_size, config.merged_dim))

    def forward(self, x: Tensor) -> Tensor:
        merged = self.norm(x).reshape(x.shape[0], -1, self.config.merged_dim)
        out: Tensor = self.fc2(functional.gelu(self.fc1(merged)))
        return out


class VisionTower(nn.Module):
    """Patches (B, N, patch_dim) of B images of one grid, with their positions, to embeddings (B, N / merge^2, hidden).

    Buffers are uninitialised: fill them with `export.vision.weights.load_tower`, or capture under FakeTensorMode.
    """

    def __init__(self, config: VisionConfig, form: Format = FLOAT, activations: Activations = ACTIVATIONS) -> None:
        super().__init__()
        self.config = config
        held = BlockFormat(form=form, activations=activations)
        self.patch_embed = Linear("patch_embed.proj", (config.hidden_size, config.patch_dim))
        self.pos_embed = Plain("pos_embed.weight", (config.num_position_embeddings, config.hidden_size))
        self.blocks = nn.ModuleList(Block(config, layer, held) for layer in range(config.depth))
        self.merger = Merger(config)

    def forward(self, patches: Tensor, rows: Tensor, weights: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = self.patch_embed(patches) + edge.interpolate_rows(self.pos_embed(), rows, weights)
        for block in self.blocks:
            x = block(x, cos, sin)
        embeddings: Tensor = self.merger(x)
        return embeddings

    def encode(self, patches: Tensor, positions: PatchPositions) -> Tensor:
        """One image: patches (N, patch_dim) to embeddings (N / merge^2, out_hidden_size)."""
        found: Tensor = self(
            patches.unsqueeze(0), positions.rows, positions.weights, positions.cos, positions.sin
        ).squeeze(0)
        return found

    def recipes(self) -> dict[str, Recipe]:
        """How each buffer is made, by its qualified name."""
        return {
            f"{prefix}.{name}": recipe
            for prefix, module in self.named_modules()
            if isinstance(module, Matrix | Plain)
            for name, recipe in module.recipes.items()
        }
