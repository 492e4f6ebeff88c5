"""Decode of ONNX files in turn, in one process: what differs by less than this machine drifts."""

from benchmarks.side_by_side.decode_in_turn import main

__all__ = ["main"]
