"""A web server that can do everything wrong, and one that answers as the Hugging Face Hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
import yaml

from upernet.checkpoints import ZooEntry, http
from upernet.checkpoints.fetching import fetch

AnyServer = TypeVar("AnyServer", bound="Server")
CONTENT = b"PK\3\4" + bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]


class Server(ThreadingHTTPServer):
    """Serves `content` at every path, unless `script` has an answer for the request."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.headers: dict[str, str] = {"ETag": '"one"'}
        self.ranges = True
        self.heeds_if_range = True
        self.script: list[Callable[[Handler], None]] = []
        self.requests: list[dict[str, str]] = []
        """What was asked: path and headers."""
        self.sent = 0
        """Bytes of bodies."""
        self.base = f"http://127.0.0.1:{self.server_port}"

    def entry(self, **options: Any) -> ZooEntry:
        return ZooEntry(name="tiny", url=f"{self.base}/weights/tiny.pth", license="free", **options)


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        server = self.server
        server.requests.append({"path": self.path, **self.headers})
        (server.script.pop(0) if server.script else serve)(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.server.sent += len(body)  # before the client has it and asks for the number
        self.wfile.write(body)


def serve(handler: Handler, limit: int | None = None) -> None:
    """As a good server; `limit`: the connection ends after so many bytes of the body."""
    server, content = handler.server, handler.server.content
    headers = {"Content-Type": "application/octet-stream", **server.headers}
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    condition = handler.headers.get("If-Range")
    fits = not server.heeds_if_range or condition is None or condition in server.headers.values()
    if asked and server.ranges and fits:
        start = int(asked[1])
        if start >= len(content):
            return handler.answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["Content-Length"] = str(len(content) - start)
        return handler.answer(206, headers, content[start:][:limit])
    handler.answer(200, {**headers, "Content-Length": str(len(content))}, content[:limit])


def drop(limit: int) -> Callable[[Handler], None]:
    return lambda handler: serve(handler, limit)


def refuse(status: int) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(status, {"Content-Length": "0"}, b"")


def lead_to(url: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(302, {"Location": url, "Content-Length": "0"}, b"")


def without_length(content: bytes) -> Callable[[Handler], None]:
    """Send `content` without saying how much it is: the end of the connection ends it."""
    return lambda handler: handler.answer(200, {"Content-Type": "application/octet-stream"}, content)


def in_chunks(content: bytes, whole: bool) -> Callable[[Handler], None]:
    """Send `content` in chunks; unless `whole`, the connection ends before the last, empty chunk."""

    def send(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(content), content) + (b"0\r\n\r\n" if whole else b""))

    return send


class FileServer(Server):
    """Serves `files` by path, each with an ETag of its content, and answers HEAD as well."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self.RequestHandlerClass = FileHandler
        self.files = files


class FileHandler(Handler):
    server: FileServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_HEAD(self) -> None:
        self.respond(head=True)

    def do_GET(self) -> None:
        self.server.requests.append({"path": self.path, **self.headers})
        self.respond(head=False)

    def respond(self, head: bool) -> None:
        content = self.server.files.get(urlsplit(self.path).path)
        if content is None:
            return self.answer(404, {"Content-Length": "0"}, b"")
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Content-Length": str(len(content))}
        self.answer(200, headers, b"" if head else content)


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Answer requests in a thread of its own."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


WRITE_TOKEN = "hf_write"


class Hub(Server):
    """One repository, owner/name, at the revision `main` and at the tag `v1`, as the Hub serves it.

    It takes commits with the token `WRITE_TOKEN`. Large files (LFS) are those of weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = HubHandler
        self.revisions: dict[str, tuple[str, dict[str, bytes]]] = {
            "main": (COMMIT, {"tiny.pth": CONTENT, "config.json": b"{}", "modeling.py": b"raise SystemExit"}),
            "v1": (COMMIT[::-1], {"tiny.pth": OTHER}),
        }
        """Commit and files of each revision."""
        self.gated = False
        self.refused = 0
        """Status of all answers, if it is not 0."""
        self.page = b""
        """What is answered to everything, if it is not empty."""
        self.created: list[dict[str, Any]] = []
        """What `create_repo` asked for."""
        self.commits: list[dict[str, Any]] = []
        """The header of each commit, and the names of its files."""
        self.objects: dict[str, bytes] = {}
        """SHA-256 of each uploaded large file -> content."""
        self.sizes: dict[str, int] = {}
        """File -> size that is claimed instead of the true one."""
        self.broken_upload = False

    @property
    def asked(self) -> list[str]:
        """Paths of the requests for contents of files."""
        return [request["path"] for request in self.requests if "/resolve/" in request["path"]]


class HubHandler(Handler):
    """Answers what `hf_hub_download` and `model_info` ask for; contents of files like every server."""

    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.server.requests.append({"path": self.path, **self.headers})
        self.respond()

    def respond(self) -> None:
        path = urlsplit(self.path).path
        if self.server.refused:
            return self.refuse(self.server.refused, "")
        if self.server.page:
            headers = {"Content-Type": "text/html", "Content-Length": str(len(self.server.page))}
            return self.answer(200, headers, self.server.page)
        if self.server.gated:
            return self.refuse(403, "GatedRepo")
        if found := re.fullmatch(r"/api/models/owner/name(?:/revision/([\w.-]+))?", path):
            return self.list_files(found[1] or "main")
        found = re.fullmatch(r"/owner/name/resolve/([\w.-]+)/(.+)", path)
        if found is None:
            return self.refuse(404 if "/owner/name/" in path else 401, "RepoNotFound")
        commit, files = self.server.revisions.get(found[1], ("", {}))
        if not commit:
            return self.refuse(404, "RevisionNotFound")
        if found[2] not in files:
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        self.server.content = files[found[2]]
        etag = hashlib.sha256(self.server.content).hexdigest()
        self.server.headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
        if self.command == "HEAD":
            size = self.server.sizes.get(found[2], len(self.server.content))
            return self.answer(200, {**self.server.headers, "Content-Length": str(size)}, b"")
        (self.server.script.pop(0) if self.server.script else serve)(self)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, server = urlsplit(self.path).path, self.server
        server.requests.append({"path": self.path, **self.headers})
        if self.headers.get("Authorization") != f"Bearer {WRITE_TOKEN}":
            return self.send_json({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            server.created.append(json.loads(body))
            exists = "main" in server.revisions
            server.revisions.setdefault("main", (COMMIT, {}))
            return self.send_json({"url": f"{server.base}/owner/name", "name": "owner/name"}, 409 if exists else 200)
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if found := re.fullmatch(r"/api/models/owner/name/preupload/([\w.-]+)", path):
            if found[1] not in server.revisions:
                return self.refuse(404, "RevisionNotFound")
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            rows = [
                {"path": n, "uploadMode": m, "shouldIgnore": False, "oid": None}
                for n, m in zip(names, modes, strict=True)
            ]
            return self.send_json({"files": rows})
        if path == "/owner/name.git/info/lfs/objects/batch":
            return self.send_json(
                {
                    "transfer": "basic",
                    "objects": [
                        file | {"actions": {"upload": {"href": f"{server.base}/lfs/{file['oid']}"}}}
                        for file in json.loads(body)["objects"]
                    ],
                }
            )
        if found := re.fullmatch(r"/api/models/owner/name/commit/([\w.-]+)", path):
            return self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        self.refuse(404, "RepoNotFound")

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.broken_upload:
            return self.refuse(403, "")
        self.server.objects[self.path.rpartition("/")[2]] = content
        self.answer(200, {"Content-Length": "0"}, b"")

    def validate(self, page: str) -> None:
        """Check the metadata of a README.md, as far as upernet writes it."""
        found = re.match(r"---\n(.*?)\n---\n", page, re.DOTALL)
        values = yaml.safe_load(found[1]) if found else None
        valid = isinstance(values, dict) and (values.get("license") != "other" or "license_name" in values)
        errors = [] if valid else [{"message": "the metadata is not valid"}]
        self.send_json({"errors": errors, "warnings": []}, 200 if valid else 400)

    def commit(self, revision: str, lines: list[dict[str, Any]]) -> None:
        server = self.server
        if revision not in server.revisions:
            return self.refuse(404, "RevisionNotFound")
        changed: dict[str, bytes] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changed[value["path"]] = server.objects[value["oid"]]
        number = hashlib.sha1(repr(sorted(changed.items())).encode()).hexdigest()
        target = "pr" if "create_pr" in self.path else revision
        server.revisions[target] = (number, server.revisions[revision][1] | changed)
        server.commits.append(lines[0]["value"] | {"files": sorted(changed), "revision": target})
        answer = {"commitUrl": f"{server.base}/owner/name/commit/{number}", "commitOid": number}
        self.send_json(
            answer | ({"pullRequestUrl": f"{server.base}/owner/name/discussions/1"} if target == "pr" else {})
        )

    def send_json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.answer(status, {"Content-Type": "application/json", "Content-Length": str(len(body))}, body)

    def list_files(self, revision: str) -> None:
        commit, files = self.server.revisions.get(revision, ("", {}))
        if not commit:
            return self.refuse(404, "RevisionNotFound")
        info = {"id": "owner/name", "sha": commit, "siblings": [{"rfilename": file} for file in files]}
        self.send_json(info)

    def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.answer(status, {"X-Error-Code": code, "Content-Length": "0", **(headers or {})}, b"")


def fetch_with(entry: ZooEntry, retries: int, timeout: float = 30.0) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "RETRIES", retries)
        patch.setattr(http, "TIMEOUT", timeout)
        return fetch(entry)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))
