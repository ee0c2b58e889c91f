"""Every input of tests/hostile is read as the program reads it: taken, or refused in a line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.fuzz import attack
from bench.fuzzing.kinds import KINDS

CORPUS = Path(__file__).parent / "hostile"
INPUTS = sorted(path for path in CORPUS.glob("*/*/*") if path.is_file())


@pytest.fixture(scope="module")
def good(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("good")


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parts[-3]}/{path.parts[-2]}")
def test_a_hostile_input_is_taken_or_refused_in_a_line(
    path: Path, good: Path, tmp_path: Path
) -> None:
    name = path.parts[-3]
    folder = tmp_path / "inner"
    folder.mkdir()
    list(KINDS[name].seeds(good / name))  # what belongs beside it
    outcome, said = attack(KINDS[name], Path(shutil.copy(path, folder)), good / name)
    assert outcome in ("taken", "refused"), said
    assert [entry.name for entry in tmp_path.iterdir()] == ["inner"]


def test_every_kind_of_input_has_one() -> None:
    assert {path.parts[-3] for path in INPUTS} == set(KINDS)
