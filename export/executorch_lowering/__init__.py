"""ExecuTorch's file format: programs, XNNPACK graphs, and the translation of the decoder's graph into both."""
