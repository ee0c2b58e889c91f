"""A model hub on the loopback device, which serves a folder of repositories from disk.

It speaks the part of the hub's HTTP API that downloads use: model info with siblings, the tree,
and resolve with HEAD, Range, ETag, X-Repo-Commit and, as the hub keeps large files elsewhere, a
redirect with X-Linked-Size and X-Linked-Etag.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"
POINTER = 134  # bytes of the text that git keeps for a large file
LARGE = 10_000_000  # bytes; git keeps what is smaller, safetensors excepted


@dataclass(frozen=True)
class File:
    """A file of a repository; its digest is a sha256 for a large file, git's sha1 for a small."""

    path: Path
    size: int
    is_large: bool
    digest: str

    @classmethod
    def read(cls, path: Path) -> File:
        size = path.stat().st_size
        if size >= LARGE or path.suffix == ".safetensors":
            with path.open("rb") as file:
                return cls(path, size, True, hashlib.file_digest(file, "sha256").hexdigest())
        blob = b"blob %d\0" % size + path.read_bytes()
        return cls(path, size, False, hashlib.sha1(blob).hexdigest())


Repositories = dict[str, dict[str, File]]
"""Files by repository (OWNER/NAME) and name."""


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """The URL of a hub that serves ROOT/OWNER/NAME as they are now."""

    class Served(_Handler):
        repositories = read_repositories(root)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read_repositories(root: Path) -> Repositories:
    """All files under ROOT/OWNER/NAME with their digests."""
    folders = [folder for folder in root.glob("*/*") if folder.is_dir()]
    paths = {folder: sorted(filter(Path.is_file, folder.rglob("*"))) for folder in folders}
    with ThreadPoolExecutor() as pool:
        return {
            str(folder.relative_to(root)): {
                str(file.path.relative_to(folder)): file for file in pool.map(File.read, files)
            }
            for folder, files in paths.items()
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: ClassVar[Repositories] = {}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        kind = parts[0] if parts[0] in ("api", "large") else ""
        skipped = {"api": 2, "large": 1, "": 0}[kind]  # of api also "models"
        repository, rest = "/".join(parts[skipped : skipped + 2]), parts[skipped + 2 :]
        files = self.repositories.get(repository)
        if files is None:
            self.answer(404, {"X-Error-Code": "RepoNotFound"})
        elif kind == "api" and rest[:1] == ["tree"]:
            self.answer_json([_tree_entry(name, file) for name, file in files.items()])
        elif kind == "api":
            siblings = [{"rfilename": name} for name in files]
            self.answer_json({"id": repository, "sha": COMMIT, "siblings": siblings})
        elif (file := files.get("/".join(rest[2:]))) is None:
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif file.is_large and kind != "large":
            self.redirect(file)
        else:
            self.send_file(file)

    def redirect(self, file: File) -> None:
        headers = {
            "Location": f"http://{self.headers['Host']}/large{self.path}",
            "X-Linked-Size": str(file.size),
            "X-Linked-Etag": f'"{file.digest}"',
            "X-Repo-Commit": COMMIT,
        }
        self.answer(302, headers)

    def send_file(self, file: File) -> None:
        headers = {"ETag": f'"{file.digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start, status = 0, 200
        if byte_range := self.headers.get("Range"):
            start, status = int(byte_range.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{file.size - 1}/{file.size}"
        if start >= file.size > 0:
            self.answer(416, {"Content-Range": f"bytes */{file.size}"})
            return
        self.answer(status, headers, file.size - start)
        if self.command == "GET" and file.size:
            self.wfile.flush()
            with file.path.open("rb") as content:
                self.connection.sendfile(content, start)

    def answer_json(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.answer(200, {"Content-Type": "application/json"}, len(body))
        if self.command == "GET":
            self.wfile.write(body)

    def answer(self, status: int, headers: dict[str, str], length: int = 0) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _tree_entry(name: str, file: File) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": file.size, "oid": file.digest}
    if file.is_large:
        entry["lfs"] = {"oid": file.digest, "size": file.size, "pointerSize": POINTER}
    return entry
