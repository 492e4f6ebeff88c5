"""What every test shares: no telemetry, no writing outside the test's directories, checkpoints made once a session."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's caches out of the tests and the tests out of the user's caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def fixture_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a name of `tests.fixtures.FIXTURES` to its checkpoint directory, made on first use."""
    from tests.fixtures import FIXTURES, make_checkpoint  # transformers: only for tests that ask

    @cache
    def make(name: str) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp(name), FIXTURES[name])

    return make
