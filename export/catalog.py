"""What can be named on the command line, found by file name: `export/schemes/int4.py` is the scheme `int4`.

Listing imports nothing; a module is imported when its name is asked for, so that a backend whose packages are not
installed troubles nobody who does not name it. In file names a hyphen is an underscore.
"""

import importlib
from pathlib import Path
from types import ModuleType

from export.errors import MissingPackageError, UnknownNameError

ROOT = Path(__file__).parent


def names(kind: str) -> list[str]:
    """The names of one kind ("schemes", "backends", "targets", "quantize", "commands"), sorted."""
    return sorted(file.stem.replace("_", "-") for file in (ROOT / kind).glob("*.py") if not file.stem.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """The module that a name stands for."""
    if name not in names(kind):
        raise UnknownNameError(SINGULAR[kind], name, names(kind))
    try:
        return importlib.import_module(f"export.{kind}.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "export":
            raise
        package = error.name.partition(".")[0]
        others = ", or name others with --backend" if kind == "backends" else ""
        raise MissingPackageError(
            f"{SINGULAR[kind]} {name!r} needs the package {package!r}, which is not installed; run `make venv`, "
            f"or `pip install 'qwen-edge[{EXTRAS.get(package, 'export')}]'`{others}"
        ) from error


# what brings a package that the extra `export` does not
EXTRAS = {"coreai": "coreai", "coremltools": "coreml", "peft": "finetune"}
SINGULAR = {
    "schemes": "scheme",
    "backends": "backend",
    "targets": "target",
    "quantize": "method",
    "commands": "command",
}
