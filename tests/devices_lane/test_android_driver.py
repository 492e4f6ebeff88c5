"""The Android driver against the genuine adbd: whole runs, and what each fault becomes in the record.

The "phone" is this machine's processor, so the host's Python runner runs there; faulty runners are small scripts. The
row, its status, the time it took and what is left on the device are looked at each time.
"""

import os
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import host_runner
from benchmarks.android.adb import Adb, bundled_adb
from benchmarks.android.files import PARTIAL, hashes_there
from benchmarks.cases import Case, write_cases
from benchmarks.devices import DeviceError, DeviceOptions, LostDeviceError
from benchmarks.devices.android import ROOT, AndroidDevice
from benchmarks.oracle import Oracle, answer_cases
from benchmarks.record import CaseRecord
from runtimes.artifact import Artifact
from tests.benchmarks.device_runs import run_on, warm_case
from tests.devices_lane.adbd import REPOSITORY, Adbd
from tests.devices_lane.conftest import await_device
from tests.runtimes.tiny_onnx import write_artifact
from tests.waiting import patient

pytestmark = pytest.mark.devices

PYTHON_RUNNER = f"""\
#!/bin/sh
unset LD_LIBRARY_PATH
export PYTHONPATH={REPOSITORY} ORT_DISABLE_TELEMETRY=1
exec {sys.executable} -m benchmarks.host_runner --series adb-shell "$@"
"""
# where the runner is told to write; the driver starts it in the folder that holds it
OUT = "events.jsonl"
NO_HANG_S = 240.0

Row = Callable[..., CaseRecord]


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Artifact.open(write_artifact(tmp_path_factory.mktemp("artifact")))


@pytest.fixture(scope="session")
def oracle(artifact: Artifact) -> Oracle:
    case: Case = warm_case().cases[0]
    return answer_cases(artifact, [case, case.model_copy(update={"case": "second"})])


@pytest.fixture(scope="session")
def good_stream(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the host's runner says of the case, as a phone's runner would."""
    work = tmp_path_factory.mktemp("stream")
    write_cases(warm_case(), work / "cases.json")
    words = ["--artifact", str(artifact.path), "--cases", str(work / "cases.json"), "--out", str(work / OUT)]
    assert host_runner.main([*words, "--series", "adb-shell"]) == 0
    return work / OUT


@pytest.fixture
def device(adbd: Adbd, tmp_path: Path) -> Iterator[Callable[..., AndroidDevice]]:
    """Return a function from a runner's script to the device that will run it."""

    def open_with(script: str, beside: Path | None = None, reconnect_s: float = 30.0) -> AndroidDevice:
        folder = tmp_path / "runner"
        folder.mkdir(exist_ok=True)
        (folder / "runner").write_text(script if script.startswith("#!") else f"#!/bin/sh\n{textwrap.dedent(script)}")
        (folder / "runner").chmod(0o755)
        if beside is not None:
            (folder / "stream").write_bytes(beside.read_bytes())
        return AndroidDevice(
            Adb(program=bundled_adb(), serial=adbd.serial), DeviceOptions(runner=folder, reconnect_s=reconnect_s)
        )

    yield open_with
    if adbd.pid is None:
        adbd.start()
        await_device(adbd.serial)
    left = adbd.root / ROOT.lstrip("/")
    files = [str(file) for file in left.rglob("*")]
    shutil.rmtree(left, ignore_errors=True)
    assert not files, "files of a run are left"


@pytest.fixture
def row(device: Callable[..., AndroidDevice], artifact: Artifact, oracle: Oracle, tmp_path: Path) -> Row:
    """Return a function that runs one case with a runner's script and gives its row."""

    def run(script: str, beside: Path | None = None, **changes: float) -> CaseRecord:
        began = time.monotonic()
        made, warnings = run_on(device(script, beside), artifact, tmp_path / "store", oracle=oracle, **changes)
        assert time.monotonic() - began < patient(NO_HANG_S)
        assert not warnings
        return made.cases[0]

    return run


def adb_of(adbd: Adbd) -> Adb:
    return Adb(program=bundled_adb(), serial=adbd.serial)


def test_a_whole_run_has_the_oracles_tokens_and_leaves_nothing(
    device: Callable[..., AndroidDevice], adbd: Adbd, artifact: Artifact, tmp_path: Path
) -> None:
    made, warnings = run_on(device(PYTHON_RUNNER), artifact, tmp_path / "store", [warm_case(), warm_case("second")])
    assert [case.status for case in made.cases] == ["ok", "ok"], [case.reason for case in made.cases]
    assert not warnings
    parity = made.cases[0].parity
    assert parity is not None
    assert (parity.compared_tokens, parity.first_difference) == (24, None)
    assert made.series == "adb-shell"
    assert made.device.kind == "vm"
    assert not made.validity.valid
    assert made.environment.thermal_status is None
    assert "127" in made.environment.unknown["thermal_status"]
    assert not adbd.processes("benchmarks.host_runner")


def test_kept_files_are_not_sent_again(
    device: Callable[..., AndroidDevice], adbd: Adbd, artifact: Artifact, oracle: Oracle, tmp_path: Path
) -> None:
    pushed: list[str] = []

    def report(phase: str, done: int, total: int) -> None:
        del done, total
        pushed.append(phase)

    first = device(PYTHON_RUNNER)
    first.push(artifact, report)
    assert any("model.onnx" in phase for phase in pushed)
    first.clean_up(keep=True)
    pushed.clear()
    second = device(PYTHON_RUNNER)
    second.push(artifact, report)
    second.clean_up(keep=False)
    assert set(pushed) == {"pushing"}


def test_a_partial_or_altered_file_is_replaced_and_never_used(
    device: Callable[..., AndroidDevice], adbd: Adbd, artifact: Artifact
) -> None:
    folder = f"{ROOT}/artifact-{artifact.manifest.artifact_hash()[:16]}"
    adb = adb_of(adbd)
    name = artifact.manifest.model_file
    adb.check(f"mkdir -p {folder} && echo half > {folder}/{name}{PARTIAL} && echo other > {folder}/tokenizer.json")
    pushing = device(PYTHON_RUNNER)
    pushing.push(artifact, lambda *_: None)
    names = [entry.path for entry in artifact.manifest.files]
    assert dict(hashes_there(adb, folder, names)) == {entry.path: entry.sha256 for entry in artifact.manifest.files}
    assert PARTIAL not in adb.check(f"ls {folder}")
    pushing.clean_up(keep=False)


def test_a_runner_that_is_not_there_is_not_run(adbd: Adbd, artifact: Artifact, oracle: Oracle, tmp_path: Path) -> None:
    device = AndroidDevice(adb_of(adbd), DeviceOptions(runner=tmp_path / "nowhere"))
    made, _ = run_on(device, artifact, tmp_path / "store", oracle=oracle)
    assert made.cases[0].status == "not_run"
    assert "no program called 'runner'" in str(made.cases[0].reason)


def test_a_runner_that_fails_says_why(row: Row) -> None:
    found = row("echo 'this phone is too old' >&2; exit 3")
    assert found.status == "failed"
    assert "status 3: this phone is too old" in str(found.reason)


def test_a_killed_runner_is_killed(row: Row) -> None:
    found = row("kill -9 $$")
    assert found.status == "killed"
    assert "signal 9" in str(found.reason)


def test_a_crash_is_named_by_its_signal(row: Row) -> None:
    assert "signal 11" in str(row("kill -SEGV $$").reason)


def test_no_memory_is_oom(row: Row) -> None:
    assert row("echo 'terminate called: std::bad_alloc' >&2; kill -ABRT $$").status == "oom"


def test_an_exit_status_of_0_without_a_stream_is_corrupt(row: Row) -> None:
    found = row("exit 0")
    assert found.status == "corrupt"
    assert "no result" in str(found.reason)


def test_a_stream_without_its_end_is_corrupt_and_kept_as_evidence(row: Row, good_stream: Path) -> None:
    found = row(f'head -n 20 "$LD_LIBRARY_PATH/stream" > {OUT}', good_stream)
    assert found.status == "corrupt"
    assert len(found.events) == 20
    assert not found.metrics


def test_an_altered_stream_is_corrupt(row: Row, good_stream: Path) -> None:
    found = row(f'sed "s/\\"index\\": 3/\\"index\\": 4/" "$LD_LIBRARY_PATH/stream" > {OUT}', good_stream)
    assert found.status == "corrupt"


def test_a_stream_that_is_no_text_is_corrupt(row: Row) -> None:
    assert row(f"head -c 100000 /dev/urandom > {OUT}").status == "corrupt"


def test_an_endless_stream_is_corrupt(row: Row) -> None:
    found = row(f"head -c 70000000 /dev/zero > {OUT}")
    assert found.status == "corrupt"
    assert "more than" in str(found.reason)


def test_a_stream_of_another_series_is_corrupt(row: Row) -> None:
    found = row(PYTHON_RUNNER.replace("--series adb-shell", "--series app"))
    assert found.status == "corrupt"
    assert "never mixed" in str(found.reason)


def test_a_stream_of_another_case_is_corrupt(
    device: Callable[..., AndroidDevice], artifact: Artifact, oracle: Oracle, good_stream: Path, tmp_path: Path
) -> None:
    with_stream = device(f'cp "$LD_LIBRARY_PATH/stream" {OUT}', good_stream)
    made, _ = run_on(with_stream, artifact, tmp_path / "store", [warm_case("second")], oracle=oracle)
    assert made.cases[0].status == "corrupt"
    assert "no finished case 'second'" in str(made.cases[0].reason)


def test_fewer_generations_than_asked_for_are_corrupt(
    device: Callable[..., AndroidDevice], artifact: Artifact, oracle: Oracle, good_stream: Path, tmp_path: Path
) -> None:
    with_stream = device(f'cp "$LD_LIBRARY_PATH/stream" {OUT}', good_stream)
    made, _ = run_on(with_stream, artifact, tmp_path / "store", [warm_case(repeats=3)], oracle=oracle)
    assert made.cases[0].status == "corrupt"


def test_other_tokens_make_the_run_invalid(
    device: Callable[..., AndroidDevice], artifact: Artifact, oracle: Oracle, good_stream: Path, tmp_path: Path
) -> None:
    answer = oracle.answers[0]
    other = answer.model_copy(update={"tokens": [*answer.tokens[:5], 0, *answer.tokens[6:]], "margins": [9.0] * 12})
    with_stream = device(f'cp "$LD_LIBRARY_PATH/stream" {OUT}', good_stream)
    strict = oracle.model_copy(update={"answers": [other], "max_error": 0.1})
    made, _ = run_on(with_stream, artifact, tmp_path / "store", oracle=strict)
    assert made.cases[0].status == "ok"
    assert made.cases[0].parity is not None
    assert made.cases[0].parity.first_difference == 5
    assert any("a clear margin" in violation for violation in made.validity.violations)


def test_a_runner_without_end_is_a_timeout_and_is_killed(row: Row, adbd: Adbd) -> None:
    found = row("sleep 3333", timeout_s=3)
    assert found.status == "timeout"
    assert not adbd.processes("3333")


def test_a_disk_that_is_full_before_the_push_is_disk_full(row: Row, adbd: Adbd) -> None:
    filler = adbd.root / "data/local/tmp/filler"
    filler.write_bytes(bytes(240 * 2**20))
    try:
        found = row("exit 0")
    finally:
        filler.unlink()
    assert found.status == "disk_full"
    assert "bytes are free" in str(found.reason)


def test_a_disk_that_gets_full_meanwhile_is_disk_full(row: Row, adbd: Adbd) -> None:
    try:
        found = row("cat /dev/zero > ../../filler")
    finally:
        (adbd.root / "data/local/tmp/filler").unlink(missing_ok=True)
    assert found.status == "disk_full"


def test_words_of_a_hostile_runner_are_harmless(row: Row) -> None:
    found = row(r"printf '\033[31mred\r\n\000\342\200\256txt %s' '<script>' >&2; exit 1")
    assert found.status == "failed"
    assert found.reason is not None
    assert found.reason.isprintable()


def test_a_daemon_that_dies_and_comes_back_costs_nothing(
    device: Callable[..., AndroidDevice],
    adbd: Adbd,
    artifact: Artifact,
    oracle: Oracle,
    good_stream: Path,
    tmp_path: Path,
) -> None:
    slow = device(f'sleep 6; cp "$LD_LIBRARY_PATH/stream" {OUT}', good_stream, reconnect_s=120)
    with meanwhile(adbd, "sleep\0" + "6", adbd.restart):
        made, _ = run_on(slow, artifact, tmp_path / "store", oracle=oracle)
    assert made.cases[0].status == "ok", made.cases[0].reason


def test_a_device_that_stays_away_is_lost_for_all_that_remains(
    device: Callable[..., AndroidDevice], adbd: Adbd, artifact: Artifact, oracle: Oracle, tmp_path: Path
) -> None:
    began = time.monotonic()
    slow = device("sleep 9", reconnect_s=4)
    with meanwhile(adbd, "sleep\0" + "9", adbd.kill):
        made, warnings = run_on(
            slow, artifact, tmp_path / "store", [warm_case(), warm_case("second")], oracle=oracle, timeout_s=30
        )
    assert time.monotonic() - began < patient(NO_HANG_S)
    assert [case.status for case in made.cases] == ["lost_device", "lost_device"]
    assert "did not come back" in str(made.cases[1].reason)
    assert warnings, "nobody was told that the device could not be cleaned"
    adbd.start()
    await_device(adbd.serial)
    slow.clean_up(keep=False)


def test_a_daemon_that_answers_nothing_is_no_hang(
    adbd: Adbd, device: Callable[..., AndroidDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = adbd.pid
    assert pid is not None
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DeviceError) as failed:
            adb_of(adbd).shell("echo here", timeout_s=3)
    finally:
        os.kill(pid, signal.SIGCONT)
        # nsenter, its parent, stops with its child
        os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGCONT)
    assert failed.value.status in ("timeout", "lost_device")
    assert time.monotonic() - began < patient(20)


def test_a_device_that_is_not_there_is_named(adbd: Adbd) -> None:
    with pytest.raises(LostDeviceError, match="not found"):
        Adb(program=bundled_adb(), serial="10.0.0.9:1").check("true")


class meanwhile:  # noqa: N801 (reads as a word)
    """Do something to the device as soon as a command runs on it."""

    def __init__(self, adbd: Adbd, command: str, action: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=self._wait, args=(adbd, command, action))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    @staticmethod
    def _wait(adbd: Adbd, command: str, action: Callable[[], None]) -> None:
        deadline = time.monotonic() + patient(NO_HANG_S)
        while not adbd.processes(command) and time.monotonic() < deadline:
            time.sleep(0.1)
        action()
