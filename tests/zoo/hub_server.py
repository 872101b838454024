"""A Hugging Face hub on localhost: the part of its protocol that downloads need, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
LISTING = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")


class Hub:
    """Repositories of files, by commit; `with Hub() as hub` serves them at `hub.url`.

    Attributes:
        commits: `[repository][revision]` -> commit.
        files: `[commit][path]` -> content.
        sent: Requests so far, as "METHOD path".
        cut: The next GET of a weights file breaks off after so many bytes.
        status: Answer everything with this status, e.g. 503.
    """

    def __init__(self):
        self.commits: dict[str, dict[str, str]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.sent: list[str] = []
        self.cut: int | None = None
        self.status: int | None = None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def publish(self, repository: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Commit the files and point the branch or tag at them; returns the commit."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.files[commit] = files
        self.commits.setdefault(repository, {}).update({revision: commit, commit: commit})
        return commit

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.respond(body=False)

    def do_GET(self):
        self.respond(body=True)

    def respond(self, body: bool) -> None:
        self.hub.sent.append(f"{self.command} {self.path}")
        if self.hub.status is not None:
            return self.refuse(self.hub.status, "")
        match = RESOLVE.fullmatch(self.path) or LISTING.fullmatch(self.path)
        revisions = match and self.hub.commits.get(match["repository"])
        if not revisions:
            return self.refuse(404, "RepoNotFound")
        commit = revisions.get(match["revision"])
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        files = self.hub.files[commit]
        if "file" not in match.groupdict():
            siblings = [{"rfilename": name} for name in files]
            facts = {"id": match["repository"], "sha": commit, "siblings": siblings}
            return self.send(200, json.dumps(facts).encode(), {"Content-Type": "application/json"}, body)
        content = files.get(match["file"])
        if content is None:
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None:
            return self.send(200, content, headers, body)
        first = int(wanted[1])
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self.send(206, content[first:], headers, body)

    def send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.hub.cut is not None and self.path.endswith(".safetensors"):
            content, self.hub.cut = content[: self.hub.cut], None
            self.close_connection = True
        if body:
            self.wfile.write(content)

    def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": code} | (headers or {}), body=False)

    def log_message(self, *_):
        """Not on the test's output."""
