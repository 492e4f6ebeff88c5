"""`python -m export --into android_demo`: the bundle is where the app finds it, and the script pushes it."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from export import apps
from export.bundle import Bundle
from export.errors import AppError
from export.oracle import ORACLE_FILE
from export.plan import make_plan
from export.spec import ExportSpec
from runtimes.artifact import Artifact
from tests.apps.sources import ANDROID_DEMO
from tests.runtimes.tiny_onnx import write_artifact

ADB = '#!/bin/sh\nprintf "%s\\n" "$*" >> "$ADB_LOG"\n'


@pytest.fixture
def app_directory(tmp_path: Path) -> Path:
    """The part of the demo's project that the exporter reads."""
    for name in ("gradle/libs.versions.toml", "app/build.gradle.kts"):
        target = tmp_path / "demo" / name
        target.parent.mkdir(parents=True)
        shutil.copy(ANDROID_DEMO / name, target)
    return tmp_path / "demo"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle of one artifact."""
    place = tmp_path / "tiny-bundle"
    (place / "onnx").mkdir(parents=True)
    write_artifact(place / "onnx")
    return Bundle(path=place, artifacts={"onnx": Artifact.open(place / "onnx")}, files={})


def set_version(app: Path, name: str, version: str) -> None:
    catalog = app / "gradle" / "libs.versions.toml"
    before = catalog.read_text().splitlines()
    catalog.write_text("\n".join(f'{name} = "{version}"' if line.startswith(f"{name} =") else line for line in before))


def test_the_demo_is_an_app_with_both_engines() -> None:
    app = apps.open_app("android", ANDROID_DEMO)
    assert app.identifier == "org.qwenedge.demo"
    assert set(app.runtimes) == {"onnxruntime", "executorch"}


def test_the_bundle_is_linked_and_the_script_pushes_it(app_directory: Path, bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / ORACLE_FILE).write_text("{}")
    said = apps.install(apps.open_app("android", app_directory), "android", bundle)
    link = app_directory / "bundles" / "tiny-bundle"
    assert link.is_symlink()
    assert Artifact.open(link / "onnx").manifest.runtime.name == "onnxruntime"
    assert said[-1].endswith(shlex.quote(str(app_directory / "push-bundle.sh")))
    folder = "/sdcard/Android/data/org.qwenedge.demo/files/bundles/tiny-bundle"
    assert pushed(app_directory, tmp_path) == [
        f"shell mkdir -p {folder}",
        f"push bundles/tiny-bundle/oracle.json {folder}/",
        f"shell rm -rf {folder}/onnx",
        f"push bundles/tiny-bundle/onnx {folder}/",
    ]


def test_a_second_export_takes_the_link_over(app_directory: Path, bundle: Bundle) -> None:
    app = apps.open_app("android", app_directory)
    apps.install(app, "android", bundle)
    apps.install(app, "android", bundle)
    assert (app_directory / "bundles" / "tiny-bundle").is_symlink()


def test_a_real_directory_is_never_replaced(app_directory: Path, bundle: Bundle) -> None:
    (app_directory / "bundles" / "tiny-bundle").mkdir(parents=True)
    with pytest.raises(AppError, match="is no link; move it away"):
        apps.install(apps.open_app("android", app_directory), "android", bundle)


def test_a_name_that_a_shell_would_misread_is_refused(app_directory: Path, bundle: Bundle) -> None:
    odd = Bundle(path=bundle.path.rename(bundle.path.with_name("my bundle; rm")), artifacts={}, files={})
    with pytest.raises(AppError, match="letters, digits"):
        apps.install(apps.open_app("android", app_directory), "android", odd)


def test_an_app_whose_engine_is_too_old_is_refused_before_any_work(app_directory: Path, tmp_path: Path) -> None:
    set_version(app_directory, "onnxruntime", "1.20.0")
    app = apps.open_app("android", app_directory)
    spec = ExportSpec(target="android", out=tmp_path / "out", model="tiny", backends=("onnx",))
    with pytest.raises(AppError, match=r"needs onnxruntime \S+ or newer, the app has 1\.20\.0; raise the version"):
        apps.check_fits(app, make_plan(spec))
    both = ExportSpec(target="android", out=tmp_path / "out", model="tiny")
    apps.check_fits(app, make_plan(both))  # ExecuTorch still fits


def test_an_artifact_that_the_app_cannot_run_is_named_and_not_pushed(
    app_directory: Path, bundle: Bundle, tmp_path: Path
) -> None:
    set_version(app_directory, "onnxruntime", "1.20.0")
    said = apps.install(apps.open_app("android", app_directory), "android", bundle)
    assert said[0].startswith("onnx stays out of reach: needs onnxruntime")
    assert not [line for line in pushed(app_directory, tmp_path) if line.startswith("push")]


@pytest.mark.parametrize("missing", ["gradle/libs.versions.toml", "app/build.gradle.kts"])
def test_a_directory_that_is_no_app_is_named(app_directory: Path, missing: str) -> None:
    (app_directory / missing).unlink()
    with pytest.raises(AppError, match="not the project of an Android app"):
        apps.open_app("android", app_directory)


def test_a_target_without_an_app_names_those_that_have_one() -> None:
    with pytest.raises(AppError, match="no app is known for target 'toaster'; leave out --into, or choose a target of"):
        apps.open_app("toaster", ANDROID_DEMO)


def pushed(app: Path, tmp_path: Path) -> list[str]:
    """What the script tells adb."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "adb").write_text(ADB)
    (tools / "adb").chmod(0o755)
    log = tmp_path / "adb.log"
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "ADB_LOG": str(log)}
    subprocess.run(["sh", str(app / "push-bundle.sh")], env=environment, check=True, capture_output=True, cwd="/")
    return log.read_text().splitlines()
