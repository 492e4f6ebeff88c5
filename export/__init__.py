"""Makes artifacts: from a Qwen3.5 checkpoint to verified, quantized model files for phones."""
