"""A Hugging Face hub on 127.0.0.1, as much of it as `huggingface_hub` talks to: lists, files with ranges, LFS commits.

`with FakeHub() as hub:` serves `hub.repos`, a mapping of repository names to `Repo`. Faults are switched on by
attributes: `hub.cut_after` closes a connection in the middle of a file, `repo.gate` refuses as a gated repository does.
What clients asked for is in `hub.requests`, and what they pushed in the repository.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin")
TOKEN = "hf_test"


def git_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Repo:
    """A repository with one branch; `gate` 401 or 403 refuses who has no token."""

    files: dict[str, bytes] = field(default_factory=dict)
    gate: int = 0
    private: bool = False
    kind: str = "models"
    revisions: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class FakeHub:
    """The server; `url` is what HF_ENDPOINT is to be."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.blobs: dict[str, bytes] = {}
        self.cut_after: dict[str, int] = {}
        self.spoil: set[str] = set()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sent(self, name: str) -> int:
        """How often the content of a file was asked for."""
        return sum(method == "GET" and path.endswith(f"/{name}") for method, path, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.body = self._body()
        self.path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, self.path, dict(self.headers)))
        parts = self.path.strip("/").split("/")
        if self.path == "/api/repos/create":
            return self._create()
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if parts[0] == "blobs":
            self.hub.blobs[parts[1]] = self.body
            return self._json({})
        if parts[0] == "api":
            return self._api(parts[1], "/".join(parts[2:4]), parts[4:])
        if parts[0] == "datasets":
            return self._file("datasets", "/".join(parts[1:3]), parts[3:])
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self._batch()
        return self._file("models", "/".join(parts[:2]), parts[2:])

    def _body(self) -> bytes:
        """What was sent, with its length in front or in chunks, as large files are."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().strip(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _repo(self, kind: str, name: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or repo.kind != kind:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return None
        if repo.gate and not has_token:
            code = "GatedRepo"
            message = f"Access to model {name} is restricted."
            self._json({"error": message}, repo.gate, {"X-Error-Code": code, "X-Error-Message": message})
            return None
        return repo

    def _api(self, kind: str, name: str, rest: list[str]) -> None:
        repo = self._repo(kind, name)
        if repo is None:
            return None
        action, revision = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
        if revision not in (*repo.revisions, repo.commit):
            return self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if action == "revision":
            siblings = [{"rfilename": path} for path in repo.files]
            return self._json(
                {"id": name, "sha": repo.commit, "siblings": siblings, "private": repo.private, "tags": []}
            )
        if action == "tree":
            return self._json([_entry(path, content) for path, content in sorted(repo.files.items())])
        if action == "preupload":
            files = json.loads(self.body)["files"]
            modes = [{"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False} for file in files]
            return self._json({"files": modes})
        assert action == "commit", action
        return self._commit(name, repo)

    def _commit(self, name: str, repo: Repo) -> None:
        for line in self.body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                repo.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "lfsFile":
                repo.files[item["value"]["path"]] = self.hub.blobs[item["value"]["oid"]]
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{repo.commit}", "commitOid": repo.commit})

    def _create(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid username or password."}, 401)
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        status = 409 if name in self.hub.repos else 200
        self.hub.repos.setdefault(
            name, Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        )
        return self._json({"url": f"{self.hub.url}/{name}", "name": name}, status)

    def _batch(self) -> None:
        objects = [
            {
                "oid": item["oid"],
                "size": item["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/blobs/{item['oid']}", "header": {}}},
            }
            for item in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _file(self, kind: str, name: str, rest: list[str]) -> None:
        repo = self._repo(kind, name)
        if repo is None:
            return
        path = "/".join(rest[2:])
        content = repo.files.get(path)
        if content is None:
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        etag = _entry(path, content).get("lfs", {}).get("oid") or git_id(content)
        if path in self.hub.spoil:
            content = bytes(len(content))
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = self.hub.cut_after.get(path, len(content))
        self.wfile.write(content[start : max(start, stop)])
        if stop < len(content):
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _mode(path: str) -> str:
    return "lfs" if path.endswith(LFS_SUFFIXES) else "regular"


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_id(content)}
    if path.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry
