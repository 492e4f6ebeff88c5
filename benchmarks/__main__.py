"""`python -m benchmarks`: a command that is told to end (SIGTERM) cleans up like one that is interrupted."""

import signal
import sys

from benchmarks.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
