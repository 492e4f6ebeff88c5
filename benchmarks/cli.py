"""The command line of the benchmarks: one word for each comparison, the rest is its own."""

import sys
from collections.abc import Sequence

from benchmarks.side_by_side import export_and_run, tiny_quality

COMMANDS = {"export-and-run": export_and_run.main, "tiny-quality": tiny_quality.main}
USAGE = """\
usage: python -m benchmarks COMMAND ...

  export-and-run   our exports beside the peers': sizes, memory and speed, in one alternating run
  tiny-quality     what int4 costs the tiny model, beside the onnxruntime-genai builder's int4

python -m benchmarks COMMAND --help says more.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one comparison: 0 done, 1 a named error, 2 usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return 0
    if not words or words[0] not in COMMANDS:
        found = repr(words[0]) if words else "nothing"
        sys.stderr.write(f"{USAGE}error: {found} is no command; the commands are {', '.join(COMMANDS)}\n")
        return 2
    return COMMANDS[words[0]](words[1:])
