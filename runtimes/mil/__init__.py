"""An evaluator of written Core ML programs, for machines without Core ML.

`load_package(path, function)` reads a `.mlpackage` back from disk and gives a `Program`; `program.run(inputs, state)`
computes its outputs in torch with the types that the file declares. It proves that the file means what its exporter
meant; it says nothing about Apple's runtime. This package is test equipment. It imports torch, and the
protobuf classes of coremltools, so nothing imports it before a Core ML artifact is opened.
"""

from runtimes.mil.arithmetic import Accumulate
from runtimes.mil.constants import Constants
from runtimes.mil.errors import PackageError, ProgramError, UnsupportedProgramError
from runtimes.mil.operators import operators
from runtimes.mil.package import Package, open_package
from runtimes.mil.program import Program, load_package
from runtimes.mil.state import State

__all__ = [
    "Accumulate",
    "Constants",
    "Package",
    "PackageError",
    "Program",
    "ProgramError",
    "State",
    "UnsupportedProgramError",
    "load_package",
    "open_package",
    "operators",
]
