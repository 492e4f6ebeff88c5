"""A trained Qwen3.5 of two million text parameters: the checkpoint everyone can run, and how it was made."""
