"""A Hugging Face hub on loopback, with as much of its protocol as huggingface_hub asks for.

Big files are "LFS": their etag is their SHA-256. Connections can be cut in the middle of a file.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

BIG = (".safetensors", ".gguf", "tokenizer.json")


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    range: str | None
    token: str | None
    user_agent: str


@dataclass
class FakeHub:
    """Repositories: id → revision → file → content. The first revision of a repository is its `main`."""

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    token: str | None = None
    gated: set[str] = field(default_factory=set)
    cut_after: int | None = None
    """Bytes of a file after which the connection is cut, once."""
    always_cut: bool = False
    stall_after: int | None = None
    """Bytes of a file after which nothing more is sent."""
    ranges: bool = True
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def add(self, repository: str, folder: Path, **extra: bytes) -> str:
        """Publish a folder as the next revision. Returns its commit."""
        files = {path.name: path.read_bytes() for path in folder.iterdir()} | extra
        commit = sha1(repr(sorted((n, sha1(c).digest()) for n, c in files.items())).encode()).hexdigest()
        self.repositories[repository] = {commit: files, **self.repositories.get(repository, {})}
        return commit

    def loaded(self, name: str) -> list[str | None]:
        """The Range of each request for the content of a file."""
        return [r.range for r in self.requests if r.method == "GET" and r.path.endswith("/" + name)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_arguments: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        token = authorization.removeprefix("Bearer ") if authorization else None
        agent = self.headers.get("User-Agent", "")
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range"), token, agent))
        api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models").strip("/").split("/")
        repository, rest = "/".join(parts[:2]), parts[2:]
        if token is not None and token != self.hub.token:
            return self._fail(401, None, "Invalid credentials in Authorization header")
        if repository not in self.hub.repositories:
            return self._fail(404, "RepoNotFound", "Repository not found")
        revision = rest[1] if len(rest) > 1 else "main"
        commits = self.hub.repositories[repository]
        commit = next(iter(commits)) if revision == "main" else revision
        if commit not in commits:
            return self._fail(404, "RevisionNotFound", "Invalid rev id")
        if not api and repository in self.hub.gated and token is None:
            return self._fail(401, "GatedRepo", f"Access to model {repository} is restricted")
        if not api:
            return self._file(commit, commits[commit], "/".join(rest[2:]))
        if rest and rest[0] == "tree":
            return self._json([_entry(name, content) for name, content in commits[commit].items()])
        return self._json({"id": repository, "sha": commit, "siblings": []})

    def _file(self, commit: str, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            return self._fail(404, "EntryNotFound", "Entry not found")
        content, start = files[name], 0
        wanted = self.headers.get("Range")
        if wanted and self.hub.ranges:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_etag(name, content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        cut = self.hub.cut_after
        if cut is not None and _is_big(name) and start + cut < len(content):
            if not self.hub.always_cut:
                self.hub.cut_after = None
            self.wfile.write(content[start : start + cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return None
        if self.hub.stall_after is not None and _is_big(name):
            self.wfile.write(content[start : start + self.hub.stall_after])
            self.wfile.flush()
            while self.hub.stall_after is not None:
                time.sleep(0.05)
            self.close_connection = True
            return None
        self.wfile.write(content[start:])
        return None

    def _json(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, status: int, code: str | None, message: str) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _is_big(name: str) -> bool:
    return name.endswith(BIG)


def _etag(name: str, content: bytes) -> str:
    return (sha256 if _is_big(name) else sha1)(content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(content), "oid": sha1(content).hexdigest()}
    if _is_big(name):
        entry["lfs"] = {"oid": sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve the hub; its `url` is set."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
