"""What int4 costs the tiny model, beside the onnxruntime-genai builder's int4."""

from benchmarks.side_by_side.tiny_quality import main

__all__ = ["main"]
