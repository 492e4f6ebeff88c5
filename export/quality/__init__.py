"""Quality: what a quantized model lost against its float checkpoint, measured, with how sure we can be."""
