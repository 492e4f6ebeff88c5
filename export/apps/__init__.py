"""The demo apps: where a bundle goes so that an app finds it; one module a target, named as the target is.

A module holds `read_app(directory) -> App`, which raises `AppError` for a directory that is no app of its kind, and
`install(app, bundle)`, which puts a finished bundle there and gives the sentences that tell a person what to do next.
"""

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from export.bundle import Bundle
from export.errors import AppError
from export.plan import Plan
from export.user_cache import write_atomically
from runtimes.runner import release_of

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, kw_only=True)
class App:
    """The project of an app: its directory, how the system names it, and the engines in it with their versions."""

    directory: Path
    identifier: str
    runtimes: dict[str, str]


def open_app(target: str, directory: Path) -> App:
    """The app in a directory, checked before any work starts."""
    return cast(App, _module(target).read_app(directory))


def check_fits(app: App, plan: Plan) -> None:
    """Refuse a plan of which the app could run nothing, or whose bundle has a name that shells misread."""
    _check_name(plan.spec.out)
    problems = [_problem(app, build.module.RUNTIME, build.module.OLDEST_RUNTIME) for build in plan.builds]
    if None not in problems:
        raise AppError(
            f"{app.directory}: {'; '.join(filter(None, problems))}; raise the version, or choose another --backend"
        )


def install(app: App, target: str, bundle: Bundle) -> list[str]:
    """Put a bundle into an app; sentences that say what was done and what comes next."""
    _check_name(bundle.path)
    notes = [
        f"{name} stays out of reach: {problem}"
        for name, artifact in bundle.artifacts.items()
        if (problem := _problem(app, artifact.manifest.runtime.name, artifact.manifest.runtime.oldest_version))
    ]
    return [*notes, *cast(list[str], _module(target).install(app, bundle))]


def runs(app: App, runtime: str, oldest: str) -> bool:
    """Whether the app has this runtime in a version that is new enough."""
    return _problem(app, runtime, oldest) is None


def link_with_script(app: App, bundle: Bundle, *, links: str, script: str, text: str, **words: str) -> Path:
    """Link the bundle below the app's folder `links`, and write `script` there, which pushes what the app can run.

    `text` is a format string of name, script, choices, artifacts, identifier, links and `words`. Returns the script.
    """
    name = bundle.path.resolve().name
    link_bundle(app.directory / links / name, bundle.path.resolve())
    manifests = {folder: artifact.manifest.runtime for folder, artifact in bundle.artifacts.items()}
    artifacts = [folder for folder, runtime in manifests.items() if runs(app, runtime.name, runtime.oldest_version)]
    content = text.format(
        name=name,
        script=script,
        choices=" | ".join(artifacts),
        artifacts=" ".join(artifacts),
        identifier=app.identifier,
        links=links,
        **words,
    )
    place = app.directory / script
    write_atomically(place, content.encode())
    place.chmod(0o755)
    return place


def link_bundle(link: Path, target: Path) -> None:
    """A link to the bundle; what another export linked under that name gives way, a real directory does not."""
    link.parent.mkdir(exist_ok=True)
    if link.is_symlink():
        link.unlink()
    if link.exists():
        raise AppError(f"{link}: is no link; move it away, or choose another --out")
    link.symlink_to(target, target_is_directory=True)


def _check_name(bundle: Path) -> None:
    if not PLAIN_NAME.fullmatch(bundle.resolve().name):
        raise AppError(f"{bundle}: a bundle is pushed under its name: take letters, digits and ._+- for --out")


def _problem(app: App, runtime: str, oldest: str) -> str | None:
    found = app.runtimes.get(runtime)
    if found is None:
        return f"the app has no {runtime}"
    if release_of(found) < release_of(oldest):
        return f"needs {runtime} {oldest} or newer, the app has {found}"
    return None


def _module(target: str) -> ModuleType:
    known = sorted(place.stem for place in Path(__file__).parent.glob("*.py") if place.stem != "__init__")
    if target not in known:
        raise AppError(
            f"no app is known for target {target!r}; leave out --into, or choose a target of: {', '.join(known)}"
        )
    return importlib.import_module(f"export.apps.{target}")
