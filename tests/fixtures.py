"""Small random checkpoints of every shape the family has, made by transformers itself, so that it is the judge.

The widths are the smallest that keep groups of 32 possible in each quantized matrix; the tokenizer is the tiny model's.
Scales are larger than at initialization, norms are off their neutral point and forgetting rates differ by head, so that
a wrong norm, a lost state or a swapped head shows in the logits.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from export.checkpoint import INDEX_FILE, MTP_PREFIX, SINGLE_FILE, VISION_PREFIX
from export.config import parse_config
from export.tensors import mtp_tensors

TINY = Path(__file__).parent.parent / "export" / "models" / "tiny"
VOCABULARY = 2048
ENDOFTEXT, IM_END = "<|endoftext|>", "<|im_end|>"
Dtype = Literal["bf16", "fp16", "fp32"]
TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class FixtureSpec:
    """One shape of the family; `value_heads` is per key head: 1 in 0.8B and 2B, 2 in 4B and 9B."""

    value_heads: int = 1
    tied: bool = True
    instruct: bool = True
    shards: int = 1
    vision: bool = False
    mtp: bool = False
    dtype: Dtype = "bf16"
    seed: int = 0


# every value of every field at least once, and each pair of (heads, tying), on which the decoder's shape depends
FIXTURES: Mapping[str, FixtureSpec] = {
    "like_2b": FixtureSpec(),
    "like_4b": FixtureSpec(value_heads=2, shards=2, vision=True, mtp=True),
    "like_9b": FixtureSpec(value_heads=2, tied=False, shards=3, vision=True, mtp=True),
    "untied_fp32": FixtureSpec(tied=False, dtype="fp32"),
    "base_fp16": FixtureSpec(instruct=False, dtype="fp16", mtp=True),
    "base_fp32": FixtureSpec(value_heads=2, instruct=False, vision=True, dtype="fp32"),
}


def make_checkpoint(directory: Path, spec: FixtureSpec) -> Path:
    """Write a whole checkpoint: weights, config, tokenizer, generation config and, for Instruct, a chat template."""
    config = _config(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = Qwen3_5ForConditionalGeneration(config)
        _spread(model)
        model.to(TORCH_DTYPES[spec.dtype]).save_pretrained(directory)
        tensors = load_file(directory / SINGLE_FILE)
        if spec.mtp:
            shapes = mtp_tensors(parse_config(json.loads((directory / "config.json").read_text())))
            tensors |= {name: torch.randn(shape).to(TORCH_DTYPES[spec.dtype]) * 0.1 for name, shape in shapes.items()}
    if not spec.vision:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(VISION_PREFIX)}
    (directory / SINGLE_FILE).unlink()
    save_shards(directory, tensors, spec.shards)
    _write_tokenizer(directory, spec)
    return directory


def save_shards(directory: Path, tensors: Mapping[str, torch.Tensor], count: int) -> None:
    """Write tensors to one file, or to `count` files and an index, as transformers and the Hub name them."""
    if count == 1:
        save_file(dict(tensors), directory / SINGLE_FILE, metadata={"format": "pt"})
        return
    names = sorted(tensors)
    files = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    weight_map = {name: files[position * count // len(names)] for position, name in enumerate(names)}
    for file in files:
        part = {name: tensors[name] for name in names if weight_map[name] == file}
        save_file(part, directory / file, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2))


def load_reference(directory: Path) -> Qwen3_5ForConditionalGeneration:
    """Load a checkpoint into transformers in fp32 with its plain attention: the truth that the decoder must meet."""
    model, loading = Qwen3_5ForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True, output_loading_info=True
    )
    absent = [name for name in loading["missing_keys"] if not name.startswith(VISION_PREFIX)]
    assert not absent
    assert not loading["unexpected_keys"]
    return model.eval()


def _config(spec: FixtureSpec) -> Qwen3_5Config:
    ids = _special_ids()
    text: dict[str, Any] = {
        "attn_output_gate": True,
        "dtype": str(TORCH_DTYPES[spec.dtype]).removeprefix("torch."),
        "eos_token_id": ids[ENDOFTEXT],
        "full_attention_interval": 4,
        "head_dim": 64,
        "hidden_size": 64,
        "initializer_range": 0.05,  # at 0.1 one int8 rounding flips a logit further than parity allows
        "intermediate_size": 128,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2 * spec.value_heads,
        "linear_value_head_dim": 32,
        "max_position_embeddings": 4096,
        "mtp_num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [3, 3, 2],
            "partial_rotary_factor": 0.25,
            "rope_theta": 10_000_000,
            "rope_type": "default",
        },
        "tie_word_embeddings": spec.tied,
        "vocab_size": VOCABULARY,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_position_embeddings": 16,
        "out_hidden_size": 64,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    return Qwen3_5Config(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=spec.tied,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def _spread(model: Qwen3_5ForConditionalGeneration) -> None:
    """Move what initialization leaves neutral: norms, forgetting rates, and the convolution's taps."""
    with torch.no_grad():
        for name, parameter in _text_parameters(model):
            if name.endswith("norm.weight"):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            elif name.endswith("dt_bias"):
                # softplus of these lies between 0.01 and 1: from hundreds of tokens of memory to a few
                parameter.copy_(torch.expm1(torch.logspace(-2, 0, parameter.numel())).log())
            elif name.endswith("conv1d.weight"):
                parameter.copy_(torch.randn_like(parameter) * 0.5)


def _text_parameters(model: Qwen3_5ForConditionalGeneration) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, one) for name, one in model.named_parameters() if not name.startswith((VISION_PREFIX, MTP_PREFIX)))


def _special_ids() -> dict[str, int]:
    added = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    return {token["content"]: token["id"] for token in added}


def _write_tokenizer(directory: Path, spec: FixtureSpec) -> None:
    """Copy the tiny model's tokenizer; a Base model stops on end-of-text only and has no chat template."""
    ids = _special_ids()
    shutil.copy(TINY / "tokenizer.json", directory)
    settings = json.loads((TINY / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["eos_token"] = IM_END if spec.instruct else ENDOFTEXT
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    eos = [ids[IM_END], ids[ENDOFTEXT]] if spec.instruct else ids[ENDOFTEXT]
    generation = {"do_sample": spec.instruct, "eos_token_id": eos, "pad_token_id": ids[ENDOFTEXT]}
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2))
    if spec.instruct:
        shutil.copy(TINY / "chat_template.jinja", directory)
