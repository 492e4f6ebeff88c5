"""Packages that are broken, cut short or hostile: each ends as a named error, whatever was done to it."""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types

from runtimes.errors import RuntimeFailedError
from runtimes.mil import PackageError, ProgramError, load_package
from runtimes.mil.protobufs import Model
from tests.runtimes.mil.packages import function, save

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
X = np.linspace(-1, 1, 3 * 32, dtype=np.float16).reshape(1, 3, 32)
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stateful program over a compressed and a plain matrix."""
    made = np.random.default_rng(0)
    codes = made.integers(-8, 8, size=(64, 32)).astype(types.np_int4_dtype)
    scales = (made.random((64, 1)) / 8).astype(np.float16)
    plain = made.normal(size=(32, 64)).astype(np.float16)

    def body(x: Any, s: Any) -> Any:
        inner = mb.linear(x=x, weight=mb.constexpr_blockwise_shift_scale(data=codes, scale=scales))
        total = mb.add(x=mb.read_state(input=s), y=mb.reduce_sum(x=mb.silu(x=inner), axes=[1]))
        kept = mb.coreml_update_state(state=s, value=total)
        return mb.linear(x=mb.concat(values=[inner, mb.expand_dims(x=kept, axes=[1])], axis=1), weight=plain)

    place = tmp_path_factory.mktemp("original") / "model.mlpackage"
    return save({"main": function({"x": X}, {"s": (1, 64)}, body)}, place)


@pytest.fixture
def changed(original: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """Return a function that copies the package and lets a change damage it."""

    def copy(change: Change) -> Path:
        place = tmp_path / "model.mlpackage"
        shutil.copytree(original, place)
        change(place)
        return place

    return copy


def run(place: Path) -> None:
    program = load_package(place)
    program.run({"x": X}, program.new_state())


def edit_model(change: Callable[[Any], None]) -> Change:
    """A change of the model's protobuf."""

    def apply(place: Path) -> None:
        model = Model.Model()
        model.ParseFromString((place / MODEL).read_bytes())
        change(model)
        (place / MODEL).write_bytes(model.SerializeToString())

    return apply


def edit_contents(change: Callable[[dict[str, Any]], None]) -> Change:
    def apply(place: Path) -> None:
        contents = json.loads((place / "Manifest.json").read_text())
        change(contents)
        (place / "Manifest.json").write_text(json.dumps(contents))

    return apply


def block_of(model: Any) -> Any:
    return model.mlProgram.functions["main"].block_specializations["CoreML8"]


def operation_of(model: Any, kind: str) -> Any:
    return next(operation for operation in block_of(model).operations if operation.type == kind)


def first_constant(model: Any) -> Any:
    """The first constant that lies in the file."""
    operation = operation_of(model, "constexpr_blockwise_shift_scale")
    return operation.inputs["data"].arguments[0].value


def truncate(name: str, length: int) -> Change:
    def apply(place: Path) -> None:
        (place / name).write_bytes((place / name).read_bytes()[:length])

    return apply


def lead_items_outside(contents: dict[str, Any]) -> None:
    for entry in contents["itemInfoEntries"].values():
        entry["path"] = "../../x"


def set_dimension(model: Any) -> None:
    operation_of(model, "silu").outputs[0].type.tensorType.dimensions[2].constant.size = 65


def set_type(model: Any) -> None:
    operation_of(model, "silu").outputs[0].type.tensorType.dataType = 23  # int32


def set_parameter(model: Any) -> None:
    operation = operation_of(model, "silu")
    operation.inputs["beta"].CopyFrom(operation.inputs["x"])


def remove_parameter(model: Any) -> None:
    del operation_of(model, "linear").inputs["weight"]


def rename_input(model: Any) -> None:
    operation_of(model, "silu").inputs["x"].arguments[0].name = "nowhere"


def rename_output(model: Any) -> None:
    block_of(model).outputs[0] = "nowhere"


def define_twice(model: Any) -> None:
    operation_of(model, "silu").outputs[0].name = "x"


def describe_another_input(model: Any) -> None:
    model.description.input[0].name = "y"


def lead_weights_outside(model: Any) -> None:
    first_constant(model).blobFileValue.fileName = "@model_path/../../../../secret"


def name_missing_weights(model: Any) -> None:
    first_constant(model).blobFileValue.fileName = "@model_path/weights/other.bin"


def move_weights(model: Any) -> None:
    first_constant(model).blobFileValue.offset = 128


def move_weights_far(model: Any) -> None:
    first_constant(model).blobFileValue.offset = 1 << 60


def enlarge_weights(model: Any) -> None:
    first_constant(model).type.tensorType.dimensions[0].constant.size = 128


def write_to_no_state(model: Any) -> None:
    operation_of(model, "write_state").inputs["input"].arguments[0].name = "t"


def set_version(version: int) -> Callable[[Any], None]:
    return lambda model: setattr(model, "specificationVersion", version)


def break_sentinel(place: Path) -> None:
    content = bytearray((place / WEIGHTS).read_bytes())
    content[64:68] = b"\0\0\0\0"
    (place / WEIGHTS).write_bytes(bytes(content))


def set_weights_version(place: Path) -> None:
    content = bytearray((place / WEIGHTS).read_bytes())
    content[4:8] = struct.pack("<I", 1)
    (place / WEIGHTS).write_bytes(bytes(content))


DAMAGES: dict[str, tuple[Change, type[RuntimeFailedError], str]] = {
    "no list of contents": (lambda place: (place / "Manifest.json").unlink(), PackageError, "no Manifest.json here"),
    "contents are no JSON": (truncate("Manifest.json", 40), PackageError, "not a list of contents"),
    "contents name no root": (
        edit_contents(lambda contents: contents.pop("rootModelIdentifier")), PackageError, "names no root model"
    ),
    "contents lead outside": (
        edit_contents(lead_items_outside),
        PackageError, "leads outside the package",
    ),
    "no model": (lambda place: (place / MODEL).unlink(), PackageError, "its model .* is missing"),
    "an empty model": (truncate(MODEL, 0), PackageError, "specification version 0"),
    "a model cut short": (truncate(MODEL, 900), PackageError, "not a Core ML model"),
    "an older version": (edit_model(set_version(8)), PackageError, "specification version 8; this project reads 9, 10"),
    "a newer version": (edit_model(set_version(11)), PackageError, "specification version 11"),
    "another kind of model": (
        edit_model(lambda model: model.identity.SetInParent()), PackageError, "holds identity, not an ML program"
    ),
    "weights cut short": (truncate(WEIGHTS, 600), PackageError, r"would end at \d+, the file has 600 bytes"),
    "no weights": (lambda place: (place / WEIGHTS).unlink(), PackageError, "which is missing"),
    "empty weights": (truncate(WEIGHTS, 0), PackageError, "cannot be read"),
    "a broken entry": (break_sentinel, PackageError, "no constant at 64: sentinel 0x0"),
    "weights of another version": (set_weights_version, PackageError, "version 1; this project reads 2"),
    "weights outside": (edit_model(lead_weights_outside), PackageError, "lie outside the package"),
    "other weights": (edit_model(name_missing_weights), PackageError, "other.bin', which is missing"),
    "weights elsewhere": (edit_model(move_weights), PackageError, "no constant at 128"),
    "weights far away": (edit_model(move_weights_far), PackageError, "would end at"),
    "weights too small": (edit_model(enlarge_weights), PackageError, "holds 8192 bits, .* takes 16384"),
    "another shape": (edit_model(set_dimension), ProgramError, r"gives .*64\), .* declares fp16 \(1, 3, 65\)"),
    "another type": (edit_model(set_type), ProgramError, r"declares int32 \(1, 3, 64\)"),
    "an unknown parameter": (edit_model(set_parameter), RuntimeFailedError, "'silu' .*parameter 'beta' is not known"),
    "a missing parameter": (edit_model(remove_parameter), ProgramError, "parameter 'weight' is missing"),
    "an undefined input": (edit_model(rename_input), ProgramError, "'nowhere' is used before it is defined"),
    "an undefined output": (edit_model(rename_output), ProgramError, "its output 'nowhere' is not defined"),
    "a name twice": (edit_model(define_twice), ProgramError, "'x' is defined twice"),
    "another description": (edit_model(describe_another_input), ProgramError, "input 'x' is in only one"),
    "no such state": (edit_model(write_to_no_state), ProgramError, r"\['t'\] is not a state of this function"),
}  # fmt: skip


def test_the_original_runs(original: Path) -> None:
    run(original)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_package_is_a_named_error(changed: Callable[[Change], Path], name: str) -> None:
    change, kind, message = DAMAGES[name]
    with pytest.raises(kind, match=message):
        run(changed(change))


@pytest.mark.parametrize("name", [MODEL, WEIGHTS])
@pytest.mark.parametrize("seed", range(3))
def test_random_damage_is_a_named_error_or_harmless(changed: Callable[[Change], Path], name: str, seed: int) -> None:
    """Bytes changed, or the end cut off, at random: nothing but a named error comes out."""
    place = changed(lambda _place: None)
    content = (place / name).read_bytes()
    chance = random.Random(seed)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        (place / name).write_bytes(bytes(damaged[: chance.randrange(len(damaged)) if chance.random() < 0.2 else None]))
        try:
            run(place)
        except RuntimeFailedError:
            refused += 1
    assert refused
