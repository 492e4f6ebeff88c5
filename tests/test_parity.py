"""What an artifact must answer is recorded so that equal answers are equal files."""

from pathlib import Path

import numpy as np
from safetensors import safe_open

from export.parity import reference_bytes


def test_a_reference_has_the_same_bytes_each_time_and_is_read_by_safetensors(tmp_path: Path) -> None:
    arrays = {"b.tokens": np.arange(3), "a.lse": np.linspace(0, 1, 5, dtype=np.float32)}
    metadata = {f"key {number}": f"value {number}" for number in range(12)}
    place = tmp_path / "reference.safetensors"
    place.write_bytes(reference_bytes(arrays, metadata))
    assert {reference_bytes(arrays, metadata) for _ in range(4)} == {place.read_bytes()}
    with safe_open(place, framework="numpy") as file:
        assert file.metadata() == metadata
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
