"""A real PostgreSQL for tests: a cluster of our own in a temporary folder, on a Unix socket, by an ordinary user."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
REMEDY = "install it (`apt-get install postgresql`) to run the PostgreSQL lane"
START_TIMEOUT_S = 60


def programs() -> Path:
    """The folder with initdb and pg_ctl; skips the test where there is none."""
    found = [path for place in PLACES for path in sorted(Path("/").glob(place[1:])) if (path / "initdb").exists()]
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).parent
    if not found:
        pytest.skip(f"NOT RUN: no PostgreSQL server on this machine; {REMEDY}")
    return found[-1]


def _user() -> pwd.struct_passwd:
    """PostgreSQL refuses to run as root."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid())
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _run(user: pwd.struct_passwd, *command: str | Path) -> None:
    switch = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        list(map(str, command)),
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=START_TIMEOUT_S,
        check=False,
        **switch,  # type: ignore[arg-type]
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout.decode()[-2000:]}")


@contextmanager
def cluster() -> Iterator[str]:
    """A running cluster; gives its URL without the name of a database."""
    bin_dir, user = programs(), _user()
    # a socket's path is short: the folder can't be pytest's
    with tempfile.TemporaryDirectory(prefix="qwen-edge-pg-") as name:
        folder = Path(name)
        os.chown(folder, user.pw_uid, user.pw_gid)
        data = folder / "data"
        _run(user, bin_dir / "initdb", "-D", data, "-U", "lab", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c shared_buffers=16MB -c fsync=off"
        control = bin_dir / "pg_ctl"
        _run(user, control, "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
        try:
            yield f"postgresql://lab@/{{name}}?host={folder}"
        finally:
            _run(user, control, "-D", data, "-m", "immediate", "-w", "stop")
