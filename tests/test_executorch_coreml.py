"""The program of ExecuTorch's Core ML delegate: taken out of the written `.pte` by ExecuTorch's own means, and run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from export.backends import Lowered, executorch_coreml
from export.coreml_lowering.delegate import Interface, flatten
from export.errors import UnsupportedSchemeError
from export.quantized import QuantizedCheckpoint
from export.schemes import FLOAT
from runtimes import executorch_coreml as runtime
from runtimes.errors import ManifestError
from runtimes.mil import Program, load_package
from tests.fixtures import TINY
from tests.subjects import chunked_logits, eager, quantized, random_tokens, relative_error, request

STEPS = 24
TOLERANCE = 5e-3

Written = tuple[QuantizedCheckpoint, Lowered, Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The tiny model in int4 as a `.pte`, and the directory that its package was taken out into."""
    root = tmp_path_factory.mktemp("delegate")
    store = quantized(TINY, root / "store", "int4")
    executorch_coreml.check(store.layout, store.config)
    lowered = executorch_coreml.lower(store, request(store), root, lambda *_: None)
    (root / "out").mkdir()
    runtime.extract(root / lowered.model_file, root / "out")
    return store, lowered, root


def test_the_package_inside_equals_eager_and_clears_its_own_state(written: Written) -> None:
    store, _, root = written
    program: Program = load_package(root / "out" / runtime.ROOT / runtime.PACKAGE, runtime.FUNCTION)
    tokens, state = random_tokens(store.config, STEPS), program.new_state()
    expected = chunked_logits(eager(store), tokens, STEPS)
    for name in state.types:  # what another sequence, or a crash, left behind
        if "recurrent" in name or "conv" in name:
            np.copyto(state.array(name), np.float16("nan"))
    for position in range(STEPS):
        given = {"input_ids": [[int(tokens[0, position])]], "position": [position]}
        logits = program.run(given, state)["logits"]
        assert logits.dtype == np.float32  # what a caller of the delegate gets
        assert relative_error(torch.from_numpy(logits).flatten(), expected[position]) <= TOLERANCE, position


def test_the_delegate_holds_the_package_and_nothing_else_byte_for_byte(written: Written, tmp_path: Path) -> None:
    store, lowered, root = written
    interface = Interface(
        inputs={"input_ids": (1, 1), "position": (1,)}, output=("logits", (1, 1, store.config.vocab_size))
    )
    payload = flatten(root / "out" / runtime.ROOT, interface)
    content = (root / lowered.model_file).read_bytes()
    assert content.count(payload) == 1
    assert len(content) - len(payload) < 4096
    assert sum(file.stat().st_size for file in lowered.files) <= executorch_coreml.estimate_bytes(
        store.layout, store.config, 256
    )


@pytest.mark.parametrize("cut", [lambda content: content[:2000], lambda content: b"x" * len(content)])
def test_a_broken_program_is_named(cut: Callable[[bytes], bytes], written: Written, tmp_path: Path) -> None:
    _, lowered, root = written
    broken = tmp_path / "model.pte"
    broken.write_bytes(cut((root / lowered.model_file).read_bytes()))
    with pytest.raises(ManifestError, match=r"model\.pte: .*; copy the artifact or export it again"):
        runtime.extract(broken, tmp_path)


def test_a_model_that_needs_several_packages_is_sent_to_the_backend_that_writes_them(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, _ = written
    monkeypatch.setattr(executorch_coreml, "MOST_PACKAGE_BYTES", 10**6)
    with pytest.raises(UnsupportedSchemeError, match=r"writes one package, .*; use --backend coreml"):
        executorch_coreml.check(dict.fromkeys(store.layout, FLOAT), store.config)
