"""A server on this machine that speaks as much of the Hugging Face Hub's and ModelScope's protocol as clients use.

It serves one repository from memory, counts what was asked for, honours ranges, and can cut a transfer in the middle.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(kw_only=True)
class Repository:
    """What the server holds and how it misbehaves.

    `cut` says after how many bytes each further transfer of a file breaks off; `requests` holds (method, path, range).
    """

    repository_id: str
    revision: str
    files: dict[str, bytes]
    private: bool = False
    cut: dict[str, list[int]] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def downloads(self, file: str) -> list[str | None]:
        """Return the Range of each request for a file's content."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(file)]


@contextmanager
def serving(repository: Repository) -> Iterator[Repository]:
    """Serve a repository on a free port of the loopback interface."""

    class Bound(Handler):
        repo = repository

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    repository.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield repository
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers both hubs: their paths do not overlap."""

    protocol_version = "HTTP/1.1"
    repo: Repository

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: `requests` is the record."""

    def answer(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), {key: values[0] for key, values in parse_qs(url.query).items()}
        recorded = query.get("FilePath", path)
        self.repo.requests.append((self.command, recorded, self.headers.get("Range")))
        if path.startswith("/api/v1/"):
            self.modelscope(path, query)
        else:
            self.huggingface(path)

    def huggingface(self, path: str) -> None:
        name = self.repo.repository_id
        if self.repo.private and name in path:
            self.fail(403, "GatedRepo")
        elif path.startswith(f"/api/models/{name}/tree/"):
            if path.rsplit("/", 1)[1] != self.repo.revision:
                return self.fail(404, "RevisionNotFound")
            self.json([self.huggingface_entry(file) for file in self.repo.files])
        elif path.startswith(f"/{name}/resolve/{self.repo.revision}/"):
            self.content(path.removeprefix(f"/{name}/resolve/{self.repo.revision}/"))
        else:
            self.fail(404, "RepoNotFound")
        return None

    def huggingface_entry(self, file: str) -> dict[str, Any]:
        content = self.repo.files[file]
        return {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def modelscope(self, path: str, query: dict[str, str]) -> None:
        base = f"/api/v1/models/{self.repo.repository_id}"
        if self.repo.private:
            self.json({"Code": 10010, "Message": "no permission", "Success": False}, status=403)
        elif path == f"{base}/repo/files" and query["Revision"] == self.repo.revision:
            self.json(
                {"Code": 200, "Success": True, "Data": {"Files": [self.modelscope_entry(f) for f in self.repo.files]}}
            )
        elif path == f"{base}/repo" and query["Revision"] == self.repo.revision:
            self.content(query["FilePath"])
        else:
            self.json({"Code": 10010205001, "Message": "record not found", "Success": False}, status=404)

    def modelscope_entry(self, file: str) -> dict[str, Any]:
        content = self.repo.files[file]
        sha256 = hashlib.sha256(content).hexdigest()
        return {"Path": file, "Name": file, "Type": "blob", "Size": len(content), "Sha256": sha256}

    def content(self, file: str) -> None:
        if file not in self.repo.files:
            return self.fail(404, "EntryNotFound")
        whole = self.repo.files[file]
        span = self.headers.get("Range")
        start = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
        body = whole[start:]
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.send_header("ETag", f'"{hashlib.sha1(whole).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.repo.revision)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.send_body(file, body)
        return None

    def send_body(self, file: str, body: bytes) -> None:
        cuts = self.repo.cut.get(file)
        kept = cuts.pop(0) if cuts else None
        self.wfile.write(body[:kept])
        if kept is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def json(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
