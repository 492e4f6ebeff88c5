"""Whatever ends an export early, nothing bad is ever sealed, the message is clear, and the next run goes on from there.

Faults are made for real: processes are killed, disks are small file systems in memory that fill up. What a listener is
told (`export.progress`) says when: it acts at an exact place of the export, so no test waits and hopes.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from export.errors import OutputError, ParityError
from export.output import LOCK_FILE, own_directory
from export.pipeline import export, quantize, read_inputs
from export.plan import make_plan
from export.progress import Silent
from export.quantized import BLOCKS
from export.spec import ExportSpec
from runtimes.artifact import MANIFEST_NAME, Artifact, artifact_manifests
from tests.exports import Listener, exported, small_spec, would_rebuild

ROOT = Path(__file__).parent.parent
KILLED = """
import os, signal, sys
from pathlib import Path
from export.pipeline import export
from export.progress import Silent
from tests.exports import small_spec

class Killer(Silent):
    name, steps = "", 0
    def stage(self, name, total=None, unit="B"):
        self.name, self.steps = name, 0
    def step(self, name, count=0):
        self.steps += 1
        self.meet(str(self.steps))
    def end(self):
        self.meet("end")
    def meet(self, moment):
        if sys.argv[3] in self.name and sys.argv[4] == moment:
            os.kill(os.getpid(), signal.SIGKILL)

export(small_spec(Path(sys.argv[1]), Path(sys.argv[2])), Killer())
"""
MOMENTS = [("quantize", "2"), ("lower", "1"), ("record reference", "3"), ("verify", "1"), ("verify", "end")]


@pytest.fixture
def checkpoint(fixture_checkpoint: Callable[[str], Path]) -> Path:
    return fixture_checkpoint("like_2b")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sealed(place: Path) -> list[Path]:
    """Every sealed manifest at or below a directory, hidden ones too."""
    return sorted(place.rglob(MANIFEST_NAME))


def blocks(cache: Path) -> dict[str, int]:
    """The finished blocks of the quantized checkpoint, by time of writing."""
    files = cache.glob("qwen-edge/quantized/*/[a-z]*.safetensors")
    return {file.name: file.stat().st_mtime_ns for file in files if file.parent.name != BLOCKS}


def test_killed_at_any_stage_nothing_is_sealed_and_the_next_run_succeeds(
    checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    """One run after another in the same directories, each killed (SIGKILL) a stage further than the one before."""
    out, finished = tmp_path / "bundle", {}
    for stage, moment in MOMENTS:
        command = [sys.executable, "-c", KILLED, str(out), str(checkpoint), stage, moment]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert sealed(out) == [], f"killed in {stage}"
        assert not (out / "bundle.json").exists()
        if stage == "quantize":
            finished = blocks(cache)
            assert len(finished) == 2, "killed after the second of six blocks"
    bundle, _ = exported(small_spec(out, checkpoint))
    assert {name: blocks(cache)[name] for name in finished} == finished, "finished blocks were written again"
    bundle.artifacts["onnx"].check_hashes()
    assert not list(out.glob(".*.partial"))


@dataclass(frozen=True)
class Running:
    """An export in a process of its own that has reached a stage; it goes on."""

    process: "subprocess.Popen[str]"
    out: Path

    def ends(self) -> tuple[int, str]:
        """How it ended and what it said."""
        assert self.process.stderr is not None
        said = self.process.stderr.read()
        return self.process.wait(timeout=60), said


def _heed_interrupts() -> None:
    """A shell starts background jobs deaf to SIGINT, and they pass it on; a person's terminal does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def running(out: Path, checkpoint: Path, stage: str) -> Iterator[Running]:
    """`python -m export` up to the line that begins a stage."""
    command = [sys.executable, "-m", "export", "--target", "android", "--backend", "onnx", "--context-length", "64"]
    command += ["--checkpoint", str(checkpoint), "--out", str(out), "--scheme", "int4", "--method", "rtn"]
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=_heed_interrupts, **pipes) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith(f"onnx: {stage}") and line.endswith("...\n"):
                    break
            yield Running(process, out)
        finally:
            process.kill()


def test_interrupted_it_says_so_and_seals_nothing(checkpoint: Path, tmp_path: Path) -> None:
    with running(tmp_path / "bundle", checkpoint, "lower") as export_:
        export_.process.send_signal(signal.SIGINT)
        status, said = export_.ends()
    assert status == 130
    assert said.endswith(
        "error: interrupted, nothing was sealed; run the same command again, finished layers are kept\n"
    )
    assert "Traceback" not in said
    assert sealed(tmp_path / "bundle") == []


def test_interrupted_in_verification_it_takes_the_verifying_process_along(checkpoint: Path, tmp_path: Path) -> None:
    with running(tmp_path / "bundle", checkpoint, "verify") as export_:
        children = _wait_for_children(export_.process.pid)
        export_.process.send_signal(signal.SIGINT)
        status, said = export_.ends()
    assert status == 130
    assert "Traceback" not in said
    assert children
    assert psutil.wait_procs(children, timeout=10)[1] == [], "the verifying process outlived its export"
    assert sealed(tmp_path / "bundle") == []


def _wait_for_children(pid: int) -> list[psutil.Process]:
    until = time.monotonic() + 30
    while not (children := psutil.Process(pid).children()) and time.monotonic() < until:
        time.sleep(0.01)
    return children


def test_of_two_exports_into_one_directory_the_second_is_told(checkpoint: Path, tmp_path: Path) -> None:
    with running(tmp_path / "bundle", checkpoint, "lower"):
        with pytest.raises(
            OutputError, match=r"bundle: another export is writing here; wait for it, or choose another"
        ):
            export(small_spec(tmp_path / "bundle", checkpoint), Silent())
        assert list((tmp_path / "bundle").glob(".*.partial")), "the first one's work was taken away"


def test_a_lock_that_a_killed_export_left_locks_nobody_out(checkpoint: Path, tmp_path: Path) -> None:
    with running(tmp_path / "bundle", checkpoint, "lower") as export_:
        export_.process.kill()
        export_.ends()
    assert (tmp_path / "bundle" / LOCK_FILE).exists()
    with own_directory(tmp_path / "bundle"):
        assert not list((tmp_path / "bundle").glob(".*.partial"))


@pytest.fixture(scope="module")
def finished(fixture_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> ExportSpec:
    """A finished export."""
    spec = small_spec(tmp_path_factory.mktemp("finished") / "bundle", fixture_checkpoint("like_2b"))
    export(spec, Silent())
    return spec


def test_an_artifact_that_was_stepping_aside_comes_back(finished: ExportSpec, tmp_path: Path) -> None:
    """As a run leaves it that is killed between the two renames that replace an artifact."""
    out = shutil.copytree(finished.out, tmp_path / "bundle")
    (out / "onnx").rename(out / ".onnx.old")
    assert artifact_manifests(out) == [], "what is hidden is not offered to readers"
    assert not would_rebuild(replace(finished, out=out))
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["onnx"]


def test_what_a_killed_replacement_left_is_tidied_up(finished: ExportSpec, tmp_path: Path) -> None:
    out = shutil.copytree(finished.out, tmp_path / "bundle")
    shutil.copytree(out / "onnx", out / ".onnx.old")
    shutil.copytree(out / "onnx", out / ".onnx.partial")
    shutil.copytree(out / "onnx", out / ".executorch.partial")
    assert artifact_manifests(out) == [out / "onnx" / MANIFEST_NAME]
    assert not would_rebuild(replace(finished, out=out))
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["onnx"]


def test_the_artifact_that_is_there_stays_until_the_new_one_is_verified(finished: ExportSpec, tmp_path: Path) -> None:
    out = shutil.copytree(finished.out, tmp_path / "bundle")
    with pytest.raises(ParityError):
        export(replace(finished, out=out, context_length=96), At("record reference", lambda: _damage(out)))
    Artifact.open(out / "onnx").check_hashes()
    assert Artifact.open(out / "onnx").manifest.context_length == 64
    assert (out / "bundle.json").exists()


class At(Listener):
    """Does something once, when a stage begins, or when it has ended."""

    def __init__(self, stage: str, act: Callable[[], object], *, ended: bool = False) -> None:
        super().__init__()
        self._stage, self._act, self._ended = stage, act, ended

    def stage(self, name: str, total: int | None = None, unit: str = "B") -> None:
        super().stage(name, total, unit)
        if self._stage in name and not self._ended:
            self._act()

    def end(self) -> None:
        if self._stage in self.stages[-1][0] and self._ended:
            self._act()


def _damage(out: Path) -> None:
    """Wrong weights, as a broken backend writes them."""
    place = out / ".onnx.partial" / "model.onnx.data"
    content = bytearray(place.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 10_000] = os.urandom(10_000)
    place.write_bytes(content)


def test_a_model_file_with_wrong_weights_is_not_sealed(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ParityError, match=r"onnx: the written artifact disagrees with eager torch in \d+ of \d+ checks"
    ):
        export(small_spec(tmp_path, checkpoint), At("record reference", lambda: _damage(tmp_path)))
    assert sealed(tmp_path) == []


def test_a_file_that_changes_before_it_is_verified_is_not_sealed(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ParityError, match=r"ended without a report \(exit 1\): .*sha256 is .*; nothing was sealed, the"
    ):
        export(small_spec(tmp_path, checkpoint), At("verify", lambda: _damage(tmp_path)))
    assert sealed(tmp_path) == []


def test_a_verifying_process_that_dies_is_an_error_that_says_how(checkpoint: Path, tmp_path: Path) -> None:
    class Assassin(Listener):
        def step(self, name: str, count: int = 0) -> None:
            super().step(name, count)
            if "verify" in self.stages[-1][0]:
                for child in psutil.Process().children():
                    child.kill()

    with pytest.raises(ParityError, match=r"ended without a report \(killed by SIGKILL, out of memory\?\): "):
        export(small_spec(tmp_path, checkpoint), Assassin())
    assert sealed(tmp_path) == []


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a small file system in memory."""
    places: list[Path] = []

    def mount(size: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            pytest.skip(f"a disk of {size} cannot be mounted here: {made.stderr.strip()}")
        places.append(place)
        return place

    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, left_bytes: int = 0) -> Path:
    """Write a file that takes what is free, but for `left_bytes`."""
    filler = disk / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - left_bytes))
    return filler


@pytest.mark.parametrize(
    ("stage", "left_bytes", "ended"),
    [("lower", 50_000, False), ("record reference", 20_000, False), ("verify", 0, True)],
    ids=["lowering", "recording", "sealing"],
)
def test_a_disk_that_fills_up_seals_nothing_and_the_next_run_succeeds(
    checkpoint: Path, mounted: Callable[[str], Path], stage: str, left_bytes: int, ended: bool
) -> None:
    disk = mounted("8m")
    spec = small_spec(disk / "bundle", checkpoint)
    with pytest.raises(
        OutputError, match=r"disk0.*: no space left on the disk .*finished layers are kept, or choose an"
    ):
        export(spec, At(stage, lambda: fill(disk, left_bytes), ended=ended))
    assert sealed(disk) == []
    (disk / "filler").unlink()
    if ended:  # one whole run is enough to see that it can go on
        exported(spec)[0].artifacts["onnx"].check_hashes()


def test_executorch_says_the_same_of_a_full_disk(checkpoint: Path, mounted: Callable[[str], Path]) -> None:
    disk = mounted("8m")
    with pytest.raises(OutputError, match=r"disk0.*: no space left on the disk"):
        export(
            small_spec(disk / "bundle", checkpoint, backends=("executorch",)), At("lower", lambda: fill(disk, 50_000))
        )
    assert sealed(disk) == []


def test_a_cache_that_fills_up_keeps_its_finished_blocks(
    checkpoint: Path, mounted: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mounted("4m")
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
    spec = small_spec(tmp_path / "bundle", checkpoint)

    class FillsAfterTwo(Listener):
        def step(self, name: str, count: int = 0) -> None:
            super().step(name, count)
            if name == "layers.1":
                fill(disk)

    message = r"disk0/.*: no space left on the disk .*finished layers are kept, or set XDG_CACHE_HOME to"
    with pytest.raises(OutputError, match=message):
        export(spec, FillsAfterTwo())
    finished = blocks(disk)
    assert sorted(finished) == ["layers.0.safetensors", "layers.1.safetensors"]
    assert not [file for file in disk.rglob(".*") if file.is_file() and file.stat().st_size], "a part was left behind"
    (disk / "filler").unlink()
    exported(spec)
    assert {name: blocks(disk)[name] for name in finished} == finished


def test_what_killed_runs_left_in_the_cache_goes_after_a_day(finished: ExportSpec) -> None:
    plan = make_plan(finished)
    inputs = read_inputs(plan, Silent())
    store = quantize(inputs, plan.builds[0], Silent()).path
    for name, age in ((".tmpOld", 90_000), (".tmpNew", 60)):
        (store / name).write_bytes(b"half a block")
        os.utime(store / name, (time.time() - age,) * 2)
    quantize(inputs, plan.builds[0], Silent())
    assert not (store / ".tmpOld").exists()
    assert (store / ".tmpNew").exists(), "it may be another run's"


def test_too_little_space_is_said_before_any_work(
    checkpoint: Path, mounted: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = mounted("300k")
    listener = Listener()
    with pytest.raises(
        OutputError, match=r"disk0/bundle: \d+ bytes free, about \d+ needed; free some, or choose another"
    ):
        export(small_spec(small / "bundle", checkpoint), listener)
    assert [name for name, _, _ in listener.stages] == ["checkpoint"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(mounted("100k")))
    with pytest.raises(
        OutputError, match=r"disk1/.*: \d+ bytes free, about \d+ needed; free some, or set XDG_CACHE_HOME"
    ):
        export(small_spec(tmp_path / "bundle", checkpoint), Silent())


def test_a_read_only_disk_is_named(
    checkpoint: Path, mounted: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mounted("4m")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(
        OutputError, match=r"disk0/bundle: cannot be written \(Read-only file system\); change its perm"
    ):
        export(small_spec(disk / "bundle", checkpoint), Silent())
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk / "cache"))
    with pytest.raises(OutputError, match=r"disk0/cache.*Read-only file system.*XDG_CACHE_HOME"):
        export(small_spec(tmp_path / "bundle", checkpoint), Silent())
    assert sealed(tmp_path / "bundle") == []
