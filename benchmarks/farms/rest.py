"""HTTP as farms need it: time limits, retries where repeating is harmless, capped answers, errors with a name.

A server that is busy (429) or failing (5xx) is asked again, later each time and when it says. A request that starts
something is repeated only where the caller says that this starts it once.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from benchmarks.farms import FarmError

__all__ = ["answer_json", "client", "download", "send"]

CONNECT_S, READ_S = 10.0, 120.0
RETRIES = 5
BUSY = (429, 500, 502, 503, 504)
HARMLESS = frozenset({"GET", "HEAD", "PUT", "DELETE"})
MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_DOWNLOAD_BYTES = 512 * 1024 * 1024
CHUNK = 1 << 20
MOST_TEXT = 300


def client(auth: tuple[str, str] | None = None, *, backoff_s: float = 1.0) -> requests.Session:
    """A session that repeats harmless requests."""
    session = requests.Session()
    session.auth = auth
    session.trust_env = auth is None  # a ~/.netrc must not replace the credentials that were given
    retry = Retry(
        total=RETRIES,
        backoff_factor=backoff_s,
        status_forcelist=BUSY,
        allowed_methods=HARMLESS,
        respect_retry_after_header=True,
        raise_on_status=False,
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def send(
    session: requests.Session, method: str, url: str, *, read_s: float = READ_S, **content: Any
) -> requests.Response:
    """One request and its answer, which is a success."""
    where = f"{method} {url.partition('?')[0]}"  # signed addresses carry their signature in the query
    try:
        response = session.request(method, url, timeout=(CONNECT_S, read_s), stream=True, **content)
    except requests.Timeout as error:
        raise FarmError(f"{where}: no answer within {read_s:g} s", "timeout") from error
    except requests.RequestException as error:
        raise FarmError(f"{where}: {type(error).__name__}; check the network and the farm's status page") from error
    if response.status_code >= 400:
        said = ascii(_capped(response, MAX_JSON_BYTES)[:MOST_TEXT].decode("utf-8", "replace"))
        remedy = "; check the credentials" if response.status_code in (401, 403) else ""
        raise FarmError(f"{where}: status {response.status_code}: {said}{remedy}")
    return response


def answer_json(response: requests.Response) -> Mapping[str, Any]:
    """The JSON object of an answer."""
    content = _capped(response, MAX_JSON_BYTES)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FarmError(f"{response.url.partition('?')[0]}: the answer is not JSON: {content[:80]!a}") from error
    if not isinstance(found, dict):
        raise FarmError(f"{response.url.partition('?')[0]}: the answer is {type(found).__name__}, not a JSON object")
    return found


def download(session: requests.Session, url: str, place: Path) -> Path:
    """Save what an address holds, up to a limit."""
    response = send(session, "GET", url)
    unfinished = place.with_name(f"{place.name}.part")
    size = 0
    with unfinished.open("wb") as file:
        for chunk in response.iter_content(CHUNK):
            size += len(chunk)
            if size > MAX_DOWNLOAD_BYTES:
                raise FarmError(f"{url.partition('?')[0]}: more than {MAX_DOWNLOAD_BYTES} bytes; no result is as large")
            file.write(chunk)
    return unfinished.replace(place)


def _capped(response: requests.Response, limit: int) -> bytes:
    content = b""
    for chunk in response.iter_content(CHUNK):
        content += chunk
        if len(content) > limit:
            raise FarmError(f"{response.url.partition('?')[0]}: an answer of more than {limit} bytes")
    return content
