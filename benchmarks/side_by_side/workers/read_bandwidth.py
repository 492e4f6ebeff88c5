"""Measure how fast this machine reads memory: the ceiling of decoding, which reads every weight once a token.

Each thread takes the maximum of its own array of 256 MiB, far beyond any cache; numpy drops the interpreter's lock
meanwhile and the loop is vectorized. The best of several passes counts: what disturbs a pass only slows it.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

ARRAY_BYTES = 256 << 20
PASSES = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side.workers.read_bandwidth", description=__doc__
    )
    parser.add_argument("--threads", type=int, required=True)
    threads = parser.parse_args().threads
    arrays = [np.ones(ARRAY_BYTES // 8, np.int64) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(PASSES):
            started = time.perf_counter()
            list(pool.map(np.max, arrays))
            best = max(best, threads * ARRAY_BYTES / (time.perf_counter() - started))
    sys.stdout.write(json.dumps({"bytes_per_s": best}) + "\n")


if __name__ == "__main__":
    main()
