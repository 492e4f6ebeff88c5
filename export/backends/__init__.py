"""Backends: how a file is made; one module a format.

A backend's module holds

* `SUMMARY`, `RUNTIME` (the engine's name, also the module in `runtimes/`), `OLDEST_RUNTIME`, `PACKAGE` (the Python
  package whose version is recorded) where it has another name than the engine;
* `FINEST`: by bits, the format with most scales that it holds (see `export.schemes.Finest`);
* `ACTIVATION_KINDS`: by kind, what its runtime does to the inputs of quantized matrices; it can do no other kind;
* `check(layout, config)`, which raises `UnsupportedSchemeError` before any work for a format it cannot hold;
* `PACKING` and `estimate_bytes(layout, config, context_length)`, what the model files take at most, before any weight
  is read;
* `OPTIONS`, `SPEED`, `TIED`, for the search (export/search): formats to choose from, their predicted time, and the
  matrices of a layer that must share a format;
* `lower(store, request, directory)`, which writes the model files into `directory` and says what it wrote;
* where it can hold a vision tower, `MODALITIES = ("text", "image")`; `FIXED_GRIDS = True` where that takes images of a
  few sizes only; `TOWER_ACTIVATIONS`, what happens to the inputs of its int8 matrices, where that is not the default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.config import ModelConfig
from export.decoder import Activations
from export.schemes import ActivationKind, CacheKind, Layout
from export.vision.request import VisionRequest
from runtimes.artifact import Vision


@dataclass(frozen=True, kw_only=True)
class LoweringRequest:
    """What a backend must know beside the weights; lengths in tokens."""

    config: ModelConfig
    layout: Layout
    context_length: int
    threads: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    activations: ActivationKind = "int8"
    cache: CacheKind = "float"
    vision: VisionRequest | None = None


@dataclass(frozen=True, kw_only=True)
class WrittenState:
    """A state tensor as the written file has it; names are None where the file keeps it inside."""

    name: str
    kind: str
    layer: int
    shape: tuple[int, ...]
    dtype: str
    token_axis: int | None
    input_name: str | None
    output_name: str | None


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a runtime's logits may be from the reference's.

    `float_error` is the largest error relative to the largest logit, of float artifacts; `quantized_kld` the mean
    Kullback-Leibler divergence in nats, of quantized ones. The defaults are of engines that compute in 32 bits.
    """

    float_error: float = 1e-4
    quantized_kld: float = 1e-4


IN_32_BITS = Tolerance()


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """What `lower` wrote; `bytes_read_per_token` counts weights and fixed-size state of one decode step.

    `float_activations` names the type that activations have where they are not quantized.
    """

    model_file: str
    files: tuple[Path, ...]
    state: tuple[WrittenState, ...]
    prefill_chunk: int
    bytes_read_per_token: int
    activations: Activations
    details: Mapping[str, Any]
    tolerance: Tolerance = IN_32_BITS
    float_activations: str = "float32"
    vision: Vision | None = None
