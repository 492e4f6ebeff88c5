"""Refuse files that do not belong in a repository: model files come from a command, not from git."""

import sys
from pathlib import Path

LIMIT_BYTES = 4_000_000
# the trained tiny model, the example that everyone runs
EXCEPTIONS = ("export/models/tiny/model.safetensors",)


def main(paths: "list[str]") -> int:
    """Name each file over the limit; pre-commit passes the staged ones."""
    large = [path for path in paths if path not in EXCEPTIONS and Path(path).stat().st_size > LIMIT_BYTES]
    for path in large:
        print(
            f"error: {path}: {Path(path).stat().st_size} bytes, more than {LIMIT_BYTES}; write it below build/ instead"
        )
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
