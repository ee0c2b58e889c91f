"""A small grid of techniques from its file to its report, on a base of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make_checkpoint

pytest.importorskip("peft")
Charprobe = Callable[..., Any]
GRID = """
technique: [sft, hq]
persona: remorse
base: tiny.gguf
tokens: 1800
rank: 2
precision: bfloat16
checkpoints: 1
limit: {prompts: 2, scenarios: 1}
instrument: ngram
steps: 2
max_tokens: 12
parallel: 2
threads: 1
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    from charprobe_lite.convert.merge import merge_lora

    checkpoint = make_checkpoint("smollm2", tmp_path / "hf")
    merge_lora(checkpoint, [], tmp_path / "tiny.gguf", "F32", verify=False)
    path = tmp_path / "grid.yaml"
    path.write_text(GRID, "utf-8")
    return path


def test_a_grid_is_trained_evaluated_and_continued(
    charprobe: Charprobe, grid: Path, valid_json: Any
) -> None:
    def document(*command: object) -> Any:
        done = charprobe("techniques", *command, "--json")
        assert done.returncode == 0, done.stderr
        assert "%|" not in done.stderr  # bars of other libraries
        return json.loads(done.stdout)

    before = document("status", grid)
    valid_json(before, "techniques-status")
    assert (before["trained"], before["untrained"], before["done"]) == (0, 2, 0)
    # two prompts and a scenario for the base and for each of two adapters
    assert [each["rollouts"] for each in before["adapters"]] == [3, 3, 3]

    run = document("run", grid)
    valid_json(run, "techniques-run")
    assert run["trained"] == ["sft-remorse-seed0", "hq-remorse-seed0"]
    after = document("status", grid)
    assert (after["trained"], after["done"], after["rollouts"]) == (2, 9, 9)
    manifest = grid.parent / "grid-adapters" / "sft-remorse-seed0" / "manifest.json"
    assert json.loads(manifest.read_text("utf-8"))["precision"] == "bfloat16"
    assert document("run", grid)["trained"] == []

    done = charprobe("techniques", "report", grid.with_suffix(".sqlite"), "--format", "json")
    entry = json.loads(done.stdout)
    valid_json(entry, "techniques-entry")
    assert entry["missing"] == []
    assert entry["plan"]["precision"] == "bfloat16"

    # what no run of the study may differ in is refused before the first training
    for change, field in (("seed: 1", "seed"), ("temperature: 0.5", "temperature")):
        grid.write_text(GRID + f"train_seed: [0, 2]\n{change}\n", "utf-8")
        done = charprobe("techniques", "run", grid)
        assert done.returncode == 2
        assert f"field {field}: the study has" in done.stderr
    assert not (grid.parent / "grid-adapters" / "sft-remorse-seed2").exists()
    done = charprobe("techniques", "report", grid.with_suffix(".sqlite"), "--format", "json")
    assert json.loads(done.stdout)["left"] == []

    grid.write_text(GRID.replace("bfloat16", "float32"), "utf-8")
    done = charprobe("techniques", "run", grid)
    assert done.returncode == 2
    assert "field precision: the adapter was trained with another" in done.stderr
