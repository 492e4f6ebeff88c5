"""Measures artifacts: how fast, how big and how hungry they are, beside what others make of the same checkpoint."""
