"""What can be named on the command line, found by file name: `export/schemes/int4.py` is the scheme `int4`.

Listing imports nothing; a module is imported when its name is asked for. In file names a hyphen is an underscore.
"""

import importlib
from pathlib import Path
from types import ModuleType

from export.errors import UnknownNameError

ROOT = Path(__file__).parent


def names(kind: str) -> list[str]:
    """The names of one kind ("schemes", "backends", "targets", "quantize"), sorted."""
    return sorted(file.stem.replace("_", "-") for file in (ROOT / kind).glob("*.py") if not file.stem.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """The module that a name stands for."""
    if name not in names(kind):
        raise UnknownNameError(SINGULAR[kind], name, names(kind))
    return importlib.import_module(f"export.{kind}.{name.replace('-', '_')}")


SINGULAR = {"schemes": "scheme", "backends": "backend", "targets": "target", "quantize": "method"}
