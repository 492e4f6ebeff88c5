"""Our exports beside the peers': sizes, memory and speed, in one alternating run."""

from benchmarks.side_by_side.export_and_run import main

__all__ = ["main"]
