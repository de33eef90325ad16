"""A Hugging Face Hub on this machine that holds models: they are listed, downloaded and pushed."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

TOKEN = "hf_told"


class Models(http.server.ThreadingHTTPServer):
    """The server. `repos` maps a name to its versions, each the content of its files by name.

    The newest version is the last. `asked` are the requests so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str, number: int) -> str:
        """Return the hash of a version, from 0."""
        return hashlib.sha1(f"{repo} {number}".encode()).hexdigest()

    def version(self, repo: str, revision: str) -> int | None:
        """Return the number of the version that a revision means."""
        versions = self.repos.get(repo, [])
        if revision == "main" and versions:
            return len(versions) - 1
        found = [i for i in range(len(versions)) if self.commit(repo, i) == revision]
        return found[0] if found else None


class Answer(http.server.BaseHTTPRequestHandler):
    """The parts of the Hub's API that its client asks for, to download and to upload models."""

    protocol_version = "HTTP/1.1"
    server: Models

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self.tell(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.give(*found.groups())
        else:
            self.fail("EntryNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.say({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            self.make(json.loads(body))
        elif path == "/api/validate-yaml":  # of the head of a card
            self.say({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = json.loads(body)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            self.say({"files": [{"path": file["path"], **plain} for file in files]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self.add(found[1], body)
        else:
            self.fail("EntryNotFound")

    def tell(self, repo: str, revision: str) -> None:
        """Answer with the files of a version."""
        number = self.server.version(repo, revision)
        if number is None:
            known = repo in self.server.repos
            self.fail("RevisionNotFound" if known else "RepoNotFound")
            return
        files = self.server.repos[repo][number]
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        self.say({"id": repo, "sha": self.server.commit(repo, number), "siblings": siblings})

    def give(self, repo: str, revision: str, name: str) -> None:
        """Answer with a file of a version."""
        number = self.server.version(repo, revision)
        files = {} if number is None else self.server.repos[repo][number]
        if number is None or name not in files:
            self.fail("EntryNotFound")
            return
        data = files[name]
        commit = self.server.commit(repo, number)
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        self.send(data, 200, {"ETag": etag, "X-Repo-Commit": commit})

    def make(self, asked: dict[str, str]) -> None:
        """Make a repository, unless it is there."""
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = {"url": f"{self.server.url}/{repo}"}
        if repo in self.server.repos:
            self.say({"error": "You already created this model repo", **url}, 409)
            return
        self.server.repos[repo] = [{}]
        self.say(url)

    def add(self, repo: str, body: bytes) -> None:
        """Add a version, with the files of a commit."""
        files = dict(self.server.repos[repo][-1])
        for line in body.splitlines():
            part = json.loads(line)
            if part["key"] == "file":
                files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
        self.server.repos[repo].append(files)
        commit = self.server.commit(repo, len(self.server.repos[repo]) - 1)
        self.say({"commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit})

    def say(self, about: dict[str, object], code: int = 200) -> None:
        self.send(json.dumps(about).encode(), code, {"Content-Type": "application/json"})

    def fail(self, code: str) -> None:
        self.send(b"{}", 404, {"X-Error-Code": code})

    def send(self, body: bytes, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def open_models() -> Iterator[Models]:
    """Yield a running Hub."""
    with Models() as hub:
        threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()
