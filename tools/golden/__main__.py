"""Write the golden vectors: `python -m tools.golden [--record ARTIFACT]`."""

import argparse
from pathlib import Path

from runtimes.artifact import Artifact
from tools.golden import recording
from tools.golden.files import names, text_of, write


def main() -> None:
    """Write every file that is made of code alone, and the recording where an artifact is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, metavar="ARTIFACT", help="record a chat on this ONNX artifact as well")
    arguments = parser.parse_args()
    if arguments.record is not None:
        recording.record(Artifact.open(arguments.record))
    for name in names():
        write(f"{name}.json", text_of(name).encode())


if __name__ == "__main__":
    main()
