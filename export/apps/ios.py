"""The iOS demo app: a link to the bundle, and a script that copies it into the app's Documents over the cable.

Models are no part of an app's package. pymobiledevice3 reaches Documents from any computer; on a Mac, Finder does, too.
"""

import re
import shlex
from pathlib import Path

from export.apps import App, link_with_script
from export.bundle import Bundle
from export.errors import AppError
from export.oracle import ORACLE_FILE

PROJECT = Path("project.yml")
IDENTIFIER = re.compile(r"^ *PRODUCT_BUNDLE_IDENTIFIER: ([A-Za-z0-9.-]+)$", re.MULTILINE)
PACKAGE = re.compile(r"^  (QwenEdge\w*):\n    path: (\S+)$", re.MULTILINE)
FACTORY = re.compile(r'let runtime = "(\w+)"')
VERSION = re.compile(r'(?:let version = |else \{ )"([0-9.]+)"')
LINKS = "Bundles"
SCRIPT = "push-bundle.sh"
PUSH = """\
#!/bin/sh
# Written by `python -m export --into`. Copies bundle {name} to the app's Documents; an argument chooses an artifact.
# The app has to be installed, the iPhone connected and trusted: sh {script} [{choices}]
set -eu
cd "$(dirname "$0")/{links}/{name}"
tool=${{PYMOBILEDEVICE3:-pymobiledevice3}}
push() {{ "$tool" apps push --documents {identifier} "$1" "{name}/$1"; }}
if [ -f {oracle} ]; then push {oracle}; fi
for artifact in ${{1:-{artifacts}}}; do
    find "$artifact" -type f | while read -r file; do push "$file"; done
done
echo "copied: choose it in the app, Models"
"""


def read_app(directory: Path) -> App:
    """The app in a directory, by its project and the engines of the packages that it names."""
    try:
        project = (directory / PROJECT).read_text(encoding="utf-8")
    except OSError as error:
        raise AppError(
            f"{directory}: not the project of an iOS app ({error}); it needs {PROJECT}, as ios_demo has it"
        ) from error
    found = IDENTIFIER.search(project)
    if found is None:
        raise AppError(f"{directory / PROJECT}: names no PRODUCT_BUNDLE_IDENTIFIER; add one")
    packages = [directory / path for _, path in PACKAGE.findall(project)]
    return App(directory=directory, identifier=found[1], runtimes=_runtimes(packages))


def install(app: App, bundle: Bundle) -> list[str]:
    """Link the bundle into the app's folder and write the script that copies what the app can run."""
    place = link_with_script(app, bundle, links=LINKS, script=SCRIPT, text=PUSH, oracle=ORACLE_FILE)
    return [
        f"{app.directory / LINKS / bundle.path.resolve().name}: linked",
        f"install the app, connect the iPhone, then: sh {shlex.quote(str(place))}",
    ]


def _runtimes(packages: list[Path]) -> dict[str, str]:
    """The engines' factories say which runtime they open, in which version."""
    runtimes = {}
    for factory in sorted({place for package in packages for place in package.rglob("*Factory.swift")}):
        text = factory.read_text(encoding="utf-8")
        runtime, version = FACTORY.search(text), VERSION.search(text)
        if runtime is not None and version is not None:
            runtimes[runtime[1]] = version[1]
    return runtimes
