"""`--parallel auto`: what it chooses, what bounds it, and what a study keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study import parallel
from charprobe_lite.eval.study.memory import study_memory
from charprobe_lite.eval.study.parallel import Parallel, memory_room, select_parallel
from charprobe_lite.eval.study.spec import StudySpec, parse_spec, resolve
from charprobe_lite.eval.study.variants import Variant, base_of, variants_of
from charprobe_lite.models.catalogue import load_catalogue
from charprobe_lite.models.catalogue_schema import Base
from charprobe_lite.runtime.backend import BackendOptions
from charprobe_lite.runtime.calibration import (
    best_number,
    cached_speeds,
    calibrate,
    flash_is_faster,
    flash_was_faster,
    next_step,
)
from tests.conftest import Command

ONE_CORE = {1: 47.0, 4: 63.0, 8: 68.0, 16: 69.0, 32: 69.5}


def planned(base: str, quant: str) -> tuple[StudySpec, Base, Variant]:
    options = {"base": base, "quant": quant, "stage": "full", "persona": "sarcasm"}
    spec, catalogue = resolve(parse_spec({**options, "device": "cpu"})), load_catalogue()
    [variant] = variants_of(spec, catalogue)
    return spec, base_of(spec, variant, catalogue), variant


def test_8_unless_another_is_more_than_15_percent_faster() -> None:
    # 85% of 69.5 is 59.1
    assert best_number(ONE_CORE, 32) == 8
    assert best_number({1: 47.0, 4: 63.0, 8: 68.0, 16: 79.0}, 32) == 8
    assert best_number({1: 66.0, 4: 67.0, 8: 68.0}, 32) == 8
    # 85% of 81 is 68.9
    assert best_number({1: 47.0, 4: 63.0, 8: 68.0, 16: 81.0}, 32) == 16


def test_else_the_smallest_number_within_10_percent_of_the_best() -> None:
    # 90% of 89 is 80.1, of 91 it is 81.9
    assert best_number({1: 47.0, 4: 63.0, 8: 68.0, 16: 81.0, 32: 89.0}, 32) == 16
    assert best_number({1: 47.0, 4: 63.0, 8: 68.0, 16: 81.0, 32: 91.0}, 32) == 32
    # of 63, where no more than 4 are allowed, it is 56.7
    assert best_number(ONE_CORE, 7) == 4
    # a slow first batch, as another program makes it, does not hide the best
    assert best_number({1: 24.0, 4: 21.0, 8: 50.0}, 32) == 8


def test_timing_ends_after_two_steps_without_a_gain_of_5_percent() -> None:
    assert next_step({}, 32) == 1
    assert next_step({1: 47.0, 4: 48.0}, 32) == 8
    assert next_step({1: 47.0, 4: 48.0, 8: 49.0}, 32) is None
    assert next_step({1: 47.0, 4: 63.0, 8: 68.0}, 8) is None
    assert next_step({1: 47.0, 4: 63.0, 8: 68.0}, 16) == 16


def test_rollouts_and_memory_bound_the_number() -> None:
    assert select_parallel(ONE_CORE, 100, 32) == Parallel(8, "calibrated", ONE_CORE)
    assert select_parallel(ONE_CORE, 6, 32) == Parallel(6, "rollouts", ONE_CORE)
    assert select_parallel(ONE_CORE, 100, 5) == Parallel(4, "calibrated", ONE_CORE)
    # a short study takes the usual number, if it can
    assert select_parallel(ONE_CORE, 100, 32, is_short=True) == Parallel(8, "short")
    assert select_parallel(None, 100, 5, is_short=True) == Parallel(5, "memory")
    # up to 4 need no calibration
    assert select_parallel(None, 3, 32) == Parallel(3, "rollouts")
    assert select_parallel(None, 100, 2) == Parallel(2, "memory")
    assert str(select_parallel(None, 8, 32)) == "auto: 8 at most, calibrated at the start"


def test_an_8b_model_gets_what_its_kv_cache_leaves_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, _, variant = planned("llama-3.1-8b", "Q4_K_M")
    # K and V of 32 layers with 8 heads of 128 in F16 for 2560 tokens; the published file's size
    rollout, file = 2 * 32 * 8 * 128 * 2 * 2560, 4.92e9
    monkeypatch.setattr(parallel, "installed_memory", lambda: 16e9)
    room = memory_room(spec, [variant], load_catalogue())
    assert 0.75 * 16e9 - file - room * rollout == pytest.approx(0.5e9, abs=rollout)
    monkeypatch.setattr(parallel, "installed_memory", lambda: 4e9)
    assert memory_room(spec, [variant], load_catalogue()) == 1


def test_memory_is_forecast_within_10_percent_for_the_kit_and_not_too_low_for_8b() -> None:
    spec, base, variant = planned("smollm2-135m", "Q8_0")
    assert study_memory(base, variant, spec, 8).total == pytest.approx(944e6, rel=0.1)
    spec, base, variant = planned("llama-3.1-8b", "Q4_K_M")
    assert 7.5e9 <= study_memory(base, variant, spec, 8).total < 1.1 * 7.5e9


def test_speeds_are_cached_and_a_damaged_file_is_remade(
    merged_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARPROBE_CACHE", str(tmp_path))
    options = BackendOptions(context=512, threads=1)
    speeds = calibrate(merged_base, options, 4)
    assert list(speeds) == [1, 4]
    assert cached_speeds(merged_base, options, 4) == speeds
    assert cached_speeds(merged_base, options, 8) is None  # 8 have not been timed
    assert cached_speeds(merged_base, BackendOptions(context=1024, threads=1), 4) is None
    [file] = (tmp_path / "parallel").iterdir()
    for damage in (
        "{",
        "[]",
        '{"tokens_per_second": {"1": -3}}',
        '{"tokens_per_second": {"x": 1}}',
    ):
        file.write_text(damage)
        assert cached_speeds(merged_base, options, 4) is None
    assert list(calibrate(merged_base, options, 4)) == [1, 4]
    assert cached_speeds(merged_base, options, 4) is not None


def test_a_study_keeps_its_number_unless_it_had_too_few_rollouts(
    charprobe: Command, tmp_path: Path
) -> None:
    command = ["eval", "--persona", "sarcasm", "--stage", "full", "--condition", "chat"]
    command += ["--max-tokens", "1", "--instrument", "ngram", "--threads", "1"]
    long = ["--limit", "60", "--repeats", "4"]  # 240 rollouts; up to 199 of this base are short

    def number(study: str, *arguments: str) -> tuple[int, str, str]:
        done = charprobe(*command, "--study", study, *arguments)
        assert done.returncode == 0, done.stderr
        with Store(tmp_path / study, readonly=True) as store:
            values = store.provenance()
        return values["parallel"], values["parallel_from"], done.stderr

    assert number("a.sqlite", "--limit", "2", "--parallel", "3")[:2] == (3, "given")
    resumed = number("a.sqlite", "--limit", "6")
    assert resumed[:2] == (3, "given")
    assert "calibrated" not in resumed[2]
    assert number("b.sqlite", "--limit", "1")[:2] == (1, "rollouts")
    assert number("b.sqlite", "--limit", "10")[:2] == (8, "short")
    grown, reason, notes = number("b.sqlite", *long)
    [line] = [line for line in notes.splitlines() if line.startswith("rollouts at once: ")]
    assert line.startswith(f"rollouts at once: {grown}, ")
    assert reason == "calibrated"
    plan = json.loads(charprobe(*command, *long, "--dry-run", "--json").stdout)
    assert (plan["parallel"], plan["tokens_per_second"] > 0) == (grown, True)


def test_flash_attention_is_taken_where_it_saves_more_than_a_twentieth(
    merged_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARPROBE_CACHE", str(tmp_path))
    options = BackendOptions(threads=1)
    assert not flash_was_faster(merged_base, options)
    timed = flash_is_faster(merged_base, options)
    [file] = (tmp_path / "parallel").iterdir()
    seconds = json.loads(file.read_text())["seconds"]
    assert timed == (seconds["on"] < 0.95 * seconds["off"])
    for on, expected in ((0.94, True), (0.96, False)):
        file.write_text(json.dumps({"seconds": {"off": 1.0, "on": on}}))
        assert flash_is_faster(merged_base, options) is expected
        assert flash_was_faster(merged_base, options) is expected
    file.write_text('{"seconds": {"off": 1.0}}')
    assert flash_is_faster(merged_base, options) == flash_was_faster(merged_base, options)
    assert json.loads(file.read_text())["seconds"]["on"] > 0  # timed again


def test_a_study_keeps_its_attention(charprobe: Command, tmp_path: Path) -> None:
    command = ["eval", "--persona", "sarcasm", "--stage", "full", "--condition", "chat"]
    command += ["--max-tokens", "1", "--instrument", "ngram", "--threads", "1"]

    def attention(study: str, *arguments: str) -> tuple[str, str]:
        done = charprobe(*command, "--study", study, *arguments)
        assert done.returncode == 0, done.stderr
        with Store(tmp_path / study, readonly=True) as store:
            values = store.provenance()
        return values["flash_attention"], values["flash_attention_from"]

    assert attention("few.sqlite", "--limit", "1") == ("off", "short")
    assert attention("on.sqlite", "--limit", "1", "--flash-attention", "on") == ("on", "given")
    assert attention("on.sqlite", "--limit", "6") == ("on", "given")
    # a short study had no reason to time it
    value, source = attention("few.sqlite", "--limit", "60", "--repeats", "4")
    assert value in ("on", "off")
    assert source == "timed"
    assert attention("few.sqlite", "--limit", "60") == (value, "timed")
    assert attention("few.sqlite", "--limit", "1", "--flash-attention", "off")[0] == "off"


@pytest.mark.parametrize("value", ["0", "65", "many", "1.5"])
def test_other_values_are_refused(charprobe: Command, value: str) -> None:
    done = charprobe("eval", "--persona", "sarcasm", "--parallel", value, "--dry-run")
    assert done.returncode == 2
    assert f"{value!r}: give a number from 1 to 64, or auto" in done.stderr
