"""What the docs say of delivery through the stores: configuration that parses and fits the projects and the bundles."""

import json
import plistlib
import re
from pathlib import Path
from typing import Any

import yaml

from export.oracle import ORACLE_FILE
from export.targets import ios
from tests.apps.sources import ANDROID_LIBRARY, ROOT
from tests.apps.test_sources import faults, parser

APPS = (ROOT / "docs" / "apps.md").read_text(encoding="utf-8")
IOS = (ROOT / "ios_demo" / "README.md").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = yaml.safe_load((ROOT / "ios_demo" / "project.yml").read_text(encoding="utf-8"))


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code in one language."""
    return re.findall(rf"```{language}\n(.*?)```", text.partition("## Delivery")[2], re.DOTALL)


def test_the_asset_pack_of_play_is_a_build_script_and_its_folder_fits_the_store_of_bundles() -> None:
    [script] = blocks(APPS, "kotlin")
    assert not faults(parser(".kts").parse(script.encode()).root_node)
    pack = re.search(r'packName = "([a-z][a-z0-9_]*)"', script)
    assert pack
    place = re.search(r"// (\S+)/build\.gradle\.kts", script)
    assert place
    assert place[1] == pack[1], "Gradle's module and the pack have one name"
    assert f'assetPacks += listOf(":{pack[1]}")' in APPS
    assert f"{pack[1]}/src/main/assets/" in APPS
    assert re.search(r'deliveryType = "(install-time|fast-follow|on-demand)"', script)
    store = next(ANDROID_LIBRARY.rglob("BundleStore.kt")).read_text(encoding="utf-8")
    assert "private val pushed: List<File>" in store
    assert "BundleStore(pushed = ...)" in APPS


def test_background_assets_fit_the_project_and_the_bundle() -> None:
    [keys] = [yaml.safe_load(block) for block in blocks(IOS, "yaml")]
    assert not set(keys) & set(PROJECT["targets"]["QwenEdge"]["info"]["properties"]), "already there"
    assert keys["BAAppGroupID"].startswith(
        "group." + PROJECT["targets"]["QwenEdge"]["settings"]["base"]["PRODUCT_BUNDLE_IDENTIFIER"]
    )
    plistlib.dumps(keys)
    [pack] = [json.loads(block) for block in blocks(IOS, "json")]
    selected = {name for entry in pack["fileSelectors"] for name in entry.values()}
    assert selected == {"coreml", ORACLE_FILE}
    assert "coreml" in ios.BACKENDS
    assert re.fullmatch(r"[A-Za-z0-9_-]+", pack["assetPackID"])
    assert pack["platforms"] == ["iOS"]


def test_what_the_stores_give_is_read_from_one_more_folder_and_checked() -> None:
    swift = (ROOT / "runtimes/ios/Sources/QwenEdgeCore/Artifact/BundleStore.swift").read_text(encoding="utf-8")
    assert "shared: [URL]" in swift
    assert "one more `shared` directory of `BundleStore`" in IOS.replace("\n", " ")
    assert (
        Path(ROOT / "ios_demo" / "App" / "Places.swift").read_text(encoding="utf-8").count("shared: [documents]") == 1
    )
