"""The iOS project is whole: paths exist, versions agree, it asks for nothing odd, and `--into` fills it."""

import os
import plistlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from export import apps
from export.apps import ios as ios_app
from export.backends import coreai, coreml, executorch
from export.bundle import Bundle
from export.cli import build_parser
from export.errors import AppError
from export.targets import ios as ios_target
from runtimes.artifact import SCHEMA_VERSION, Artifact
from runtimes.runner import release_of
from tests.apps.sources import ROOT, swift_files
from tests.runtimes.tiny_onnx import write_artifact

DEMO = ROOT / "ios_demo"
PACKAGE = ROOT / "runtimes" / "ios"
APP = DEMO / "App"
PROJECT: dict[str, Any] = yaml.safe_load((DEMO / "project.yml").read_text(encoding="utf-8"))
TARGET: dict[str, Any] = PROJECT["targets"]["QwenEdge"]
MANIFEST = (PACKAGE / "Package.swift").read_text(encoding="utf-8")
EXECUTORCH_MANIFEST = (PACKAGE / "ExecuTorchEngine" / "Package.swift").read_text(encoding="utf-8")
TOOL = '#!/bin/sh\nprintf "%s\\n" "$*" >> "$TOOL_LOG"\n'


def locked(package: str) -> str:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = re.search(rf"^{package}==(\S+)$", lock, re.MULTILINE)
    assert found
    return found[1]


def test_every_path_of_the_project_exists() -> None:
    for package in PROJECT["packages"].values():
        assert (DEMO / package["path"] / "Package.swift").is_file()
    for source in TARGET["sources"]:
        assert swift_files(DEMO / source["path"])


def test_products_that_the_app_links_are_those_of_the_packages() -> None:
    linked = {entry["product"] for entry in TARGET["dependencies"]}
    products = re.findall(r'\.library\(name: "(\w+)"', MANIFEST + EXECUTORCH_MANIFEST)
    assert linked == set(products)
    imported = {
        name
        for file in swift_files(APP)
        for name in re.findall(r"^\s*import (QwenEdge\w+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert imported == linked


def test_every_target_of_the_package_has_its_folder() -> None:
    for kind, folder in (("target", "Sources"), ("testTarget", "Tests")):
        for name in re.findall(rf'\.{kind}\(name: "(\w+)"', MANIFEST):
            assert swift_files(PACKAGE / folder / name), name


def test_the_system_is_the_same_everywhere() -> None:
    oldest = PROJECT["options"]["deploymentTarget"]["iOS"]
    assert f".iOS(.v{oldest.removesuffix('.0')})" in MANIFEST
    assert f".iOS(.v{oldest.removesuffix('.0')})" in EXECUTORCH_MANIFEST
    assert PROJECT["settings"]["base"]["SWIFT_VERSION"].startswith("6")


def test_engines_are_of_the_releases_that_python_is_pinned_to() -> None:
    found = apps.open_app("ios", DEMO).runtimes
    assert found["executorch"] == locked("executorch")
    assert release_of(found["executorch"]) >= release_of(executorch.OLDEST_RUNTIME)
    assert release_of(found["coreml"]) >= release_of(coreml.OLDEST_RUNTIME)
    assert release_of(found["coreai"]) >= release_of(coreai.OLDEST_RUNTIME)
    # the Swift package is pinned by a commit, whose release the comment beside it names
    assert re.search(r"swiftpm-1\.5\.\d .*\n.*\n?.*revision: \"[0-9a-f]{12,40}\"", EXECUTORCH_MANIFEST)


def test_the_app_reads_manifests_of_the_version_that_the_exporter_writes() -> None:
    manifest = (PACKAGE / "Sources" / "QwenEdgeCore" / "Artifact" / "Manifest.swift").read_text(encoding="utf-8")
    assert f"static let schemaVersion = {SCHEMA_VERSION}\n" in manifest


def test_the_app_asks_for_memory_and_shares_its_folder() -> None:
    properties = TARGET["info"]["properties"]
    assert properties["UIFileSharingEnabled"] is True
    assert properties["LSSupportsOpeningDocumentsInPlace"] is True
    assert TARGET["entitlements"]["properties"]["com.apple.developer.kernel.increased-memory-limit"] is True
    schemes = [scheme for entry in properties["CFBundleURLTypes"] for scheme in entry["CFBundleURLSchemes"]]
    assert f'url.scheme == "{schemes[0]}"' in (APP / "AppModel.swift").read_text(encoding="utf-8")
    plistlib.dumps(properties)  # nothing that a property list cannot hold


def test_the_app_has_no_way_to_a_network() -> None:
    texts = {file.name: file.read_text(encoding="utf-8") for file in swift_files(DEMO, PACKAGE / "Sources")}
    assert not [
        name for name, text in texts.items() if re.search(r"URLSession|NWConnection|import Network\b|http", text)
    ]


def test_nothing_that_xcode_writes_is_in_git() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "ios_demo", "runtimes/ios"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert listed
    assert not [name for name in listed if name.endswith((".pbxproj", ".plist", ".mlpackage", ".pte", ".entitlements"))]


def test_swift_files_are_short() -> None:
    for file in swift_files(DEMO, PACKAGE):
        lines = file.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 400, file
        assert max(map(len, lines)) <= 140, file


@pytest.mark.parametrize("place", [DEMO / "README.md", PACKAGE / "README.md"], ids=str)
def test_links_and_paths_of_a_readme_exist(place: Path) -> None:
    text = place.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (place.parent / link).exists(), link
    for path in re.findall(r"`((?:runtimes|tests|ios_demo|docs|\.github)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_a_newcomer_needs_at_most_five_steps() -> None:
    text = (DEMO / "README.md").read_text(encoding="utf-8")
    chat = text.partition("## From clone to chat")[2].partition("\n## ")[0]
    assert 1 <= len(re.findall(r"^\d+\. ", chat, re.MULTILINE)) <= 5


def test_every_command_of_the_readme_is_one_that_exists() -> None:
    text = (DEMO / "README.md").read_text(encoding="utf-8")
    outside_blocks = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    commands = [shlex.split(line) for line in outside_blocks.splitlines() if re.match(r"^ {7}\S", line)]
    assert len(commands) == 4
    for words in commands:
        match words:
            case ["make", target]:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            case [".venv/bin/python", "-m", "export", *options]:
                arguments = build_parser().parse_args(options)
                assert apps.open_app(arguments.target, ROOT / arguments.into).identifier == "org.qwenedge.demo"
            case ["xcodegen", "--spec", place]:
                assert (ROOT / place) == DEMO / "project.yml"
            case ["PYMOBILEDEVICE3=.venv/bin/pymobiledevice3", "sh", script, artifact]:
                assert script == f"ios_demo/{ios_app.SCRIPT}"
                assert artifact in ios_target.BACKENDS
            case _:
                raise AssertionError(words)


@pytest.fixture
def app_directory(tmp_path: Path) -> Path:
    """The part of the demo and its packages that the exporter reads."""
    for name in ("ios_demo/project.yml", *(str(place.relative_to(ROOT)) for place in PACKAGE.rglob("*Factory.swift"))):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return tmp_path / "ios_demo"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle of one artifact, as ExecuTorch's would lie there."""
    place = tmp_path / "tiny-bundle"
    folder = place / "executorch"
    folder.mkdir(parents=True)
    write_artifact(folder)
    manifest = folder / "manifest.json"
    manifest.write_text(re.sub(r'"name": "onnxruntime",\s+"version": "[^"]+",\s+"oldest_version": "[^"]+"',
        '"name": "executorch", "version": "1.5.1", "oldest_version": "1.5.0"', manifest.read_text()))  # fmt: skip
    (place / "oracle.json").write_text("{}")
    return Bundle(path=place, artifacts={"executorch": Artifact.open(folder)}, files={})


def test_the_bundle_is_linked_and_the_script_copies_it(app_directory: Path, bundle: Bundle, tmp_path: Path) -> None:
    said = apps.install(apps.open_app("ios", app_directory), "ios", bundle)
    assert said[-1].endswith(str(app_directory / ios_app.SCRIPT))
    assert (app_directory / ios_app.LINKS / "tiny-bundle").is_symlink()
    tool, log = tmp_path / "tool", tmp_path / "log"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    environment = {**os.environ, "PYMOBILEDEVICE3": str(tool), "TOOL_LOG": str(log)}
    subprocess.run(
        ["sh", str(app_directory / ios_app.SCRIPT)], env=environment, check=True, capture_output=True, cwd="/"
    )
    pushed = log.read_text().splitlines()
    folder = "apps push --documents org.qwenedge.demo"
    assert pushed[0] == f"{folder} oracle.json tiny-bundle/oracle.json"
    assert f"{folder} executorch/manifest.json tiny-bundle/executorch/manifest.json" in pushed
    files = [place for place in bundle.path.rglob("*") if place.is_file()]
    assert len(pushed) == len(files)


def test_an_artifact_that_the_app_cannot_run_is_named(app_directory: Path, bundle: Bundle) -> None:
    factory = next((app_directory.parent / "runtimes").rglob("ExecuTorchFactory.swift"))
    factory.write_text(factory.read_text().replace('"1.5.1"', '"1.4.0"'))
    said = apps.install(apps.open_app("ios", app_directory), "ios", bundle)
    assert said[0].startswith("executorch stays out of reach: needs executorch 1.5.0 or newer, the app has 1.4.0")


def test_a_directory_that_is_no_app_is_named(app_directory: Path) -> None:
    (app_directory / "project.yml").write_text("name: Other\n")
    with pytest.raises(AppError, match="names no PRODUCT_BUNDLE_IDENTIFIER"):
        apps.open_app("ios", app_directory)
    (app_directory / "project.yml").unlink()
    with pytest.raises(AppError, match="not the project of an iOS app"):
        apps.open_app("ios", app_directory)
