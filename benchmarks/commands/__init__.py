"""One file a command of `python -m benchmarks`: `main(words)` runs it and gives the exit status."""
