"""Errors of the export side: each message says what failed, where, what was found, and what to do next.

ProjectError
└── ExportError
    ├── ConfigError              config.json describes a model this exporter does not build
    ├── UnknownNameError         --target, --model, --scheme ... names nothing in the catalog
    ├── SpecError                two settings contradict each other
    ├── MissingPackageError      a name of the catalog needs a package that is not installed
    ├── UnsupportedSchemeError   a backend cannot hold a format that the scheme asks for
    ├── CalibrationError         the text to learn from teaches nothing, or cannot be read
    ├── QuantizationError        a rule cannot quantize a tensor
    ├── StoreError               the quantized checkpoint on disk is damaged or belongs to something else
    ├── LoweringError            a graph lacks an operator that must be in it
    ├── ParityError              the written artifact disagrees with its eager reference
    ├── QualityError             a quality figure cannot be computed from what was given
    ├── BudgetError              the bundle would not fit the byte budget
    ├── OutputError              the output directory cannot be used
    └── AppError                 --into names no app, or one whose engines cannot run the bundle
"""

from runtimes.errors import ProjectError

SHOWN_CHARACTERS = 80


def shown(value: object) -> str:
    """A value as it goes into a message: its repr, cut where it would fill the screen."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


class ExportError(ProjectError):
    """Root of every error that an export raises on purpose."""


class ConfigError(ExportError):
    """config.json describes a model this exporter does not build."""


class UnknownNameError(ExportError):
    """A name on the command line names nothing in the catalog."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(known)}")


class SpecError(ExportError):
    """Two settings contradict each other, or one is out of range."""


class MissingPackageError(ExportError):
    """A name of the catalog needs a package that is not installed."""


class UnsupportedSchemeError(ExportError):
    """A backend cannot hold a format that the scheme asks for."""


class QuantizationError(ExportError):
    """A rule cannot quantize a tensor."""


class CalibrationError(ExportError):
    """The text that a method shall learn from is missing, unreadable, too short, or nothing the model can read."""


class StoreError(ExportError):
    """The quantized checkpoint on disk is damaged or belongs to something else."""


class LoweringError(ExportError):
    """A lowered graph lacks something that must be in it."""


class ParityError(ExportError):
    """The written artifact disagrees with its eager reference."""


class QualityError(ExportError):
    """A quality figure cannot be computed from what was given."""


class BudgetError(ExportError):
    """The bundle would not fit the byte budget."""


class OutputError(ExportError):
    """The output directory cannot be used."""


class AppError(ExportError):
    """The directory that `--into` names is no app, or its engines cannot run the bundle."""
