"""Build the Android demo as a signed APK with the real toolchain, where one is: `make apk`.

The debug variant, which Gradle signs with the debug key of this machine, so that it installs at once. The machine that
this project was written on has neither the Android SDK nor Google's Maven; `.github/workflows/apps.yml` runs the same.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1] / "android_demo"
APK = DEMO / "app" / "build" / "outputs" / "apk" / "debug" / "app-debug.apk"
TASKS = (":core:test", ":engine-api:test", ":app:assembleDebug")


class MissingToolError(Exception):
    """What this machine lacks, and where it comes from."""


def sdk(environment: Mapping[str, str]) -> Path:
    """The Android SDK, by the variables that Gradle reads too."""
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        place = Path(environment.get(name) or "/nowhere")
        if (place / "platforms").is_dir():
            return place
    raise MissingToolError(
        "no Android SDK: ANDROID_HOME names no directory with `platforms`; install Android Studio, or Google's command "
        "line tools and `sdkmanager 'platforms;android-36' 'build-tools;36.0.0'`, and set ANDROID_HOME"
    )


def gradle(environment: Mapping[str, str]) -> str:
    """The wrapper, where Android Studio or `gradle wrapper` made one, or the machine's own Gradle."""
    wrapper = DEMO / "gradlew"
    if (DEMO / "gradle" / "wrapper" / "gradle-wrapper.jar").is_file() and wrapper.is_file():
        return str(wrapper)
    found = shutil.which("gradle", path=environment.get("PATH"))
    if found is None:
        raise MissingToolError(
            "no Gradle: install the version of android_demo/gradle/libs.versions.toml (https://gradle.org/install), "
            "or open android_demo in Android Studio once"
        )
    return found


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Build, and say where the APK is; 1 with the remedy where a tool is missing, else Gradle's own status."""
    try:
        place = sdk(environment)
        words = [gradle(environment), "--project-dir", str(DEMO), *TASKS]
    except MissingToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    done = subprocess.run(words, env={**environment, "ANDROID_HOME": str(place)}, check=False)
    if done.returncode == 0:
        print(f"signed with the debug key: {APK.relative_to(DEMO.parent)}; adb install -r it")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
