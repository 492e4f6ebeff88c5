"""The packages import in one direction, and what a name registers is found without being listed anywhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from export import catalog

ROOT = Path(__file__).parent.parent
PACKAGES = ("export", "runtimes", "benchmarks")
SEES = {"export": {"runtimes"}, "benchmarks": {"runtimes"}, "runtimes": set[str]()}
# the lowest layer stays light: an artifact is described, checked and talked to without torch
HEAVY = {"torch", "transformers", "torchao", "executorch", "coremltools", "optimum", "pytorch_tokenizers"}
MAY_BE_HEAVY = (
    "runtimes/executorch.py",
    "runtimes/executorch_coreml.py",
    "runtimes/stock/executorch.py",
    "runtimes/mil/",
    "runtimes/coreml_engines/native.py",
)


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each import, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""


def violations(files: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in files
        for line, name in imported(file)
        if name.partition(".")[0] in forbidden
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    forbidden = set(PACKAGES) - {package} - SEES[package] | {"tests"}
    assert not violations(python_files(package), forbidden)


def test_runtimes_is_light() -> None:
    files = [
        file for file in python_files("runtimes") if not file.relative_to(ROOT).as_posix().startswith(MAY_BE_HEAVY)
    ]
    assert files
    assert not violations(files, HEAVY)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_absolute(package: str) -> None:
    relative = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in python_files(package)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_is_tried_and_swallowed(package: str) -> None:
    """`try: import` turns a broken installation into a wrong diagnosis."""
    swallowed = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in python_files(package)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Try) and any(isinstance(inner, ast.Import | ast.ImportFrom) for inner in node.body)
    ]
    assert not swallowed


@pytest.mark.parametrize("package", PACKAGES)
def test_every_directory_of_modules_is_a_package(package: str) -> None:
    missing = {file.parent for file in python_files(package) if not (file.parent / "__init__.py").exists()}
    assert not missing


@pytest.mark.parametrize("package", ["export", "runtimes", "benchmarks"])
def test_every_module_says_its_idea(package: str) -> None:
    silent = [
        str(file.relative_to(ROOT))
        for file in python_files(package)
        if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not silent


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in catalog.SINGULAR for name in catalog.names(kind)])
def test_every_name_of_the_catalog_is_a_module_with_a_docstring(kind: str, name: str) -> None:
    assert catalog.load(kind, name).__doc__


@pytest.mark.parametrize("kind", catalog.SINGULAR)
def test_a_dropped_in_file_is_listed_without_being_imported(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "brand_new.py").write_text("raise RuntimeError('listing must not import')")
    (tmp_path / kind / "_helper.py").write_text("")
    monkeypatch.setattr(catalog, "ROOT", tmp_path)
    assert catalog.names(kind) == ["brand-new"]
