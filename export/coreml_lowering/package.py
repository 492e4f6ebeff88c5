"""The `.mlpackage` directory: a manifest, the program, and the weights beside it.

Written by hand rather than through coremltools' own packager, which copies the weights once more and draws random
identifiers: the same program gives the same bytes.
"""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coremltools.converters.mil.backend.mil.load import CoreMLProtoExporter
from coremltools.converters.mil.mil import Program

from export.coreml_lowering.weights import SPECIFICATION, Weight, WeightWriter

AUTHOR = "com.apple.CoreML"
MODEL = "model.mlmodel"
PACKAGE_LIST = "Manifest.json"
NAMESPACE = uuid.UUID("6d1d4e5c-0000-5000-8000-71776e656467")  # any constant; identifiers are derived from paths


def write_package(
    program: Program, weights: dict[str, Weight], package: Path, progress: Callable[[str, int], None]
) -> None:
    """Write a program of one or more functions and its weights as a package."""
    data = package / "Data" / AUTHOR
    (data / "weights").mkdir(parents=True)
    translated = WeightWriter(program, data / "weights", weights, progress).export()
    (data / MODEL).write_bytes(_describe(program, translated).SerializeToString(deterministic=True))
    items = {
        "model": (f"{AUTHOR}/{MODEL}", MODEL, "CoreML Model Specification"),
        "weights": (f"{AUTHOR}/weights", "weights", "CoreML Model Weights"),
    }
    identifiers = {name: str(uuid.uuid5(NAMESPACE, f"{package.name}/{name}")).upper() for name in items}
    entries = {
        identifiers[name]: {"author": AUTHOR, "description": description, "name": shown, "path": path}
        for name, (path, shown, description) in items.items()
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": identifiers["model"],
    }
    (package / PACKAGE_LIST).write_text(json.dumps(manifest, indent=4) + "\n", encoding="utf-8")


def _describe(program: Program, translated: Any) -> Any:
    """The model with the inputs, outputs and states of each function."""
    return CoreMLProtoExporter(
        program,
        translated,
        predicted_feature_name=None,
        predicted_probabilities_name=None,
        classifier_config=None,
        convert_to="mlprogram",
        convert_from="milinternal",
        specification_version=SPECIFICATION,
    ).export(SPECIFICATION)
