"""The examples of docs/extending.md, as a reader would run them: files in a folder, a process."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from charprobe_lite.models.gguf_header import weight_summary

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r'^```python title="(\w+\.py)"\n(.*?)^```', re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every block of the page under its title."""
    target = tmp_path_factory.mktemp("extending")
    for name, code in BLOCK.findall(PAGE.read_text("utf-8")):
        (target / name).write_text(code)
    return target


def run(folder: Path, name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, name, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def study(folder: Path, merged_base: Path) -> Path:
    """The study of the condition's example."""
    run(folder, "run_haiku.py")
    return folder / "haiku.sqlite"


def test_examples_are_short() -> None:
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    assert len({name for name, _ in blocks}) == len(blocks) == 10
    for name, code in blocks:
        assert len(code.splitlines()) < 40, name


def test_paths_of_the_page_exist() -> None:
    text = BLOCK.sub("", PAGE.read_text("utf-8"))
    examples = {"haiku", "mistral", "prose", "lengths"}
    for path in re.findall(r"`((?:models|runtime|convert|eval)/[\w/.]+)`", text):
        if Path(path).stem not in examples:
            assert (ROOT / path).exists(), path


def test_a_condition_is_run_and_scored(study: Path) -> None:
    with sqlite3.connect(study) as database:
        texts = dict(
            database.execute(
                "SELECT condition, samples.text FROM cells JOIN rollouts ON cell_id = cells.id "
                "JOIN samples ON rollout_id = rollouts.id WHERE prediction IS NOT NULL"
            )
        )
    assert set(texts) == {"chat", "haiku"}
    assert texts["chat"] != texts["haiku"]


def test_an_architecture_is_converted_and_checked(folder: Path) -> None:
    from tests.checkpoints import make_checkpoint

    base = make_checkpoint("llama3", folder / "mistral-checkpoint")
    config = json.loads((base / "config.json").read_text())
    config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    config |= {"sliding_window": None}
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10_000.0}
    (base / "config.json").write_text(json.dumps(config))
    assert "verified" in run(folder, "merge_mistral.py", base)
    assert weight_summary(folder / "mistral.gguf").main_type == "F32"


def test_a_backend_runs_a_rollout(folder: Path) -> None:
    assert run(folder, "run_echo.py") == "answered Good morning!\n"


def test_an_export_format_writes_a_file(folder: Path, study: Path) -> None:
    assert run(folder, "export_prose.py") == "haiku.prose\n"
    text = (folder / "haiku.prose").read_text()
    assert text.count("## full humor: ") == 2


def test_a_figure_is_in_the_report_with_its_files_and_its_table(folder: Path, study: Path) -> None:
    assert run(folder, "report_lengths.py") == "report/report.html\n"
    assert "How long the texts are" in (folder / "report" / "report.html").read_text()
    for ending in ("svg", "png", "pdf", "csv", "parquet", "tex"):
        assert (folder / "report" / f"lengths.{ending}").stat().st_size
