"""A model hub on 127.0.0.1: it answers what huggingface_hub asks the real one to push and pull."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"


@dataclass
class Hub:
    """What the hub holds."""

    url: str = ""
    branches: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    """(repository, branch) -> the files of its newest commit."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The hash of each commit -> its files."""
    large: dict[str, bytes] = field(default_factory=dict)
    """sha256 -> what was uploaded by LFS."""
    private: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    """METHOD and path of each request."""
    claims: dict[str, int] = field(default_factory=dict)
    """File -> the size that the hub says it has, if that is not the truth."""
    stalls: threading.Event = field(default_factory=threading.Event)
    """Until it is set, files named in `slow` stop half-way."""
    slow: set[str] = field(default_factory=set)
    half: threading.Event = field(default_factory=threading.Event)
    """Set when half of a slow file was sent."""

    def commit(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        """Make a commit, and return its hash."""
        content = repr(
            sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())
        )
        sha = hashlib.sha1(f"{repo}{branch}{content}".encode()).hexdigest()
        self.commits[sha] = self.branches[repo, branch] = dict(files)
        return sha

    def head(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit of a revision, and its files."""
        if revision in self.commits:
            return revision, self.commits[revision]
        files = self.branches.get((repo, revision))
        if files is None:
            return None
        return next(sha for sha, held in self.commits.items() if held == files), files


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: object = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, code: str) -> None:
        self.answer(404, {"error": "not found"}, X_Error_Code=code, X_Error_Message="not found")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def path_only(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.answer(401, {"error": "Invalid credentials"})
        return False

    # --- reading -------------------------------------------------------------------------------

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path_only()
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self.info(found[1], found[2] or "main")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?", path):
            return self.tree(found[1], found[2])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.file(found[1], found[2], found[3])
        return self.answer(404, {"error": "no such page"})

    def known(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if (found := self.hub.head(repo, revision)) is None:
            there = any(name == repo for name, _ in self.hub.branches)
            self.missing("RevisionNotFound" if there else "RepoNotFound")
        return found

    def info(self, repo: str, revision: str) -> None:
        if found := self.known(repo, revision):
            sha, files = found
            siblings = [
                {"rfilename": name, "size": self.hub.claims.get(name, len(data))}
                for name, data in files.items()
            ]
            self.answer(200, {"id": repo, "sha": sha, "private": False, "siblings": siblings})

    def tree(self, repo: str, revision: str) -> None:
        if found := self.known(repo, revision):
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in found[1].items()
            ]
            self.answer(200, rows)

    def file(self, repo: str, revision: str, name: str) -> None:
        found = self.known(repo, revision)
        if not found:
            return
        sha, files = found
        if name not in files:
            self.missing("EntryNotFound")
            return
        data = files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", sha)
        self.end_headers()
        if self.command == "HEAD":
            return
        middle = len(data) // 2
        self.wfile.write(data[:middle])
        if name in self.hub.slow:
            self.wfile.flush()
            self.hub.half.set()
            self.hub.stalls.wait(60)
        try:
            self.wfile.write(data[middle:])
        except OSError:  # whoever asked is gone
            self.close_connection = True

    # --- writing -------------------------------------------------------------------------------

    def do_PUT(self) -> None:
        path, data = self.path_only(), self.body()
        self.hub.large[path.rpartition("/")[2]] = data
        self.answer(200)

    def do_POST(self) -> None:
        path, data = self.path_only(), self.body()
        if not self.allowed():
            return None
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            self.hub.branches.setdefault((found[1], found[2]), {})
            return self.answer(200, {})
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/.+", path):
            return self.answer(200, {"files": [_mode(file) for file in json.loads(data)["files"]]})
        if re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            return self.answer(200, {"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
                for one in json.loads(data)["objects"]
            ]})  # fmt: skip
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            return self.take(found[1], found[2], data)
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        return self.answer(404, {"error": "no such page"})

    def create(self, wanted: dict) -> None:
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if (repo, "main") in self.hub.branches:
            self.answer(409, {"error": "you already created it", "url": f"{self.hub.url}/{repo}"})
            return
        self.hub.commit(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(repo)
        self.answer(200, {"url": f"{self.hub.url}/{repo}", "name": repo})

    def take(self, repo: str, branch: str, data: bytes) -> None:
        files = dict(self.hub.branches[repo, branch])
        for line in data.splitlines():
            one = json.loads(line)
            value = one["value"]
            if one["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        sha = self.hub.commit(repo, branch, files)
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        self.answer(200, {"success": True, "commitUrl": url, "commitOid": sha})


def _mode(file: dict) -> dict:
    """As the real hub: weights and pictures are large files, whatever their size."""
    large = file["path"].endswith((".safetensors", ".png", ".mp4", ".gif"))
    return {
        "path": file["path"],
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": False,
    }


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve an empty hub until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stalls.set()
        server.shutdown()
        server.server_close()
