"""ExecuTorch's C++ runner on the virtual phone: tokens equal the host's, and a build without an operator says which.

PyPI's wheel has no `llama::` operators outside libtorch. A model without them runs on the wheel alone; the exported
tiny model runs where the sources of those operators are named (tests/devices_lane/runner.py), and is skipped elsewhere.
"""

from pathlib import Path

import pytest

from benchmarks.oracle import answer_cases
from benchmarks.record import RunRecord
from export.bundle import Bundle
from runtimes.artifact import Artifact
from tests.benchmarks.device_runs import run_on, warm_case
from tests.devices_lane.conftest import CACHE
from tests.devices_lane.debian import UnavailableError
from tests.devices_lane.network import PrivateNetwork
from tests.devices_lane.phone import Phone
from tests.devices_lane.phone_runs import device_on, only
from tests.devices_lane.runner import built, operator_sources
from tests.waiting import patient

pytestmark = pytest.mark.devices

LONG_PROMPT = [(7 * index) % 90 for index in range(100)]  # more than one chunk of the prefill


@pytest.fixture(scope="session")
def runner(network: PrivateNetwork) -> Path:
    """The C++ runner on ExecuTorch's wheel."""
    try:
        with network.outside():
            return built("executorch", "aarch64", CACHE)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def whole_runner(network: PrivateNetwork) -> Path:
    """The same with the operators of LLMs."""
    try:
        with network.outside():
            return built("executorch", "aarch64", CACHE, operator_sources())
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model with a state of its own on XNNPACK and the portable operators."""
    from tests.runtimes.tiny_executorch import write_artifact  # torch's exporter: only for tests that ask

    return Artifact.open(write_artifact(tmp_path_factory.mktemp("plain"), attention=False))


def run_cases(phone: Phone, runner: Path, artifact: Artifact, store: Path) -> RunRecord:
    cases = [warm_case(), warm_case("chunks", prompt=LONG_PROMPT)]
    # asked here: a process of its own imports torch, which takes minutes beside an emulated phone
    oracle = answer_cases(artifact, [case for file in cases for case in file.cases])
    made, warnings = run_on(device_on(phone, runner), artifact, store, cases, oracle=oracle, timeout_s=patient(60))
    assert not warnings
    return made


def assert_the_hosts_tokens(made: RunRecord) -> None:
    assert [row.status for row in made.cases] == ["ok", "ok"], [row.reason for row in made.cases]
    assert made.tools["runtime"].startswith("executorch 1.")
    found = [(row.parity.compared_tokens, row.parity.first_difference) for row in made.cases if row.parity]
    assert found == [(24, None), (24, None)], [row.parity for row in made.cases]


def test_a_model_on_xnnpack_has_the_hosts_tokens(phone: Phone, runner: Path, plain: Artifact, tmp_path: Path) -> None:
    assert_the_hosts_tokens(run_cases(phone, runner, plain, tmp_path / "store"))


def test_the_exported_model_has_the_hosts_tokens(
    phone: Phone, whole_runner: Path, bundle: Bundle, tmp_path: Path
) -> None:
    assert_the_hosts_tokens(run_cases(phone, whole_runner, bundle.artifacts["executorch"], tmp_path / "store"))


def test_a_build_without_an_operator_is_not_run_and_says_which(
    phone: Phone, runner: Path, bundle: Bundle, tmp_path: Path
) -> None:
    artifact = bundle.artifacts["executorch"]
    oracle = answer_cases(artifact, warm_case().cases)
    made, _ = run_on(device_on(phone, runner), artifact, tmp_path / "store", oracle=oracle, timeout_s=patient(60))
    row = only(made)
    assert row.status == "not_run"
    for operator in ("llama::gated_delta_rule.out", "llama::update_cache.out", "llama::custom_sdpa.out"):
        assert operator in str(row.reason)
