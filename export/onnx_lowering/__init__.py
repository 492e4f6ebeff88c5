"""Lowering to ONNX: the captured graph becomes ONNX Runtime's fused operators, weights go to one external data file."""
