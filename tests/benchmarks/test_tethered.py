"""A process that is tethered ends with the one that started it, however that ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.tethered import run_tethered, tethered
from tests.waiting import patient

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
REPOSITORY = Path(__file__).parents[2]
# starts a child that would sleep for an hour, tells its id, and waits to be killed
PARENT = """
import subprocess, sys
from benchmarks.tethered import tethered
child = subprocess.Popen(tethered(["sh", "-c", "echo $$; exec sleep 3600"]))
child.wait()
"""
PATIENCE_S = 120.0


def runs(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(pid: int) -> bool:
    deadline = time.monotonic() + patient(PATIENCE_S)
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not runs(pid)


def test_it_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.kill()
        parent.wait()
        assert ended(child)


def test_it_ends_at_once_where_its_parent_is_gone_already() -> None:
    words = tethered(["sleep", "3600"])
    words[words.index("sleep") - 1] = "1"  # another process than the one that starts it
    assert subprocess.run(words, check=False, timeout=patient(PATIENCE_S)).returncode == -15


def run(script: str, folder: Path, timeout_s: float = PATIENCE_S) -> tuple[int, str, str]:
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        status = run_tethered(["sh", "-c", script], stdout=out, stderr=err, timeout_s=timeout_s, directory=folder)
    return status, (folder / "out").read_text(), (folder / "err").read_text()


def test_it_is_the_command_itself_with_its_output_and_status(tmp_path: Path) -> None:
    assert run("pwd; echo bad >&2; exit 3", tmp_path) == (3, f"{tmp_path}\n", "bad\n")


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (tmp_path / "err").open("wb") as err:
        assert run_tethered(["./none-such"], stdout=err, stderr=err, timeout_s=PATIENCE_S, directory=tmp_path) == 127
    assert (tmp_path / "err").read_text() == "error: ./none-such: No such file or directory\n"


def test_one_that_takes_too_long_may_clean_up(tmp_path: Path) -> None:
    script = 'trap "echo cleaned; exit 0" TERM; echo $$ > pid; while :; do sleep 0.1; done'
    with pytest.raises(subprocess.TimeoutExpired):
        run(script, tmp_path, timeout_s=2.0)
    # on a machine so busy that the shell had not begun, there was nothing to clean up
    assert not (tmp_path / "pid").exists() or (tmp_path / "out").read_text() == "cleaned\n"
