"""Pipes, devices, impossible paths and expanding YAML, wherever a file is read."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from charprobe_lite.convert.imatrix import read_imatrix
from charprobe_lite.convert.lora import read_adapter
from charprobe_lite.convert.safetensors import open_safetensors
from charprobe_lite.eval.cli.main import main
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.file import read_specs
from charprobe_lite.eval.texts.reader import Columns, read_texts
from charprobe_lite.models import files
from charprobe_lite.models.catalogue import VARIABLE, load_catalogue
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import read_gguf, read_header
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.runtime.engine import Engine
from tests.checkpoints import make_adapter, make_checkpoint

READERS: dict[str, Callable[[Path], Any]] = {
    "text": files.read_text,
    "YAML": files.read_yaml,
    "JSON": files.read_json,
    "CSV": lambda path: list(files.read_csv_rows(path)),
    "JSON lines": lambda path: list(files.read_json_rows(path)),
    "parquet": lambda path: list(files.read_parquet_rows(path)),
    "scenarios": load_scenarios,
    "safetensors": open_safetensors,
    "header": read_header,
    "GGUF": read_gguf,
    "imatrix": read_imatrix,
    "model": Engine,
    "study": lambda path: Store(path, readonly=True),
    "study to write": Store,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder", "NUL", "too long"])
def test_what_is_no_file_is_one_line_and_is_not_waited_for(
    tmp_path: Path, kind: str, reader: str
) -> None:
    path = tmp_path / "odd"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "NUL":
        path = tmp_path / "a\0b"
    else:
        path = tmp_path / ("x" * 300)
    with pytest.raises(BadInput) as refused:
        READERS[reader](path)
    assert "cannot be" in str(refused.value)


def test_a_file_over_its_limit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(files.MAX_YAML + 1)  # sparse: it takes no room
    with pytest.raises(BadInput, match=r"large\.yaml: 16777217 bytes; at most 16777216 are read"):
        files.read_yaml(path)


BOMB = "a: &a [x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "with its aliases written out"),
        ("a: &a [*a]", "contains it"),
        ("[" * 200 + "]" * 200, "nests deeper than 100"),
        ("- " * 5000 + "x", "not YAML"),
        ("n: " + "9" * 5000, "a number of 5000 digits"),
    ],
)
def test_yaml_that_expands_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        files.read_yaml(path)
    assert said in str(refused.value)
    path.write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert files.read_yaml(path) == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


@pytest.mark.parametrize("value", ["~nobody-of-this-name/x", '"a\\0b"', '"' + "x" * 300 + '"'])
@pytest.mark.parametrize("key", ["scenarios", "classifier", "prompts", "study"])
def test_an_impossible_path_in_a_study_file_is_one_line(
    tmp_path: Path, key: str, value: str
) -> None:
    (tmp_path / "grid.yaml").write_text(f"persona: humor\n{key}: {value}\n")
    done = CliRunner().invoke(main, ["study", "plan", str(tmp_path / "grid.yaml")])
    assert isinstance(done.exception, BadInput | SystemExit), repr(done.exception)
    assert done.exit_code != 0


def test_an_impossible_path_in_a_catalogue_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "~nobody-of-this-name/catalogue.yaml")
    with pytest.raises(BadInput):
        load_catalogue()
    file = tmp_path / "catalogue.yaml"
    base = {"name": "x", "path": "~nobody-of-this-name", "architecture": "llama", "parameters": 1}
    file.write_text(f"bases: [{base}]".replace("'", '"'))
    monkeypatch.setenv(VARIABLE, str(file))
    with pytest.raises(BadInput):
        load_catalogue()


@pytest.mark.parametrize("pattern", ["(.|.)*x", "(a|a)*$", ".*.*.*.*.*.*x", "(.+)+", "a**"])
def test_a_rank_pattern_that_never_ends_is_refused(tmp_path: Path, pattern: str) -> None:
    import json

    from charprobe_lite.convert.architectures.llama import Llama

    adapter = make_adapter(tmp_path / "a", make_checkpoint("smollm2", tmp_path / "base"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    for good in (r"layers\.[01]\..*q_proj", "k_proj", r"model\.layers\.(0|1|2)\.mlp\..+"):
        config["rank_pattern"] = {good: 8}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        read_adapter(adapter, Llama(3, 4, 2, True))
    config["rank_pattern"] = {pattern: 8}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="field rank_pattern"):
        read_adapter(adapter, Llama(3, 4, 2, True))


def test_a_study_in_a_pipe_is_no_study(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s.sqlite")
    for read in (read_specs, lambda path: read_texts(path, Columns())):
        with pytest.raises(BadInput, match="no such"):
            read(tmp_path / "s.sqlite")
