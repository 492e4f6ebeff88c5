"""Export a Hugging Face checkpoint with ExecuTorch's own `export_llm`, as a pip user can.

The wheel ships the weight converter and the exporter but not the model's `params` file, so that is written from the
checkpoint's config.json. Source: executorch 1.5.1, examples/models/qwen3_5 and examples/models/llama.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from executorch.examples.models.llama.export_llama_lib import export_llama
from executorch.examples.models.qwen3_5.convert_weights import convert_weights
from executorch.extension.llm.export.config.llm_config import DtypeOverride, LlmConfig, ModelType

GROUP_SIZE = 32
PTE_NAME = "model.pte"


def model_params(text_config: dict[str, Any]) -> dict[str, Any]:
    """The `params` file of export_llm for a Qwen3.5 text config."""
    rope = text_config["rope_parameters"]
    return {
        "dim": text_config["hidden_size"],
        "hidden_dim": text_config["intermediate_size"],
        "n_heads": text_config["num_attention_heads"],
        "head_dim": text_config["head_dim"],
        "n_kv_heads": text_config["num_key_value_heads"],
        "n_layers": text_config["num_hidden_layers"],
        "norm_eps": text_config["rms_norm_eps"],
        "rope_theta": rope["rope_theta"],
        "use_scaled_rope": False,
        "vocab_size": text_config["vocab_size"],
        "use_hf_rope": True,
        "partial_rotary_factor": rope["partial_rotary_factor"],
        "attention_qkv_bias": False,
        "use_qk_norm": True,
        "qk_norm_before_rope": True,
        "attention_type": "mha",
        "use_q_gate": True,
        "rms_norm_add_unit_offset": True,
        "linear_conv_kernel_dim": text_config["linear_conv_kernel_dim"],
        "linear_key_head_dim": text_config["linear_key_head_dim"],
        "linear_value_head_dim": text_config["linear_value_head_dim"],
        "linear_num_key_heads": text_config["linear_num_key_heads"],
        "linear_num_value_heads": text_config["linear_num_value_heads"],
        "layer_types": text_config["layer_types"],
    }


def export_config(options: argparse.Namespace, eos_ids: list[int]) -> LlmConfig:
    config = LlmConfig()
    # the class only picks a default download; the shapes come from params
    config.base.model_class = ModelType.qwen3_5_0_8b
    config.base.params = str(options.out / "params.json")
    config.base.checkpoint = str(options.out / "checkpoint.pth")
    config.base.metadata = json.dumps({"get_eos_ids": eos_ids})
    config.model.use_kv_cache = True
    config.model.use_sdpa_with_kv_cache = True
    config.model.enable_dynamic_shape = options.dynamic_shape
    config.model.dtype_override = DtypeOverride.fp32
    config.export.max_seq_length = options.max_seq_length
    config.export.max_context_length = options.max_context_length
    config.export.output_name = str(options.out / PTE_NAME)
    config.backend.xnnpack.enabled = True
    config.backend.xnnpack.extended_ops = True
    config.quantization.qmode = "8da4w"
    config.quantization.group_size = GROUP_SIZE
    config.quantization.embedding_quantize = options.embedding
    return config


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side.workers.build_export_llm", description=__doc__
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--embedding", required=True, help="bits,group of the embedding: '4,32' or '8,0'")
    parser.add_argument("--max-seq-length", type=int, required=True)
    parser.add_argument("--max-context-length", type=int, required=True)
    parser.add_argument("--dynamic-shape", action="store_true")
    return parser.parse_args()


def eos_token_ids(checkpoint: Path) -> list[int]:
    value = json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"]
    return value if isinstance(value, list) else [value]


def main() -> None:
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    config = json.loads((options.checkpoint / "config.json").read_text())
    (options.out / "params.json").write_text(json.dumps(model_params(config["text_config"]), indent=1))
    convert_weights(str(options.checkpoint), str(options.out / "checkpoint.pth"))
    export_llama(export_config(options, eos_token_ids(options.checkpoint)))
    # a copy of the weights that no user ships
    (options.out / "checkpoint.pth").unlink()
    sys.stdout.write(json.dumps({"file": PTE_NAME, "bytes": (options.out / PTE_NAME).stat().st_size}) + "\n")


if __name__ == "__main__":
    main()
