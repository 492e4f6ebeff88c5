"""HTTP with a farm that is busy, slow, broken or not the one we think."""

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from benchmarks.farms import FarmError, rest
from tests.benchmarks.farms.server import Answer, serving


def answers(*first: Answer, then: Answer) -> Iterator[Answer]:
    return chain(first, repeat(then))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(status: int) -> None:
    told = answers(Answer(status=status), Answer(status=status), then=Answer(content={"well": True}))
    with serving(lambda _: next(told)) as server:
        session = rest.client(("user", "key"), backoff_s=0)
        assert rest.answer_json(rest.send(session, "GET", f"{server.url}/a")) == {"well": True}
        assert len(server.asked) == 3
        assert {one.authorization for one in server.asked} == {"Basic dXNlcjprZXk="}


def test_it_waits_as_long_as_the_server_says() -> None:
    told = answers(Answer(status=429, headers={"Retry-After": "1"}), then=Answer(content={}))
    with serving(lambda _: next(told)) as server:
        started = rest_time()
        rest.send(rest.client(backoff_s=0), "GET", f"{server.url}/a")
        assert rest_time() - started >= 0.9


def rest_time() -> float:
    import time

    return time.monotonic()


def test_it_gives_up_with_the_status_and_no_secret() -> None:
    with serving(lambda _: Answer(status=500, content=b"<b>broken</b>")) as server:
        with pytest.raises(FarmError, match=r"status 500: '<b>broken</b>'") as raised:
            rest.send(rest.client(backoff_s=0), "GET", f"{server.url}/a?signature=secret")
        assert len(server.asked) == 1 + rest.RETRIES
        assert "secret" not in str(raised.value)


def test_what_starts_something_is_never_repeated() -> None:
    with serving(lambda _: Answer(status=500)) as server:
        with pytest.raises(FarmError, match="status 500"):
            rest.send(rest.client(backoff_s=0), "POST", f"{server.url}/build", json={})
        assert len(server.asked) == 1


def test_refused_credentials_say_what_to_check() -> None:
    with serving(lambda _: Answer(status=401)) as server, pytest.raises(FarmError, match="check the credentials"):
        rest.send(rest.client(), "GET", f"{server.url}/a")


def test_a_server_that_does_not_answer_is_a_timeout() -> None:
    with serving(lambda _: Answer(wait_s=1.0)) as server, pytest.raises(FarmError, match="no answer within") as raised:
        rest.send(rest.client(), "POST", f"{server.url}/a", read_s=0.1)
    assert raised.value.status == "timeout"


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(FarmError, match="ConnectionError"):
        rest.send(rest.client(backoff_s=0), "POST", "http://127.0.0.1:9/a")


@pytest.mark.parametrize("content", [b"<html>", b"[1]", b'{"a":' * 100_000])
def test_an_answer_that_is_no_object_is_refused(content: bytes) -> None:
    with serving(lambda _: Answer(content=content)) as server, pytest.raises(FarmError, match="the answer is"):
        rest.answer_json(rest.send(rest.client(), "GET", f"{server.url}/a"))


def test_a_download_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "MAX_DOWNLOAD_BYTES", 1000)
    with serving(lambda _: Answer(content=b"x" * 2000)) as server, pytest.raises(FarmError, match="more than 1000"):
        rest.download(rest.client(), f"{server.url}/a", tmp_path / "a")
    assert not (tmp_path / "a").exists()
