"""The caches: what they hold, and what `models prune` removes from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from charprobe_lite.models import cache
from tests.models.conftest import SHA, VOICE, WHOLE, Command, put, refused

KEY = "0123456789abcdef"


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
    paths = {row["persona"]: row["path"] for row in listed["adapters"] if row["base"] == "tiny"}
    assert paths == {"pirate": str(voices / "v1" / "pirate"), "humor": None}


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


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture
def full_cache(tmp_path: Path) -> Path:
    """A cache folder with charprobe-lite's files, and a user's among them."""
    folder = tmp_path / "cache"
    ours = {
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
    for name, size in (ours | others).items():
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
