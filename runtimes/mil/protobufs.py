"""The protobuf classes of Core ML models, out of coremltools without importing coremltools.

Importing coremltools brings torch converters, scikit-learn, torchao and ten seconds of start-up; a reader needs three
generated files. They import each other relatively, so they load under a name of ours just as well. Both copies describe
the same messages, and protobuf then makes them the same classes, so a process may import coremltools as well.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from runtimes.errors import RuntimeUnavailableError

ALIAS: Final = "_coremltools_proto"


def _proto_package() -> ModuleType:
    """coremltools' package of generated code, under our name."""
    found = importlib.util.find_spec("coremltools")
    if found is None or not found.submodule_search_locations:
        raise RuntimeUnavailableError(
            "reading Core ML packages needs the Python package 'coremltools', which is not installed; "
            "install this project's extra 'coreml'"
        )
    place = Path(found.submodule_search_locations[0]) / "proto"
    spec = importlib.util.spec_from_file_location(ALIAS, place / "__init__.py", submodule_search_locations=[str(place)])
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[ALIAS] = package
    spec.loader.exec_module(package)
    return package


_proto_package()
MIL: Final[Any] = importlib.import_module(f"{ALIAS}.MIL_pb2")
Model: Final[Any] = importlib.import_module(f"{ALIAS}.Model_pb2")
