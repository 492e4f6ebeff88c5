"""The same model with a wider residual stream: zero channels are added, and every logit stays what it was.

The trained tiny model is 192 wide, so its matrices can't be held in groups of 128 as those of the real sizes are.
Widened to 256, a group that reaches into the added channels is as coarse as one cut short. So the divergence measured
on the widened model is that of 128-wide groups on the tiny one.

RMSNorm divides by the mean of squares, which the added zeros make smaller: with s = old / new width,
x / sqrt(mean(x^2) + e) over the old width equals sqrt(s) x / sqrt(s mean(x^2) + s e), so one plus the weight is
multiplied by sqrt(s). The epsilon stays, since the norms of heads share it and read values small enough to need it: the
wide norms read mean squares far above it. Vision and MTP tensors are left out.
"""

import argparse
import json
import math
import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.side_by_side.slice_checkpoint import COPIED

NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight", "language_model.norm.weight")
READ = ("in_proj_a", "in_proj_b", "in_proj_qkv", "in_proj_z", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
WRITE = ("out_proj", "o_proj", "down_proj")
TABLES = ("embed_tokens", "lm_head")


def widened(name: str, tensor: torch.Tensor, hidden: int) -> torch.Tensor:
    """One tensor of the text model (out, in) with zeros for the channels that are added to the residual stream."""
    part = name.removesuffix(".weight").rsplit(".", 1)[-1]
    if name.endswith(NORMS):
        scale = math.sqrt(tensor.shape[0] / hidden)
        out = torch.zeros(hidden)
        out[: tensor.shape[0]] = (1 + tensor.float()) * scale - 1
        return out
    if part in READ or part in TABLES:
        return torch.nn.functional.pad(tensor, (0, hidden - tensor.shape[1]))
    if part in WRITE:
        return torch.nn.functional.pad(tensor, (0, 0, 0, hidden - tensor.shape[0]))
    return tensor


def widen_checkpoint(source: Path, out: Path, hidden: int) -> None:
    """Write the text model of `source` with `hidden` channels; raises ValueError where that is no widening."""
    config = json.loads((source / "config.json").read_text())
    text = config["text_config"]
    if hidden <= text["hidden_size"]:
        raise ValueError(f"--hidden {hidden}: the checkpoint is {text['hidden_size']} wide; give more")
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for shard in sorted(source.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name.startswith(("model.language_model.", "lm_head.")):
                    tensors[name] = widened(name, file.get_tensor(name), hidden).contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for name in COPIED:
        if (source / name).exists():
            shutil.copy(source / name, out / name)
    wide = {**text, "hidden_size": hidden, "mtp_num_hidden_layers": 0}
    # last: a directory with a config is a whole checkpoint
    (out / "config.json").write_text(json.dumps({**config, "text_config": wide}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side.widen_checkpoint", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hidden", type=int, default=256, help="(default: %(default)s)")
    options = parser.parse_args()
    try:
        widen_checkpoint(options.source, options.out, options.hidden)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
