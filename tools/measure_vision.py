"""Time the vision tower of a real size with random weights: ours in ONNX Runtime against transformers, in turn.

`python tools/measure_vision.py --model qwen3.5-0.8b --side 448`. Each round runs every subject once, so what else the
machine does hits all alike; the figure is each one's best round. Transformers computes in float32 with its plain
("eager") attention and with torch's fused one.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, as the library loads

import numpy as np
import onnxruntime
import torch
from safetensors.torch import save_file
from transformers import Qwen3_5Config
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5VisionModel

from export.checkpoint import SINGLE_FILE, VISION_PREFIX, Checkpoint
from export.config import parse_config
from export.onnx_lowering.data import DataFile
from export.onnx_lowering.vision import TOWER_FILE, write_tower
from export.random_checkpoint import random_tensor_blocks
from export.schemes import FLOAT, INT8_ROW, Format
from export.sources import read_model_entry
from export.tensors import vision_tensors
from export.vision.config import parse_vision_config
from export.vision.weights import TowerWeights

Run = Callable[[], Any]


def write_random_tower(config: dict[str, Any], directory: Path) -> Checkpoint:
    """A checkpoint of the tower alone; the embedding, one row of it, only names the layout."""
    tensors = {
        name: torch.cat(list(random_tensor_blocks(name, shape, 0))).view(shape)
        for name, shape in vision_tensors(config["vision_config"]).items()
    }
    save_file(tensors | {"model.language_model.embed_tokens.weight": torch.zeros(1, 1)}, directory / SINGLE_FILE)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return Checkpoint.open(directory)


def in_transformers(config: dict[str, Any], checkpoint: Checkpoint, attention: str, patches: Any, grid: Any) -> Run:
    """The reference, in float32."""
    vision: Any = Qwen3_5Config.from_dict(config).vision_config
    vision._attn_implementation = attention
    model: Any = Qwen3_5VisionModel(vision)
    names = (name for name in checkpoint.names() if name.startswith(VISION_PREFIX))
    model.load_state_dict({name.removeprefix(VISION_PREFIX): checkpoint.read(name).float() for name in names})
    model.eval()

    @torch.no_grad()
    def run() -> Any:
        return model(torch.from_numpy(patches), grid_thw=torch.from_numpy(grid)).pooler_output.numpy()

    return run


def in_onnxruntime(weights: TowerWeights, directory: Path, threads: int, patches: Any, grid: Any) -> tuple[Run, int]:
    """Our graph, and the bytes of its weights."""
    directory.mkdir()
    data = DataFile(directory / "tower.data", lambda *_: None)
    write_tower(weights, data, directory / TOWER_FILE)
    length = data.length
    data.close()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(str(directory / TOWER_FILE), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"pixel_values": patches, "image_grid_thw": grid})[0], length


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen3.5-0.8b")
    parser.add_argument("--side", type=int, default=448, help="pixels of a square image, a multiple of 32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = dict(read_model_entry(arguments.model).config or {})
    patches_a_side = arguments.side // config["vision_config"]["patch_size"]
    grid = np.array([[1, patches_a_side, patches_a_side]])
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_random_tower(config, Path(folder))
        vision = parse_vision_config(config, parse_config(config))
        weights = TowerWeights(checkpoint=checkpoint, vision=vision, form=FLOAT)
        patches = np.random.default_rng(0).standard_normal((patches_a_side**2, vision.patch_dim), dtype=np.float32)
        subjects: dict[str, Run] = {
            f"transformers {attention}": in_transformers(config, checkpoint, attention, patches, grid)
            for attention in ("eager", "sdpa")
        }
        for form in (FLOAT, INT8_ROW):
            name, length = _name(form), 0
            subjects[name], length = in_onnxruntime(
                replace(weights, form=form), Path(folder) / name, arguments.threads, patches, grid
            )
            print(f"{name}: {length:,} bytes")
        wanted = subjects["transformers eager"]()
        best = dict.fromkeys(subjects, float("inf"))
        for name, run in subjects.items():
            found = run()
            error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
            print(f"{name}: relative error {error:.2g}")
        for _ in range(arguments.rounds):
            for name, run in subjects.items():
                start = time.perf_counter()
                run()
                seconds = time.perf_counter() - start
                print(f"{name}: {1e3 * seconds:.0f} ms", flush=True)
                best[name] = min(best[name], seconds)
    for name, seconds in best.items():
        ratio = best["transformers eager"] / seconds
        print(f"{name}: {1e3 * seconds:.0f} ms, {ratio:.2f} times as fast as transformers eager")


def _name(form: Format) -> str:
    return f"ours {form}"


if __name__ == "__main__":
    main()
