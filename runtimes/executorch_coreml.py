"""Check an ExecuTorch artifact of the Core ML delegate: the package inside its `.pte`, by the evaluator.

ExecuTorch's delegate exists on Apple's systems only. So this takes the package out of the file as ExecuTorch's own
tools do and evaluates it as `runtimes.coreml` does elsewhere. Like the delegate it never clears a state: the program
does, where a sequence begins.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from executorch.backends.apple.coreml import executorchcoreml
from executorch.exir._serialize._program import deserialize_pte_binary

from runtimes.artifact import Artifact
from runtimes.coreml import CHECK_SECONDS as EVALUATORS_SECONDS
from runtimes.coreml import CoremlRunner
from runtimes.coreml_engines.description import Description, Layout, State
from runtimes.coreml_engines.evaluator import Evaluator
from runtimes.device import default_threads
from runtimes.errors import ManifestError, RuntimeFailedError
from runtimes.runner import check_version

BACKEND: Final = "CoreMLBackend"
PACKAGE: Final = "model.mlpackage"
METADATA: Final = "metadata.json"
ROOT: Final = "lowered_module"
FUNCTION: Final = "main"
LAYOUT: Final = "inside"
VERSION: Final = "1.5.1"  # of the form in which a delegate keeps its package
INPUTS: Final = ["input_ids", "position"]
CHECK_SECONDS: Final = EVALUATORS_SECONDS  # of one check of `verify`


class _Delegate(Evaluator):
    """The package's function over states that only it clears."""

    def reset(self) -> None:
        """Nothing: position 0 does it."""


def load_runner(artifact: Artifact, threads: int | None = None) -> CoremlRunner:
    """The runner of the package inside the artifact's program."""
    check_version(artifact, VERSION)
    count = threads or default_threads()
    # mapped files stay readable after their directory is gone
    with tempfile.TemporaryDirectory() as place:
        description = _description(artifact, extract(artifact.model_file, Path(place)))
        engine = _Delegate(description.packages, (FUNCTION,), count)
    return CoremlRunner(artifact, description, engine, LAYOUT, count)


def describe_engine(runner: CoremlRunner) -> str:
    """What computes."""
    return f"{runner.engine_name}, nor did ExecuTorch: the package was taken out of its program"


def extract(program: Path, into: Path) -> Path:
    """Take the package of the one Core ML delegate out of a `.pte`."""
    delegate = _only_delegate(program)
    if not executorchcoreml.unflatten_directory_contents(delegate, str(into)):
        raise _refused(program, "the delegate's bytes are no flattened directory")
    root = into / ROOT
    if not (root / PACKAGE).is_dir() or not (root / METADATA).is_file():
        raise _refused(program, f"the delegate holds no {PACKAGE} with {METADATA}")
    listed = json.loads((root / METADATA).read_text(encoding="utf-8"))
    if listed.get("inputNames") != INPUTS or len(listed.get("outputNames", ())) != 1:
        raise _refused(program, f"the delegate takes {listed.get('inputNames')}, not {INPUTS}")
    return root / PACKAGE


def _only_delegate(place: Path) -> bytes:
    """The bytes of the delegate, wherever the program keeps them."""
    try:
        program: Any = deserialize_pte_binary(place.read_bytes()).program
    except Exception as error:  # whatever its parser meets in a broken file
        raise _refused(place, f"no ExecuTorch program: {error}") from error
    found = [delegate for plan in program.execution_plan for delegate in plan.delegates]
    if [delegate.id for delegate in found] != [BACKEND]:
        raise _refused(place, f"delegates {[delegate.id for delegate in found]}, expected one of {BACKEND}")
    return bytes(program.backend_delegate_data[found[0].processed.index].data)


def _description(artifact: Artifact, package: Path) -> Description:
    manifest = artifact.manifest
    states = tuple(
        State(
            name=tensor.name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            input_name=tensor.input_name,
            output_name=tensor.output_name,
        )
        for tensor in manifest.state
    )
    if any(state.input_name is not None for state in states):
        raise RuntimeFailedError(f"{artifact.model_file}: a delegate keeps its states inside; export it again")
    layout = Layout(functions={"decode": FUNCTION, "prefill": FUNCTION}, states=states)
    return Description(packages={PACKAGE: package}, prefill_tokens=1, default_layout=LAYOUT, layouts={LAYOUT: layout})


def _refused(place: Path, problem: str) -> ManifestError:
    return ManifestError(f"{place}: {problem}; copy the artifact or export it again")
