"""The Android demo app: a link to the bundle, and a script that pushes it over adb.

Models are no part of an app's package: half a gigabyte and more would have to be unpacked again on the phone. The app
looks into its folder on shared storage, where adb may write, and checks every hash before it opens a model.
"""

import re
import shlex
import tomllib
from pathlib import Path

from export.apps import App, link_with_script
from export.bundle import Bundle
from export.errors import AppError
from export.oracle import ORACLE_FILE

CATALOG = Path("gradle/libs.versions.toml")
BUILD_SCRIPT = Path("app/build.gradle.kts")
APPLICATION_ID = re.compile(r'applicationId = "([A-Za-z0-9_.]+)"')
LINKS = "bundles"
SCRIPT = "push-bundle.sh"
RUNTIMES = ("onnxruntime", "executorch")
PUSH = """\
#!/bin/sh
# Written by `python -m export --into`. Puts the bundle {name} where the app finds it; an argument chooses one artifact.
# The app has to be installed: sh {script} [{choices}]
set -eu
cd "$(dirname "$0")"
folder=/sdcard/Android/data/{identifier}/files/bundles/{name}
adb shell mkdir -p "$folder"
# the answers that the app holds a model against, the first time
if [ -f "{links}/{name}/{oracle}" ]; then adb push "{links}/{name}/{oracle}" "$folder/"; fi
for artifact in ${{1:-{artifacts}}}; do
    # what an earlier push left would be mixed with the new
    adb shell rm -rf "$folder/$artifact"
    adb push "{links}/{name}/$artifact" "$folder/"
done
echo "pushed: choose it in the app's menu, Models"
"""


def read_app(directory: Path) -> App:
    """The app in a directory, by its version catalog and its build script."""
    try:
        catalog = tomllib.loads((directory / CATALOG).read_text(encoding="utf-8"))
        script = (directory / BUILD_SCRIPT).read_text(encoding="utf-8")
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise AppError(
            f"{directory}: not the project of an Android app ({error}); it needs {CATALOG} and {BUILD_SCRIPT}, "
            "as android_demo has them"
        ) from error
    found = APPLICATION_ID.search(script)
    if found is None:
        raise AppError(f"{directory / BUILD_SCRIPT}: names no applicationId; add one")
    versions = catalog.get("versions", {})
    runtimes = {name: str(versions[name]) for name in RUNTIMES if name in versions}
    return App(directory=directory, identifier=found[1], runtimes=runtimes)


def install(app: App, bundle: Bundle) -> list[str]:
    """Link the bundle into the app's folder and write the script that pushes what the app can run."""
    place = link_with_script(app, bundle, links=LINKS, script=SCRIPT, text=PUSH, oracle=ORACLE_FILE)
    return [
        f"{app.directory / LINKS / bundle.path.resolve().name}: linked",
        f"install the app, connect the phone, then: sh {shlex.quote(str(place))}",
    ]
