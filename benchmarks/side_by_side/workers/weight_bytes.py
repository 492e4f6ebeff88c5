"""Say how many bytes of weights one decoded token reads from a file: what the memory's speed sets the limit by.

onnx: every initializer but those that are looked up by row (embedding, RoPE tables); data shared by two initializers
counts once. gguf: every tensor, since the tied table is read whole as the head; an untied embedding is left out. pte:
the file less the embedding's own copy, whose size is given. manifest: what our manifest states, which counts the
state too.
"""

import argparse
import json
import sys
from pathlib import Path

import gguf
import onnx

from runtimes.artifact import find_artifact

LOOKED_UP = {"Gather", "GatherBlockQuantized", "Reshape", "RotaryEmbedding", "MRotaryEmbedding"}


def onnx_weight_bytes(path: Path) -> int:
    """Bytes of the initializers that some operator reads whole."""
    model = onnx.load(path, load_external_data=False)
    read = {name for node in model.graph.node if node.op_type not in LOOKED_UP for name in node.input}
    places: dict[object, int] = {}
    for tensor in model.graph.initializer:
        if tensor.name not in read:
            continue
        external = {entry.key: entry.value for entry in tensor.external_data}
        if external:
            places[external["location"], external.get("offset", "0")] = int(external["length"])
        else:
            places[tensor.name] = onnx.numpy_helper.to_array(tensor).nbytes
    return sum(places.values())


def gguf_weight_bytes(path: Path) -> int:
    """Bytes of all tensors, but of the embedding only when it is also the head."""
    tensors = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    if "output.weight" in tensors:
        del tensors["token_embd.weight"]
    return sum(tensors.values())


def pte_weight_bytes(path: Path, less: int) -> int:
    return path.stat().st_size - less


def manifest_total_bytes(directory: Path) -> int:
    """What our manifest states for a token: weights and state."""
    return find_artifact(directory).manifest.bytes_read_per_decoded_token


def only(directory: Path, pattern: str) -> Path:
    found = sorted(directory.rglob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{directory}: {len(found)} files match {pattern!r}, one is needed")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("format", choices=("onnx", "gguf", "pte", "manifest"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--less", type=int, default=0)
    options = parser.parse_args()
    if options.format == "onnx":
        result = {"weight_bytes": onnx_weight_bytes(only(options.directory, "*.onnx"))}
    elif options.format == "gguf":
        result = {"weight_bytes": gguf_weight_bytes(only(options.directory, "*.gguf"))}
    elif options.format == "pte":
        result = {"weight_bytes": pte_weight_bytes(only(options.directory, "*.pte"), options.less)}
    else:
        result = {"total_bytes": manifest_total_bytes(options.directory)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
