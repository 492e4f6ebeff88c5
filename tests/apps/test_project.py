"""The Android project is whole: paths exist, versions agree, and the app asks for nothing that it should not have."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from export import apps
from export.apps.android import SCRIPT
from export.backends import executorch, onnx, onnx_portable
from export.cli import build_parser
from export.targets.android import BACKENDS
from runtimes.artifact import SCHEMA_VERSION
from runtimes.runner import release_of
from tests.apps.kotlin import JVM_TARGET, KOTLIN
from tests.apps.resources import resource_names
from tests.apps.sources import ANDROID_DEMO, ANDROID_LIBRARY, ENGINES, JVM_MODULES, ROOT, kotlin_files

APP = ANDROID_DEMO / "app"
IDENTIFIER = "org.qwenedge.demo"
MANIFEST = APP / "src" / "main" / "AndroidManifest.xml"
ANDROID = "{http://schemas.android.com/apk/res/android}"
TOOLS = "{http://schemas.android.com/tools}"
CATALOG = tomllib.loads((ANDROID_DEMO / "gradle" / "libs.versions.toml").read_text(encoding="utf-8"))
VERSIONS: dict[str, str] = CATALOG["versions"]
MODULES = (*JVM_MODULES, *ENGINES, "probe")


def locked(package: str) -> str:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = re.search(rf"^{package}==(\S+)$", lock, re.MULTILINE)
    assert found
    return found[1]


def test_every_module_that_is_included_exists_and_no_other_does() -> None:
    settings = (ANDROID_DEMO / "settings.gradle.kts").read_text(encoding="utf-8")
    listed = re.search(r"for \(module in listOf\((.*?)\)\)", settings)
    assert listed
    assert set(re.findall(r'"([\w-]+)"', listed[1])) == set(MODULES)
    assert {place.parent.name for place in ANDROID_LIBRARY.glob("*/build.gradle.kts")} == set(MODULES)
    assert (APP / "build.gradle.kts").is_file()
    assert all((ANDROID_LIBRARY / module / "src" / "main" / "kotlin").is_dir() for module in MODULES)


def test_build_scripts_use_what_the_catalog_has() -> None:
    scripts = [place for place in kotlin_files(ANDROID_LIBRARY, ANDROID_DEMO) if place.suffix == ".kts"]
    text = "\n".join(place.read_text(encoding="utf-8") for place in scripts)
    used = {
        "versions": set(re.findall(r"libs\.versions\.(\w+)", text)),
        "plugins": {name.replace(".", "-") for name in re.findall(r"libs\.plugins\.([\w.]+)\)", text)},
        "libraries": {name.replace(".", "-") for name in re.findall(r"\(libs\.(?!versions|plugins)([\w.]+)\)", text)},
    }
    referred = {entry["version"]["ref"] for kind in ("plugins", "libraries") for entry in CATALOG[kind].values()}
    assert used["plugins"] == set(CATALOG["plugins"])
    assert used["libraries"] == set(CATALOG["libraries"])
    assert used["versions"] | referred | {"gradle"} == set(VERSIONS)
    projects = set(re.findall(r'project\(":([\w-]+)"\)', text))
    assert projects <= set(MODULES)


def test_engines_are_of_the_release_that_python_is_pinned_to_and_new_enough_for_the_artifacts() -> None:
    assert VERSIONS["executorch"] == locked("executorch")
    assert release_of(VERSIONS["onnxruntime"])[:2] == release_of(locked("onnxruntime"))[:2]
    assert release_of(VERSIONS["onnxruntime"]) >= release_of(onnx.OLDEST_RUNTIME)
    assert release_of(VERSIONS["onnxruntime"]) >= release_of(onnx_portable.OLDEST_RUNTIME)
    assert release_of(VERSIONS["executorch"]) >= release_of(executorch.OLDEST_RUNTIME)


def test_the_checks_run_with_the_compiler_of_the_build() -> None:
    assert VERSIONS["kotlin"] == KOTLIN
    for script in ANDROID_LIBRARY.glob("*/build.gradle.kts"):
        text = script.read_text(encoding="utf-8")
        assert f"jvmToolchain({JVM_TARGET})" in text
        assert "allWarningsAsErrors = true" in text


def test_the_wrapper_fetches_the_gradle_of_the_catalog_and_its_jar_is_not_in_git() -> None:
    wrapper = (ANDROID_DEMO / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text(encoding="utf-8")
    assert f"gradle-{VERSIONS['gradle']}-bin.zip" in wrapper
    listed = subprocess.run(
        ["git", "ls-files", "android_demo", "runtimes/android"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert not [name for name in listed if name.endswith((".jar", ".apk", ".aar", ".so", ".pte", ".onnx"))]


def test_the_app_has_no_way_to_a_network() -> None:
    root = ElementTree.parse(MANIFEST).getroot()
    permissions = {entry.attrib[f"{ANDROID}name"]: entry for entry in root.iter("uses-permission")}
    asked = {name for name, entry in permissions.items() if entry.get(f"{TOOLS}node") != "remove"}
    assert asked == {"android.permission.WAKE_LOCK"}
    assert "android.permission.INTERNET" in permissions
    sources = "\n".join(place.read_text(encoding="utf-8") for place in kotlin_files(ANDROID_LIBRARY, ANDROID_DEMO))
    assert not re.search(r"java\.net\.|HttpURL|okhttp|Socket", sources)
    assert 'Os.setenv("ORT_DISABLE_TELEMETRY", "1", true)' in sources


def test_only_the_chat_can_be_started_by_everyone() -> None:
    activities = list(ElementTree.parse(MANIFEST).getroot().iter("activity"))
    names = {entry.attrib[f"{ANDROID}name"]: entry.get(f"{ANDROID}permission") for entry in activities}
    assert names == {".MainActivity": None, ".BenchmarkActivity": "android.permission.DUMP"}
    for name in names:
        assert (APP / "src" / "main" / "kotlin" / "org" / "qwenedge" / "demo" / f"{name[1:]}.kt").is_file()


def test_every_resource_is_used_and_every_used_one_exists() -> None:
    resources = APP / "src" / "main" / "res"
    names = {kind: found for kind, found in resource_names(resources).items() if kind != "style"}
    code = "\n".join(place.read_text(encoding="utf-8") for place in kotlin_files(APP / "src"))
    markup = "\n".join(place.read_text(encoding="utf-8") for place in [MANIFEST, *resources.rglob("*.xml")])
    in_code = {(kind, name) for kind, name in re.findall(r"\bR\.(\w+)\.(\w+)", code)}
    in_markup = {(kind, name) for kind, name in re.findall(r'"@(string|drawable|layout|menu)/(\w+)"', markup)}
    there = {(kind, name) for kind, found in names.items() for name in found}
    assert in_code | in_markup == there


def test_the_app_reads_manifests_of_the_version_that_the_exporter_writes() -> None:
    manifest = next(ANDROID_LIBRARY.rglob("Manifest.kt")).read_text(encoding="utf-8")
    assert f"const val SCHEMA_VERSION = {SCHEMA_VERSION}L" in manifest


@pytest.mark.parametrize("place", [ANDROID_DEMO / "README.md", ANDROID_LIBRARY / "README.md"], ids=str)
def test_links_and_paths_of_a_readme_exist(place: Path) -> None:
    text = place.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (place.parent / link).exists(), link
    for path in re.findall(r"`((?:runtimes|tests|android_demo|docs|\.github)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_a_newcomer_needs_at_most_five_steps() -> None:
    text = (ANDROID_DEMO / "README.md").read_text(encoding="utf-8")
    chat = text.partition("## From clone to chat")[2].partition("\n## ")[0]
    assert 1 <= len(re.findall(r"^\d+\. ", chat, re.MULTILINE)) <= 5


def commands() -> list[list[str]]:
    """The commands of the app's README, word by word."""
    text = (ANDROID_DEMO / "README.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if re.match(r"^ {4,7}\S", line)]
    return [shlex.split(line) for line in lines]


def test_every_command_of_the_readme_is_one_that_exists() -> None:
    programs = {words[0] for words in commands()}
    assert programs == {"make", ".venv/bin/python", "gradle", "android_demo/gradlew", "sh", "adb"}
    for words in commands():
        match words:
            case ["make", target]:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            case [".venv/bin/python", "-m", "export", *options]:
                arguments = build_parser().parse_args(options)
                assert apps.open_app(arguments.target, ROOT / arguments.into).identifier == IDENTIFIER
            case ["gradle", "--project-dir", folder, "wrapper"]:
                assert (ROOT / folder / "settings.gradle.kts").is_file()
            case ["android_demo/gradlew", "--project-dir", folder, task]:
                assert (ROOT / folder / "app").is_dir()
                assert task == ":app:installDebug"
            case ["sh", script, artifact]:
                assert script == f"android_demo/{SCRIPT}"
                assert artifact in BACKENDS
            case ["adb", "shell", "am", "start", "-W", "-n", component, *_]:
                assert component == f"{IDENTIFIER}/.BenchmarkActivity"
            case ["adb", "push" | "pull", *places]:
                assert any(f"/Android/data/{IDENTIFIER}/files/" in place for place in places)
            case _:
                raise AssertionError(words)
