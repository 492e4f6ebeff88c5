"""A package of the app's manifest and resources, made by Android's own tools as far as Debian has them.

`aapt2` compiles and links what Gradle would give it, against Android's own resources (`framework-res.apk`, API 33);
`apksigner` signs and verifies. No dexer is to be had here (neither Debian 12 nor 13 has d8 or dx), so the package holds
no code: it shows that every attribute, style and reference is one that Android knows, and nothing of how the app runs.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.devices_lane.debian import UnavailableError, unpacked

LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/android", "usr/lib/7zip")
LOADER = "lib64/ld-linux-x86-64.so.2"
FRAMEWORK = "usr/share/android-framework-res/framework-res.apk"
SIGNER_JARS = ("usr/share/java/apksigner.jar", "usr/share/java/apksig.jar")
SIGNER = "com.android.apksigner.ApkSignerTool"
PASSWORD = "only-for-tests"
MINUTES = 10
ANDROID = "http://schemas.android.com/apk/res/android"
TOOLS = "{http://schemas.android.com/tools}"


class PackageError(Exception):
    """What a tool said when it refused."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Where the tools are unpacked."""

    aapt: Path
    signer: Path

    def aapt2(self, *words: str) -> str:
        """Run aapt2 with the C library that it was built for."""
        path = ":".join(str(self.aapt / folder) for folder in LIBRARIES)
        return _run([str(self.aapt / LOADER), "--library-path", path, str(self.aapt / "usr/bin/aapt2"), *words])

    def apksigner(self, *words: str) -> str:
        """Run apksigner on this machine's Java."""
        path = ":".join(str(self.signer / jar) for jar in SIGNER_JARS)
        return _run(["java", "-cp", path, SIGNER, *words])


def open_tools(cache: Path) -> Tools:
    """The tools in the cache, fetched on first use; `UnavailableError` says why they cannot be had."""
    for tool in ("java", "keytool"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"no {tool} here; install a JDK 17 (apt install default-jdk)")
    return Tools(aapt=unpacked("aapt-amd64", cache), signer=unpacked("apksigner", cache))


def merged_manifest(source: Path, package: str, target: Path) -> None:
    """The manifest as Gradle's merger leaves it where no library adds anything: `tools:` obeyed, the package named."""
    ElementTree.register_namespace("android", ANDROID)
    tree = ElementTree.parse(source)
    root = tree.getroot()
    for parent in list(root.iter()):
        for child in list(parent):
            if child.get(f"{TOOLS}node") == "remove":
                parent.remove(child)
    for entry in root.iter():
        for name in [name for name in entry.attrib if name.startswith(TOOLS)]:
            del entry.attrib[name]
    root.set("package", package)
    tree.write(target)


def link(tools: Tools, resources: Path, manifest: Path, versions: dict[str, str], work: Path) -> Path:
    """A package of compiled resources and manifest, and `R.java` in `work/java`."""
    compiled, made = work / "resources.zip", work / "app.apk"
    tools.aapt2("compile", "--dir", str(resources), "-o", str(compiled))
    tools.aapt2(
        "link", "-o", str(made), "-I", str(tools.aapt / FRAMEWORK), "--manifest", str(manifest),
        "--min-sdk-version", versions["minSdk"], "--target-sdk-version", versions["targetSdk"],
        "--version-code", "1", "--version-name", "1", "--java", str(work / "java"), str(compiled),
    )  # fmt: skip
    return made


def sign(tools: Tools, package: Path, oldest_sdk: str) -> str:
    """Sign a package with a key made for it; what apksigner says when it verifies."""
    keys = package.with_name("keys.jks")
    key = ["-keystore", str(keys), "-storepass", PASSWORD, "-alias", "test"]
    _run(["keytool", "-genkeypair", *key, "-keyalg", "EC", "-dname", "CN=test", "-validity", "2"])
    oldest = ["--min-sdk-version", oldest_sdk]
    tools.apksigner("sign", "--ks", str(keys), "--ks-pass", f"pass:{PASSWORD}", *oldest, str(package))
    return tools.apksigner("verify", "--verbose", *oldest, str(package))


def _run(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=MINUTES * 60, check=False)
    if done.returncode:
        raise PackageError(done.stdout + done.stderr)
    return done.stdout
