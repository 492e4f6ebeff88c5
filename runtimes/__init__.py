"""What an artifact is and how to run it: the lowest layer, which imports neither torch nor transformers itself."""
