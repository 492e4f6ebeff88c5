"""Say where the checkpoint that a name means lies on this machine, making or fetching it first.

For scripts that need the directory itself, such as a benchmark that gives the same weights to other exporters.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from export.errors import ExportError
from export.sources import DEFAULT_SOURCE, read_model_entry, resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object with `path` and `weights`: 0 done, 1 a named error, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m export.resolve_checkpoint", description=__doc__)
    parser.add_argument("model", help="a model of the catalog")
    parser.add_argument("--checkpoint", help="a directory, or 'random' (default: the model's own, from the hub)")
    parser.add_argument("--source", default=DEFAULT_SOURCE)
    options = parser.parse_args(arguments)
    try:
        found = resolve(read_model_entry(options.model), options.checkpoint, options.source)
    except ExportError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps({"path": str(found.path), "weights": found.weights}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
