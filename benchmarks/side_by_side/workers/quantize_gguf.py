"""Quantize a GGUF file to Q4_0 with llama.cpp's own quantizer, which chooses each tensor's type.

At Q4_0 it makes every matrix Q4_0 but the output head; with tied embeddings the one shared table takes the head's
type, Q6_K. ssm_beta stays as it was, ssm_alpha doesn't.
"""

import argparse
import json
import sys
from pathlib import Path

import llama_cpp


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side.workers.quantize_gguf", description=__doc__
    )
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    settings.nthread = options.threads
    status = llama_cpp.llama_model_quantize(str(options.source).encode(), str(options.file).encode(), settings)
    if status != 0:
        raise SystemExit(f"llama_model_quantize returned {status} for {options.source}")
    # the unquantized file is an intermediate that nobody ships
    options.source.unlink()
    sys.stdout.write(json.dumps({"file": options.file.name, "bytes": options.file.stat().st_size}) + "\n")


if __name__ == "__main__":
    main()
