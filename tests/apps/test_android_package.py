"""The app's manifest and resources, linked by Android's own tool against Android's own resources, and signed.

25 MB fetched once: `make test-apps`.
"""

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.apps.android_package import PackageError, Tools, link, merged_manifest, open_tools, sign
from tests.apps.conftest import CACHE, PACKAGE
from tests.apps.resources import resource_names
from tests.apps.sources import ANDROID_DEMO
from tests.devices_lane.debian import UnavailableError

pytestmark = pytest.mark.slow

MAIN = ANDROID_DEMO / "app" / "src" / "main"
RESOURCES = MAIN / "res"
CATALOG = ANDROID_DEMO / "gradle" / "libs.versions.toml"
VERSIONS: dict[str, str] = tomllib.loads(CATALOG.read_text(encoding="utf-8"))["versions"]
# what a wrong name in one file looks like, and what the linker has to say of it
WRONG = {
    "an attribute that Android does not have": (
        "layout/main.xml", 'android:orientation="vertical"', 'android:direction="vertical"', "direction",
    ),
    "a resource that is not there": ("layout/main.xml", "@string/message_hint", "@string/no_such_text", "no_such_text"),
    "a style that Android does not have": (
        "values/themes.xml", "Theme.DeviceDefault.DayNight", "Theme.NoSuch", "Theme.NoSuch",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tools() -> Tools:
    """aapt2 and apksigner; where they cannot be had, the reason is what is skipped with."""
    try:
        return open_tools(CACHE)
    except UnavailableError as error:
        pytest.skip(str(error))


def test_manifest_and_resources_link_and_the_package_is_signed(tools: Tools, tmp_path: Path) -> None:
    manifest = tmp_path / "AndroidManifest.xml"
    merged_manifest(MAIN / "AndroidManifest.xml", PACKAGE, manifest)
    package = link(tools, RESOURCES, manifest, VERSIONS, tmp_path)
    permissions = re.findall(r"uses-permission: name='([\w.]+)'", tools.aapt2("dump", "permissions", str(package)))
    assert permissions == ["android.permission.WAKE_LOCK"]
    badging = tools.aapt2("dump", "badging", str(package))
    assert f"launchable-activity: name='{PACKAGE}.MainActivity'" in badging
    assert f"sdkVersion:'{VERSIONS['minSdk']}'" in badging
    assert linked_names(tmp_path) == {kind: names for kind, names in resource_names(RESOURCES).items() if names}
    assert "Verifies" in sign(tools, package, VERSIONS["minSdk"])


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_name_in_resources_is_caught(tools: Tools, tmp_path: Path, mistake: str) -> None:
    name, old, new, said = WRONG[mistake]
    resources = shutil.copytree(RESOURCES, tmp_path / "res")
    text = (resources / name).read_text(encoding="utf-8")
    assert old in text
    (resources / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    manifest = tmp_path / "AndroidManifest.xml"
    merged_manifest(MAIN / "AndroidManifest.xml", PACKAGE, manifest)
    with pytest.raises(PackageError, match=said):
        link(tools, resources, manifest, VERSIONS, tmp_path)


def linked_names(work: Path) -> dict[str, set[str]]:
    """The names in the `R.java` that the linker made, by kind."""
    text = next((work / "java").rglob("R.java")).read_text(encoding="utf-8")
    classes = re.findall(r"public static final class (\w+) \{(.*?)\n  \}", text, re.DOTALL)
    return {kind: set(re.findall(r"public static final int (\w+)=", body)) for kind, body in classes}
