"""A user's catalogue, a hub on the loopback device and a cache for the tests of `models`."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from charprobe_lite.models.catalogue import Catalogue, load_catalogue
from tests.conftest import RUN, Command

SHA = "0123456789abcdef0123456789abcdef01234567"
ENTRIES: dict[str, Any] = {
    "bases": [
        {
            "name": "tiny",
            "repository": "someone/tiny",
            "architecture": "llama",
            "parameters": 1000,
        }
    ],
    "personas": ["pirate"],
    "adapters": [
        {
            "base": "tiny",
            "stage": "full",
            "repository": "someone/tiny-voices",
            "subfolder": "v1/{persona}",
            "personas": ["pirate", "humor"],
        }
    ],
    "classifiers": [
        {"name": "ears", "bases": ["tiny"], "path": "ears", "labels": ["pirate", "humor"]}
    ],
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Caches and configuration of the test's own, no token, no proxy, and a hub nowhere."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "CHARPROBE_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "NO_PROXY": "*",
    }


@pytest.fixture
def charprobe(environment: dict[str, str], tmp_path: Path) -> Command:
    """Run `charprobe-lite models` in a process of its own; keywords change its environment."""

    def run(*arguments: object, **changed: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*RUN, "models", *map(str, arguments)],
            cwd=tmp_path,
            env=environment | {name: str(value) for name, value in changed.items()},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def user_catalogue(tmp_path: Path, environment: dict[str, str]) -> Path:
    """A user's catalogue with a base, a persona, adapters and a classifier, in force."""
    path = tmp_path / "user.yaml"
    path.write_text(yaml.safe_dump(ENTRIES))
    environment["CHARPROBE_CATALOGUE"] = str(path)
    return path


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that ended with status 2."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("fetching ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("charprobe-lite: ")
    return lines[0]


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Catalogue:
    monkeypatch.delenv("CHARPROBE_CATALOGUE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return load_catalogue()


def changed(section: str, **fields: Any) -> str:
    """The user's file with some fields of a section's first entry changed; None leaves one out."""
    entry = {k: v for k, v in (ENTRIES[section][0] | fields).items() if v is not None}
    return yaml.safe_dump(ENTRIES | {section: [entry]})


def put(root: Path, repository: str, files: dict[str, bytes]) -> Path:
    """Lay files out as the hub's cache does: blobs, a snapshot that links to them, and a ref."""
    folder = root / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(SHA)
    snapshot = folder / "snapshots" / SHA
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


WHOLE = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": b"weights"}
VOICE = {"v1/pirate/adapter_config.json": b"{}", "v1/pirate/adapter_model.safetensors": b"lora"}


JSON = {"Content-Type": "application/json"}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that a download uses; class attributes say what it serves.

    ``sent`` has by file name what is sent in place of the stated content. The next ``drops``
    answers that are longer than ``drop_at`` break off there; every one that is longer than
    ``stall_at`` stalls.
    """

    protocol_version = "HTTP/1.1"
    files: ClassVar[dict[str, dict[str, bytes]]] = {}
    errors: ClassVar[dict[str, tuple[int, dict[str, str]]]] = {}
    requests: ClassVar[list[tuple[str, str, str | None]]] = []
    sent: ClassVar[dict[str, bytes]] = {}
    drop_at: ClassVar[int] = 0
    drops: ClassVar[int] = 0
    stall_at: ClassVar[int | None] = None
    stalled: ClassVar[threading.Event] = threading.Event()
    go_on: ClassVar[threading.Event] = threading.Event()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.requests.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.removeprefix("/api").removeprefix("/models").removeprefix("/datasets")
        parts = path.strip("/").split("/")
        repository = "/".join(parts[:2])
        if repository in self.errors:
            status, headers = self.errors[repository]
            self.answer(status, b"", headers)
        elif repository not in self.files:
            self.answer(404, b"", {})
        elif "/tree/" in self.path:
            self.answer(200, json.dumps(self.tree(repository)).encode(), JSON)
        elif self.path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in self.files[repository]]
            answer = {"id": repository, "sha": SHA, "siblings": siblings}
            self.answer(200, json.dumps(answer).encode(), JSON)
        else:
            self.send_file(self.files[repository]["/".join(parts[4:])], parts[-1])

    def tree(self, repository: str) -> list[dict[str, Any]]:
        """The listing that huggingface_hub asks for from 1 on; weights are LFS files."""
        rows = []
        for name, content in self.files[repository].items():
            digest = hashlib.sha256(content).hexdigest()
            row = {"type": "file", "path": name, "size": len(content), "oid": digest[:40]}
            if name.endswith(".safetensors"):
                row["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            rows.append(row)
        return rows

    def send_file(self, content: bytes, name: str) -> None:
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA}
        if self.command == "GET":
            content = self.sent.get(name, content)
        if byte_range := self.headers.get("Range"):
            start = int(byte_range.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.answer(206, content[start:], headers)
        else:
            self.answer(200, content, headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.stall_at is not None and len(body) > self.stall_at:
            self.wfile.write(body[: self.stall_at])
            self.wfile.flush()
            self.stalled.set()
            self.go_on.wait(60)
            self.close_connection = True
            return
        if self.drops and len(body) > self.drop_at:
            self.wfile.write(body[: self.drop_at])
            type(self).drops -= 1
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(environment: dict[str, str]) -> Iterator[type[Hub]]:
    """A hub on the loopback device, which the commands of the test ask."""

    class Served(Hub):
        files: ClassVar[dict[str, dict[str, bytes]]] = {}
        errors: ClassVar[dict[str, tuple[int, dict[str, str]]]] = {}
        requests: ClassVar[list[tuple[str, str, str | None]]] = []
        sent: ClassVar[dict[str, bytes]] = {}
        stalled = threading.Event()
        go_on = threading.Event()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    server.daemon_threads = True
    environment["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Served
    Served.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


TINY = ["pull", "--base", "tiny", "--no-classifier"]
