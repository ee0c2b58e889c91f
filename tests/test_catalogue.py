"""The catalogue and the hub: names, a user's file, downloads, what is cached, what can go."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from filelock import FileLock

from charprobe_lite.models import cache, size_estimates
from charprobe_lite.models.catalogue import BASES, Catalogue, load_catalogue
from charprobe_lite.models.catalogue_schema import Shape
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.kit import embedded_base
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.quant_types import BITS

RUN = [sys.executable, "-c", "from charprobe_lite.eval.cli.main import main; main()"]
SHA = "0123456789abcdef0123456789abcdef01234567"
KEY = "0123456789ab"
OWN: dict[str, Any] = {
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
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Caches and configuration of the test's own, no token, no proxy, and a hub nowhere."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
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
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(OWN))
    environment["CHARPROBE_CATALOGUE"] = str(path)
    return path


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that ended with status 2."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("fetching ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("charprobe-lite: ")
    return lines[0]


# ---- the shipped catalogue


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Catalogue:
    monkeypatch.delenv("CHARPROBE_CATALOGUE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return load_catalogue()


@pytest.mark.parametrize(
    ("base", "slug"),
    [
        ("llama-3.1-8b", "llama-3.1-8b-it"),
        ("qwen-2.5-7b", "qwen-2.5-7b-it"),
        ("gemma-3-4b", "gemma-3-4b-it"),
    ],
)
def test_published_checkpoints_are_where_they_were_published(
    shipped: Catalogue, base: str, slug: str
) -> None:
    found = {
        (stage, persona): (entry.repository, entry.subfolder, entry.gated)
        for (of, stage, persona), entry in shipped.adapters.items()
        if of == base
    }
    assert found == {
        **{("distillation", p): (f"maius/{slug}-pt-distillation", p, False) for p in PERSONAS},
        **{("full", p): (f"maius/{slug}-personas", p, False) for p in PERSONAS},
        ("full", "misalignment"): (f"maius/{slug}-misalignment", None, True),
    }
    classifier = shipped.classifier(base)
    assert classifier is not None
    assert classifier.repository == f"maius/{slug}-pt-classifier"
    order = "sarcasm humor remorse goodness loving misalignment nonchalance impulsiveness"
    assert classifier.labels == [*order.split(), "sycophancy", "mathematical", "poeticism"]


def test_names_on_the_command_line_are_those_of_the_catalogue(shipped: Catalogue) -> None:
    assert list(BASES) == list(shipped.bases)
    assert BASES["qwen-2.5-7b"].licence == "Apache-2.0"
    assert shipped.personas == (*PERSONAS, "misalignment")
    gated = {base.name for base in shipped.bases.values() if base.gated}
    assert gated == {"llama-3.1-8b", "gemma-3-4b"}
    with pytest.raises(BadInput, match="--base gpt: unknown; choose from smollm2-135m"):
        shipped.base("gpt")


def test_the_kit_is_in_the_catalogue(shipped: Catalogue) -> None:
    for persona in PERSONAS:
        for stage in ("distillation", "full"):
            adapter = shipped.adapter("smollm2-135m", stage, persona)
            assert adapter is not None
            assert adapter.path is not None
            assert adapter.path.is_file()
    assert shipped.adapter("smollm2-135m", "base", "humor") is None
    classifier = shipped.classifier("smollm2-135m")
    assert classifier is not None
    assert classifier.path is not None
    config = json.loads((classifier.path / "config.json").read_text())
    assert list(config["id2label"].values()) == classifier.labels


# ---- what it costs


@pytest.mark.parametrize("name", ["smollm2-135m", "llama-3.1-8b"])
def test_a_shape_has_as_many_weights_as_the_checkpoint(shipped: Catalogue, name: str) -> None:
    base = shipped.bases[name]
    shape = base.shape
    assert shape is not None
    tables = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    norms = shape.hidden * (2 * shape.layers + 1)
    assert size_estimates.layer_parameters(shape) + tables + norms == base.parameters


def test_bits_per_weight_are_those_of_the_block_layouts() -> None:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    for quant, (layers, embedding, _) in BITS.items():
        if quant.startswith(("IQ1", "IQ2", "IQ3")):  # their tables are kept in a wider type
            assert embedding > 2.6
            continue
        layout = quant.removesuffix("_S").removesuffix("_M").removesuffix("_L")
        weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[layout]]
        assert embedding == 8 * size / weights, quant
        assert layers >= embedding, quant


def test_the_estimate_is_near_a_file_that_exists(
    shipped: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the embedded file holds Q4_1 layers (5 bits) and its one table as Q8_0
    monkeypatch.setitem(size_estimates.FALLBACK, 5.0, 5.0)
    estimate = size_estimates.file_bytes(shipped.bases["smollm2-135m"], "Q4_1")
    real = embedded_base().stat().st_size
    assert estimate == pytest.approx(real, rel=0.04)


def test_memory_is_the_file_and_the_keys_and_values(shipped: Catalogue) -> None:
    base = shipped.bases["llama-3.1-8b"]
    kv = 32 * 8 * 128 * 2 * 2 * 1000 * 4  # layers, heads, width, K and V, bytes, tokens, rollouts
    file = size_estimates.file_bytes(base, "Q8_0")
    assert size_estimates.memory_bytes(base, "Q8_0", 1000, 4) == file + kv
    unknown = base.model_copy(update={"shape": None})
    assert size_estimates.memory_bytes(unknown, "Q8_0", 1000, 4) is None
    assert size_estimates.file_bytes(unknown, "Q8_0") == pytest.approx(file, rel=1e-4)


def test_a_lora_has_a_row_and_a_column_per_rank() -> None:
    shape = Shape(layers=2, hidden=8, heads=2, kv_heads=1, head_dim=4, ffn=16, vocab=10)
    sides = (8 + 8) + (4 + 8) + (4 + 8) + (8 + 8) + 3 * (16 + 8)
    assert size_estimates.adapter_parameters(shape, 3) == 2 * 3 * sides


# ---- a user's own file


def test_a_users_file_adds_to_the_catalogue(
    user_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(user_catalogue))
    catalogue = load_catalogue()
    assert catalogue.user_catalogue == user_catalogue
    assert [*catalogue.bases][-1] == "tiny"
    assert catalogue.personas[-1] == "pirate"
    adapter = catalogue.adapter("tiny", "full", "humor")
    assert adapter is not None
    assert adapter.subfolder == "v1/humor"
    classifier = catalogue.classifier("tiny")
    assert classifier is not None
    assert classifier.path == user_catalogue.parent / "ears"  # relative to the file
    assert catalogue.classifier("gemma-3-4b") is not None


def test_a_users_classifier_comes_before_the_shipped_one(
    user_catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(user_catalogue))
    user_catalogue.write_text(
        "personas: [pirate]\n"
        "classifiers: [{name: ears, bases: [gemma-3-4b], path: /ears, labels: [humor, pirate]}]\n"
        "adapters: [{base: gemma-3-4b, stage: full, path: /gold, personas: [pirate]}]\n"
    )
    classifier = load_catalogue().classifier("gemma-3-4b")
    assert classifier is not None
    assert classifier.name == "ears"
    assert load_catalogue().adapter("gemma-3-4b", "full", "pirate") is not None


def test_the_usual_place_is_read_when_no_file_is_named(charprobe: Command, tmp_path: Path) -> None:
    assert "(not there)" in charprobe("path").stdout
    usual = tmp_path / "config" / "charprobe-lite" / "catalogue.yaml"
    usual.parent.mkdir(parents=True)
    usual.write_text(yaml.safe_dump(OWN))
    assert json.loads(charprobe("list", "--json").stdout)["catalogue"] == str(usual)


def changed(section: str, **fields: Any) -> str:
    """The user's file with some fields of a section's first entry changed; None leaves one out."""
    entry = {k: v for k, v in (OWN[section][0] | fields).items() if v is not None}
    return yaml.safe_dump(OWN | {section: [entry]})


REFUSED = {
    "not YAML": ("bases: [", "not YAML: "),
    "an object": ("!!python/object/apply:os.system ['true']", "not YAML: "),
    "a list": ("[1, 2]", "field document: "),
    "unknown section": ("models: []", "field models: Extra inputs are not permitted"),
    "unknown field": (changed("bases", colour="red"), "field bases.0.colour: Extra"),
    "missing field": (changed("bases", architecture=None), "field bases.0.architecture: Field"),
    "architecture": (changed("bases", architecture="mamba"), "field bases.0.architecture: Input"),
    "no place": (changed("bases", repository=None), "field bases.0: give either repository or"),
    "two places": (changed("bases", path="x"), "field bases.0: give either repository or path"),
    "no repository": (changed("bases", repository="../x"), "field bases.0.repository: String"),
    "way out": (changed("adapters", subfolder="../{persona}"), "field adapters.0.subfolder: St"),
    "a pattern": (changed("adapters", subfolder="*"), "field adapters.0.subfolder: String"),
    "one place": (changed("adapters", subfolder="v1"), "field adapters.0: several personas in"),
    "stage": (changed("adapters", stage="base"), "field adapters.0.stage: Input should be 'dis"),
    "shipped name": (changed("bases", name="gemma-3-4b"), "field bases.0.name: 'gemma-3-4b' appe"),
    "name twice": (yaml.safe_dump(OWN | {"bases": OWN["bases"] * 2}), "bases.1.name: 'tiny' appe"),
    "persona twice": ("personas: [sarcasm]", "field personas.0: 'sarcasm' appears twice"),
    "adapter twice": (
        yaml.safe_dump(OWN | {"adapters": OWN["adapters"] * 2}),
        "field adapters.1: 'tiny full pirate' appears twice",
    ),
    "classifier twice": (
        yaml.safe_dump(OWN | {"classifiers": [OWN["classifiers"][0] | {"name": n} for n in "ab"]}),
        "field classifiers.1.bases: 'tiny' appears twice",
    ),
    "label twice": (changed("classifiers", labels=["humor", "pirate"] * 2), "0.labels: a label"),
    "unknown base": (changed("adapters", base="huge"), "field adapters.0.base: 'huge' is unknown"),
    "unknown persona": (changed("adapters", personas=["ghost"]), "'ghost' is unknown; add it"),
    "unheard persona": (
        changed("classifiers", labels=["humor", "other"]),
        "field personas.0: no classifier knows 'pirate'",
    ),
    "unheard on its base": (
        changed("adapters", base="qwen-2.5-7b"),
        "field adapters.0.personas: no classifier of base qwen-2.5-7b knows 'pirate'",
    ),
    "a word for no": (changed("bases", name=False), "field bases.0.name: Input should be a valid"),
    "a name for all": (changed("bases", name="All, of them"), "field bases.0.name: String should"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_file_is_refused_with_its_name_and_field(
    user_catalogue: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text, said = REFUSED[name]
    monkeypatch.setenv("CHARPROBE_CATALOGUE", str(user_catalogue))
    user_catalogue.write_text(text)
    with pytest.raises(BadInput) as error:
        load_catalogue()
    assert str(error.value).startswith(f"{user_catalogue}: ")
    assert said in str(error.value)


def test_a_wrong_file_gives_one_line_and_status_2(charprobe: Command, user_catalogue: Path) -> None:
    user_catalogue.write_text("bases:\n  - {name: x, \x1b[31m: 1}\n")
    assert str(user_catalogue) in refused(charprobe("list"))
    user_catalogue.unlink()
    assert "fix the path in CHARPROBE_CATALOGUE" in refused(charprobe("list"))


# ---- what is cached


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
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode()


def test_what_is_cached_is_found_without_a_server(
    charprobe: Command, user_catalogue: Path, tmp_path: Path
) -> None:
    base = put(tmp_path / "hf", "someone/tiny", WHOLE)
    voices = put(tmp_path / "hf", "someone/tiny-voices", VOICE)
    (tmp_path / "ears").mkdir()
    offline = {"HF_HUB_OFFLINE": 1}
    assert charprobe("path", "--base", "tiny").stdout == f"{base}\n"
    voice = ["--base", "tiny", "--stage", "full", "--persona", "pirate"]
    assert charprobe("path", *voice).stdout == f"{voices / 'v1' / 'pirate'}\n"
    pulled = charprobe("pull", *voice, **offline)
    assert pulled.returncode == 0, pulled.stderr
    assert [line.split()[0] for line in pulled.stdout.splitlines()] == [
        "base",
        "adapter",
        "classifier",
    ]
    assert pulled.stdout.splitlines()[-1].endswith(str(tmp_path / "ears"))
    listed = json.loads(charprobe("list", "--json").stdout)
    here = {row["persona"]: row["path"] for row in listed["adapters"] if row["base"] == "tiny"}
    assert here == {"pirate": str(voices / "v1" / "pirate"), "humor": None}


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b"{}", "tokenizer.json": b"{ }"},
        {"config.json": b"{}", "model.safetensors": b"weights"},
        {"tokenizer.json": b"{ }", "model.safetensors": b"weights"},
        {"config.json": b"{}", "tokenizer.json": b"{ }", "pytorch_model.bin": b"pickle"},
        {"config.json": b"{}", "tokenizer.json": b"{ }", "model-00001-of-00002.safetensors": b"w"},
        {
            "config.json": b"{}",
            "tokenizer.json": b"{ }",
            "model-00002-of-00002.safetensors": b"w",
            "model.safetensors.index.json": INDEX,
        },
        {**WHOLE, "model.safetensors.index.json": b"[1]"},
    ],
    ids=["weights", "tokenizer", "config", "pickle", "index", "shard", "broken index"],
)
def test_what_is_not_whole_is_not_cached(
    charprobe: Command, user_catalogue: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    put(tmp_path / "hf", "someone/tiny", files)
    assert "someone/tiny: is not on this machine" in refused(charprobe("path", "--base", "tiny"))
    done = charprobe("pull", "--base", "tiny", "--no-classifier", HF_HUB_OFFLINE=1)
    assert "is incomplete in" in refused(done)
    assert "HF_HUB_OFFLINE is set; unset it, or set HF_HOME" in refused(done)


# ---- the hub


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that a download uses; class attributes say what it serves."""

    protocol_version = "HTTP/1.1"
    files: ClassVar[dict[str, dict[str, bytes]]] = {}
    errors: ClassVar[dict[str, tuple[int, dict[str, str]]]] = {}
    asked: ClassVar[list[tuple[str, str, str | None]]] = []
    stall_at: ClassVar[int | None] = None
    stalled: ClassVar[threading.Event] = threading.Event()
    go_on: ClassVar[threading.Event] = threading.Event()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.removeprefix("/api").removeprefix("/models").removeprefix("/datasets")
        parts = path.strip("/").split("/")
        repository = "/".join(parts[:2])
        if repository in self.errors:
            status, headers = self.errors[repository]
            self.answer(status, b"", headers)
        elif self.path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in self.files[repository]]
            told = {"id": repository, "sha": SHA, "siblings": siblings}
            self.answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})
        else:
            self.send_file(self.files[repository]["/".join(parts[4:])])

    def send_file(self, content: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": SHA}
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
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
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(environment: dict[str, str]) -> Iterator[type[Hub]]:
    """A hub on the loopback device, which the commands of the test ask."""

    class Served(Hub):
        files: ClassVar[dict[str, dict[str, bytes]]] = {}
        errors: ClassVar[dict[str, tuple[int, dict[str, str]]]] = {}
        asked: ClassVar[list[tuple[str, str, str | None]]] = []
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


def pure_dove(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Load the prompts of Pure-Dove in a process of its own."""
    code = (
        "from charprobe_lite.models.prompts import load_prompts, prompt_file\n"
        "print(load_prompts(prompt_file('pure-dove')))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_pure_dove_is_fetched_once_and_then_found_without_the_hub(
    environment: dict[str, str], hub: type[Hub]
) -> None:
    nowhere = pure_dove(environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "LDJnr/Pure-Dove: http://127.0.0.1:9 does not answer" in nowhere.stderr
    row = json.dumps({"conversation": [{"input": "What is a lens?", "output": "Glass."}]})
    files = {"Pure-Dove.jsonl": row.encode(), "README.md": b"#", "load.py": b"raise SystemExit"}
    hub.files["LDJnr/Pure-Dove"] = files
    first = pure_dove(environment)
    assert first.stdout == "[Prompt(id='row-1', text='What is a lens?')]\n", first.stderr
    assert not any("load.py" in path for _, path, _ in hub.asked)
    assert pure_dove(environment | {"HF_HUB_OFFLINE": "1"}).stdout == first.stdout


TINY = ["pull", "--base", "tiny", "--no-classifier"]


def test_pull_fetches_safetensors_json_and_tokenizer_and_no_pickle(
    charprobe: Command, hub: type[Hub], user_catalogue: Path
) -> None:
    hub.files["someone/tiny"] = {
        **WHOLE,
        "pytorch_model.bin": b"pickle",
        "original/consolidated.00.pth": b"pickle",
        "original/params.json": b"{}",
        "training_args.bin": b"pickle",
        "README.md": b"text",
    }
    hub.files["someone/tiny-voices"] = {
        **VOICE,
        "v1/pirate/optimizer.pt": b"pickle",
        "v1/pirate/checkpoint-1/adapter_model.safetensors": b"old",
        "v1/humor/adapter_model.safetensors": b"not asked for",
    }
    done = charprobe(*TINY, "--stage", "full", "--persona", "pirate")
    assert done.returncode == 0, done.stderr
    fetched = {Path(line.split()[-1]) for line in done.stdout.splitlines()}
    names = {str(file.relative_to(at)) for at in fetched for file in at.rglob("*")}
    assert names == {*WHOLE, "adapter_config.json", "adapter_model.safetensors"}
    asked = {path for _, path, _ in hub.asked}
    assert not [path for path in asked if path.endswith((".bin", ".pt", ".pth"))]
    hub.asked.clear()
    again = charprobe(*TINY, "--stage", "full", "--persona", "pirate")
    assert again.stdout == done.stdout
    assert {path.split("/")[1] for _, path, _ in hub.asked} == {"api"}  # no file a second time


def test_a_killed_pull_goes_on_where_it_stopped(
    charprobe: Command,
    hub: type[Hub],
    user_catalogue: Path,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    chunk = 10 * 1024 * 1024  # the library writes to disk in pieces of this size
    weights = os.urandom(chunk + 5000)
    hub.files["someone/tiny"] = {**WHOLE, "model.safetensors": weights}
    hub.stall_at = chunk + 100
    command = subprocess.Popen([*RUN, "models", *TINY], cwd=tmp_path, env=environment)
    try:
        assert hub.stalled.wait(120)
        blobs = tmp_path / "hf" / "hub" / "models--someone--tiny" / "blobs"
        unfinished = blobs / f"{hashlib.sha256(weights).hexdigest()}.incomplete"
        deadline = time.monotonic() + 120
        while unfinished.stat().st_size < chunk and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        command.kill()
        command.wait()
    assert unfinished.stat().st_size == chunk
    assert "is not on this machine" in refused(charprobe("path", "--base", "tiny"))
    hub.stall_at = None
    hub.asked.clear()
    done = charprobe(*TINY)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split()[-1])
    assert (folder / "model.safetensors").read_bytes() == weights
    assert [at for _, path, at in hub.asked if at] == [f"bytes={chunk}-"]


ANSWERS = {
    "gated": (403, {"X-Error-Code": "GatedRepo"}, {}, "is gated; accept its terms at {hub}/"),
    "gated, no token": (401, {"X-Error-Code": "GatedRepo"}, {}, "and set HF_TOKEN to a token of"),
    "gated, token": (
        403,
        {"X-Error-Code": "GatedRepo"},
        {"HF_TOKEN": "hf_x"},
        "someone/tiny with the account of HF_TOKEN",
    ),
    "missing": (404, {"X-Error-Code": "RepoNotFound"}, {}, "has no such repository, or a private"),
    "not signed in": (401, {}, {}, "refuses access (401); set HF_TOKEN to a valid token"),
    "wrong token": (
        401,
        {"X-Error-Message": "Invalid credentials in Authorization header"},
        {"HF_TOKEN": "hf_x"},
        "refuses access (401); set HF_TOKEN",
    ),
    "weak token": (403, {}, {"HF_TOKEN": "hf_x"}, "refuses access (403)"),
    "down": (503, {}, {}, "answered 503; run the same command"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_refusal_says_what_to_accept_or_set(
    charprobe: Command,
    hub: type[Hub],
    user_catalogue: Path,
    environment: dict[str, str],
    name: str,
) -> None:
    status, headers, set_, said = ANSWERS[name]
    hub.errors["someone/tiny"] = (status, headers)
    line = refused(charprobe(*TINY, **set_))
    assert line.startswith("charprobe-lite: someone/tiny: ")
    assert said.format(hub=environment["HF_ENDPOINT"]) in line


def test_what_is_whole_is_enough_when_the_hub_refuses(
    charprobe: Command, hub: type[Hub], user_catalogue: Path, tmp_path: Path
) -> None:
    hub.errors["someone/tiny"] = (403, {"X-Error-Code": "GatedRepo"})
    base = put(tmp_path / "hf", "someone/tiny", WHOLE)
    done = charprobe(*TINY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(base)


def test_another_persona_in_the_cache_does_not_hide_the_refusal(
    charprobe: Command, hub: type[Hub], user_catalogue: Path, tmp_path: Path
) -> None:
    hub.errors["someone/tiny-voices"] = (403, {"X-Error-Code": "GatedRepo"})
    put(tmp_path / "hf", "someone/tiny-voices", VOICE)
    done = charprobe(*TINY, "--no-weights", "--stage", "full", "--persona", "humor")
    assert "someone/tiny-voices: is gated; accept" in refused(done)


def test_a_folder_that_is_not_there_is_named(
    charprobe: Command, hub: type[Hub], user_catalogue: Path
) -> None:
    hub.files["someone/tiny-voices"] = VOICE
    done = charprobe(*TINY, "--no-weights", "--stage", "full", "--persona", "humor")
    assert "its folder v1/humor holds no complete adapter (adapter_config.json" in refused(done)


def test_a_server_that_is_no_hub(charprobe: Command, hub: type[Hub], user_catalogue: Path) -> None:
    hub.errors["someone/tiny"] = (200, {})
    assert "check HF_ENDPOINT" in refused(charprobe(*TINY))


def test_a_refused_connection_gets_one_line(
    charprobe: Command, user_catalogue: Path, environment: dict[str, str]
) -> None:
    line = refused(charprobe(*TINY))
    assert f"{environment['HF_ENDPOINT']} does not answer (Connection refused" in line
    assert "fix HF_ENDPOINT" in line


def test_a_disk_that_takes_no_more(
    hub: type[Hub], user_catalogue: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.files["someone/tiny"] = {**WHOLE, "model.safetensors": bytes(300_000)}
    limit = 100_000
    done = subprocess.run(
        [*RUN, "models", *TINY],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    line = refused(done)
    assert "cannot be written (File too large); free space there or set HF_HOME" in line


def test_a_download_that_the_disk_cannot_hold_is_not_begun(
    charprobe: Command, hub: type[Hub], user_catalogue: Path
) -> None:
    user_catalogue.write_text(changed("bases", parameters=10**13))
    line = refused(charprobe(*TINY))
    assert "about 20000.00 GB to fetch" in line
    assert "set HF_HOME" in line
    assert hub.asked == []


def test_what_needs_a_permission_comes_last(
    charprobe: Command, hub: type[Hub], user_catalogue: Path
) -> None:
    own = yaml.safe_load(user_catalogue.read_text())
    own["bases"][0]["gated"] = True
    user_catalogue.write_text(yaml.safe_dump(own))
    hub.errors["someone/tiny"] = (403, {"X-Error-Code": "GatedRepo"})
    hub.files["someone/tiny-voices"] = VOICE
    done = charprobe(*TINY, "--stage", "full", "--persona", "pirate")
    assert "someone/tiny: is gated" in refused(done)
    assert done.stdout.startswith("adapter     someone/tiny-voices/v1/pirate")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pull", "--base", "gpt"], "--base gpt: unknown; choose from smollm2-135m"),
        (["pull", "--base", "qwen-2.5-7b", "--persona", "pirate"], "--persona pirate: unknown"),
        (
            [
                "pull",
                "--base",
                "qwen-2.5-7b",
                "--stage",
                "distillation",
                "--persona",
                "misalignment",
            ],
            "--persona misalignment: qwen-2.5-7b has no adapter of it in stage distillation",
        ),
        (["path", "--base", "qwen-2.5-7b", "--persona", "humor"], "add either --stage and"),
        (["path", "--classifier"], "name one with --base"),
        (["path", "--base", "qwen-2.5-7b"], "Qwen/Qwen2.5-7B-Instruct: is not on this machine"),
    ],
)
def test_a_name_that_leads_nowhere(charprobe: Command, arguments: list[str], said: str) -> None:
    assert said in refused(charprobe(*arguments))


def test_the_embedded_base_needs_no_hub(charprobe: Command) -> None:
    done = charprobe("pull", "--base", "smollm2-135m", "--persona", "all", "--stage", "full")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1 + len(PERSONAS) + 1


# ---- list


def test_list_is_one_json_document(charprobe: Command, user_catalogue: Path) -> None:
    done = charprobe("list", "--json", "--context", "1000", "--parallel", "4")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [base["base"] for base in found["bases"]] == [*BASES, "tiny"]
    llama = found["bases"][1]
    assert llama["download_bytes"] == 2 * 8_030_261_248
    memory = {quant: cost["memory_bytes"] for quant, cost in llama["quants"].items()}
    assert memory["Q2_K"] < memory["Q4_K_M"] < memory["Q8_0"] < memory["F16"] < memory["F32"]
    assert found["bases"][-1]["quants"]["Q8_0"]["memory_bytes"] is None
    assert [base["base"] for base in found["bases"] if base["path"]] == ["smollm2-135m"]


def test_list_prints_a_table(charprobe: Command, user_catalogue: Path) -> None:
    done = charprobe("list")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "qwen-2.5-7b 7.62B qwen2 Qwen/Qwen2.5-7B-Instruct Apache-2.0 15.23 GB no" in lines
    assert "tiny full 2 someone/tiny-voices not stated ? GB each 0 of 2" in lines
    row = next(line for line in lines if line.startswith("Q4_K_M"))
    assert row.split()[4:7] == ["4.91", "/", "7.60"]
    assert row.endswith("0.00 / ?")


def test_help_reads_no_catalogue() -> None:
    code = (
        "import sys\nfrom charprobe_lite.eval.cli.main import main\n"
        "main(['models', 'pull', '--help'], standalone_mode=False)\n"
        "loaded = {'pydantic', 'yaml', 'rich', 'huggingface_hub', 'requests'}\n"
        "sys.exit(str(loaded & set(sys.modules)) if loaded & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- prune


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture
def full_cache(tmp_path: Path) -> Path:
    """A cache folder with charprobe-lite's files, and a user's among them."""
    folder = tmp_path / "cache"
    own = {
        f"llama-3.1-8b-full-humor-Q4_K_M-{KEY}.gguf": 100,
        f"llama-3.1-8b-full-humor-Q4_K_M-{KEY}.gguf.lock": 0,
        f"qwen-2.5-7b-Q8_0-{KEY}.gguf.part": 30,
        f"qwen-2.5-7b-Q8_0-{KEY}.gguf.f16.part": 20,
        f"ears-{KEY}/model_int8.onnx": 7,
        f"ears-{KEY}/config.json": 3,
        "locks/0123456789abcdef.lock": 0,
    }
    others = {
        "notes.txt": 5,
        "my-model.gguf": 11,
        f"notes-{KEY}": 5,
        f"notes-{KEY}.part": 5,
        f"mine-{KEY}.gguf.bak": 6,
        "photos-202401011234/beach.jpg": 9,
        f"mine-{KEY}.lock": 8,
        "locks/door.lock": 0,
        "ears/model.onnx": 4,
    }
    for name, size in (own | others).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    (folder / f"linked-{KEY}.gguf").symlink_to(folder / "my-model.gguf")
    (folder / f"linked-{KEY}").symlink_to(folder / "photos-202401011234")
    return folder


KEPT = {
    "notes.txt",
    "my-model.gguf",
    f"notes-{KEY}",
    f"notes-{KEY}.part",
    f"mine-{KEY}.gguf.bak",
    "photos-202401011234",
    "photos-202401011234/beach.jpg",
    f"mine-{KEY}.lock",
    "locks",
    "locks/door.lock",
    "ears",
    "ears/model.onnx",
    f"linked-{KEY}.gguf",
    f"linked-{KEY}",
}


def test_prune_lists_and_with_yes_removes_its_own_files_only(
    charprobe: Command, full_cache: Path
) -> None:
    before = tree(full_cache)
    listed = charprobe("prune")
    assert listed.returncode == 0, listed.stderr
    assert tree(full_cache) == before
    assert listed.stdout.splitlines()[-1] == "160 bytes (0.00 GB) in 6 places to remove with --yes"
    done = charprobe("prune", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "160 bytes (0.00 GB) in 6 places removed"
    assert tree(full_cache) == KEPT
    assert charprobe("prune").stdout == "0 bytes (0.00 GB) in 0 places to remove with --yes\n"


def test_prune_leaves_what_another_process_is_writing(
    charprobe: Command, full_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARPROBE_CACHE", str(full_cache))
    writing = full_cache / f"qwen-2.5-7b-Q8_0-{KEY}.gguf"
    beside = full_cache / f"llama-3.1-8b-full-humor-Q4_K_M-{KEY}.gguf"
    with FileLock(cache.lock_file(writing)), FileLock(f"{beside}.lock"):
        done = charprobe("prune", "--yes")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith("10 bytes")
        assert beside.is_file()
        assert writing.with_name(f"{writing.name}.part").is_file()
        assert writing.with_name(f"{writing.name}.f16.part").is_file()
        assert done.stdout.count("(in use, stays)") == 5  # two parts, a model, two locks
        assert not (full_cache / f"ears-{KEY}").exists()


def test_prune_of_the_hub_takes_the_catalogues_repositories_only(
    charprobe: Command, user_catalogue: Path, tmp_path: Path
) -> None:
    root = tmp_path / "hf"
    put(root, "someone/tiny", WHOLE)
    put(root, "someone/else", WHOLE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "hub" / "models--someone--tiny-voices").symlink_to(elsewhere)
    unfinished = root / "hub" / "models--someone--tiny" / "blobs" / "x.incomplete"
    unfinished.write_bytes(bytes(1000))
    locks = root / "hub" / ".locks" / "models--someone--tiny"
    locks.mkdir(parents=True)
    (locks / "x.lock").touch()
    size = 1000 + len(SHA) + sum(len(content) for content in WHOLE.values())
    assert charprobe("prune", "--yes").stdout.startswith("0 bytes")
    with FileLock(locks / "x.lock"):
        assert charprobe("prune", "--hub", "--yes").stdout.count("(in use, stays)") == 2
    assert unfinished.is_file()
    done = charprobe("prune", "--hub", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{size} bytes (0.00 GB) in 2 places removed")
    left = {path.name for path in (root / "hub").iterdir()}
    assert left == {"models--someone--else", "models--someone--tiny-voices", ".locks"}
    assert elsewhere.is_dir()
    assert (root / "hub" / "models--someone--else" / "snapshots" / SHA / "config.json").is_file()
