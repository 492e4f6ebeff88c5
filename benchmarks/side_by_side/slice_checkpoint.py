"""Cut a Qwen3.5 checkpoint down to its first layers: real shapes, a fraction of the time, for trying the benchmark.

Vision and MTP tensors are left out, and the config says so.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

COPIED = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LAYERS_PREFIX = "model.language_model.layers."


def sliced_config(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The config of the first `layers` layers."""
    text = config["text_config"]
    if not 0 < layers <= text["num_hidden_layers"]:
        raise ValueError(f"--layers {layers}: the checkpoint has 1 to {text['num_hidden_layers']}")
    if "full_attention" not in text["layer_types"][:layers]:
        raise ValueError(f"--layers {layers} holds no full attention layer; use 4 or more")
    kept = {
        **text,
        "num_hidden_layers": layers,
        "layer_types": text["layer_types"][:layers],
        "mtp_num_hidden_layers": 0,
    }
    return {**config, "text_config": kept}


def is_kept(name: str, layers: int) -> bool:
    """Whether a tensor belongs to the text model's first layers, its embedding, its norm or its head."""
    if name.startswith(LAYERS_PREFIX):
        return int(name.removeprefix(LAYERS_PREFIX).split(".")[0]) < layers
    return name.startswith(("model.language_model.", "lm_head."))


def slice_checkpoint(source: Path, out: Path, layers: int) -> None:
    config = sliced_config(json.loads((source / "config.json").read_text()), layers)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for shard in sorted(source.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys() if is_kept(name, layers)})  # noqa: SIM118
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for name in COPIED:
        if (source / name).exists():
            shutil.copy(source / name, out / name)
    # last: a directory with a config is a whole checkpoint
    (out / "config.json").write_text(json.dumps(config, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side.slice_checkpoint", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, required=True)
    options = parser.parse_args()
    try:
        slice_checkpoint(options.source, options.out, options.layers)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
