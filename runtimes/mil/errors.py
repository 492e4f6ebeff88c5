"""What can be wrong with a Core ML package: each is an error of the runtime that was asked to run it.

RuntimeFailedError
├── PackageError                the package cannot be read: a part is missing, cut short, corrupt, of another version
├── UnsupportedProgramError     an operator, parameter, type or block that the evaluator does not know
└── ProgramError                the program contradicts itself or its inputs: names, types, shapes, places
"""

from runtimes.errors import RuntimeFailedError


class PackageError(RuntimeFailedError):
    """The package cannot be read as a Core ML package."""


class UnsupportedProgramError(RuntimeFailedError):
    """The program asks for something that the evaluator does not know."""


class ProgramError(RuntimeFailedError):
    """The program contradicts itself, or was given inputs that do not fit it."""
