"""Grid files of techniques, their plans, and a small grid from its file to its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from charprobe_lite.convert.train.technique_plan import PhaseSize, plan_steps
from charprobe_lite.convert.train.technique_training import TrainingPlan
from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.protocols.outcome import Outcome, Result
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.merge import merge_studies
from charprobe_lite.eval.study.file import planned_studies
from charprobe_lite.eval.study.run import SILENT, run_rollouts
from charprobe_lite.eval.study.spec import parse_spec
from charprobe_lite.eval.techniques.findings import study_entry
from charprobe_lite.eval.techniques.grid import TechniqueGrid, read_grid
from charprobe_lite.eval.techniques.registration import plan_of, read_departures, register
from charprobe_lite.eval.techniques.run import plan_grid
from charprobe_lite.eval.techniques.trainings import (
    Training,
    kept_adapters,
    points_of,
    trainings_of,
)
from charprobe_lite.models import corpus
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.scenarios import load_scenarios
from tests.pages import chat, write_study

GRID = "technique: [sft, why]\npersona: remorse\n"


def grid_file(folder: Path, text: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("technique: [sft]\n", "persona: Field required"),
        (GRID + "tokenz: 3\n", "tokenz: unknown"),
        (GRID + "tokens: many\n", "tokens: Input should be a valid integer"),
        (GRID + "tokens: true\n", "tokens: Input should be a valid integer"),
        (GRID + "train_seed: [0, 1.5]\n", "train_seed.1: Input should be a valid integer"),
        (GRID + "train_seed: [0, 0]\n", "train_seed: 0: is named twice"),
        ("technique: [sft, sft]\npersona: remorse\n", "technique: sft: is named twice"),
        ("technique: [why, hq]\npersona: remorse\n", "technique: sft is missing"),
        ("technique: [sft, wy]\npersona: remorse\n", "technique: wy: unknown"),
        ("technique: [sft, no.py]\npersona: remorse\n", "no.py: cannot be read"),
        (GRID + "condition: [agentic_email]\n", "condition: chat is missing"),
        (GRID + "condition: [chat]\n", "condition: agentic_email is missing"),
        (GRID + "condition: [chat, agentic_email, author_ceiling]\n", "is a control"),
        ("technique: sft\npersona: pirate\n", "persona: pirate: unknown"),
        ("technique: sft\npersona: all\n", "persona: name each persona"),
        (GRID + "base: nothing-7b\n", "base: nothing-7b: unknown"),
        (GRID + "study: x.db\n", "ends in .sqlite"),
        ("- sft\n", "no grid; write keys"),
    ],
)
def test_what_is_wrong_with_a_grid_file_is_one_line(
    text: str, problem: str, tmp_path: Path
) -> None:
    path = grid_file(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        read_grid(path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("12", (12, 12)),
        ("[24, 10]", (24, 10)),
        ("all", (None, None)),
        ("{prompts: 3, scenarios: all}", (3, None)),
    ],
)
def test_limits_mean_what_they_mean_in_a_study_file(
    limit: str, expected: tuple[int | None, int | None], tmp_path: Path
) -> None:
    grid = read_grid(grid_file(tmp_path, GRID + f"limit: {limit}\n"))
    assert (grid.limit.prompts, grid.limit.scenarios) == expected
    assert grid.study_spec().limit == parse_spec({"limit": yaml.safe_load(limit)}).limit


def test_shards_have_every_adapter_once(tmp_path: Path) -> None:
    grid = read_grid(grid_file(tmp_path, GRID + "train_seed: [0, 1, 2]\n"))
    parts = [trainings_of(grid, (number, 4)) for number in (1, 2, 3, 4)]
    names = [each.name for part in parts for each in part]
    assert sorted(names) == sorted(each.name for each in trainings_of(grid))
    assert len(set(names)) == 6
    with pytest.raises(BadInput, match="--shard 1/7: there are 6 adapters"):
        trainings_of(grid, (1, 7))


def planned(grid: TechniqueGrid, texts: dict[str, int]) -> dict[Training, TrainingPlan]:
    """The plan of each training on so many texts of 20 tokens of each persona."""
    sizes = {persona: [PhaseSize([20] * count, 2400)] for persona, count in texts.items()}
    return {
        each: TrainingPlan(
            [], [], sizes[each.persona], plan_steps("x", sizes[each.persona], 2400, each.seed)
        )
        for each in trainings_of(grid)
    }


def test_a_point_of_a_curve_is_one_of_all_personas_with_the_share_that_was_trained(
    tmp_path: Path,
) -> None:
    text = "technique: sft\npersona: [remorse, sarcasm]\ntokens: 2400\n"
    grid = read_grid(grid_file(tmp_path, text))
    # half an epoch is after 600 tokens of remorse's texts, and after 1500 of sarcasm's
    kept = kept_adapters(planned(grid, {"remorse": 60, "sarcasm": 150}), 2)
    shares = [[(each.percent, each.share) for each in adapters] for adapters in kept.values()]
    assert shares == [[(50, 0.5), (100, 1)], [(50, 0.625), (100, 1)]]
    assert points_of(kept) == {"sft": {"50": 0.5625, "100": 1}}
    # one epoch of sarcasm's texts is twice the budget and more: it has no adapter on the way
    kept = kept_adapters(planned(grid, {"remorse": 60, "sarcasm": 300}), 2)
    assert [[each.percent for each in adapters] for adapters in kept.values()] == [[100], [100]]


def test_a_plan_binds_from_the_first_rollout_on(tmp_path: Path) -> None:
    grid = read_grid(grid_file(tmp_path, GRID))
    first = plan_of(grid, ("ensemble", "minilm", "ngram"))
    assert first.instruments == ("minilm", "ngram")
    assert first.contrasted == ["why"]
    more = plan_of(grid.model_copy(update={"train_seeds": (0, 1)}), ("ensemble", "minilm", "ngram"))
    with Store(tmp_path / "s.sqlite") as store:
        assert register(store, more) == []
        assert register(store, first) == []  # nothing has been seen yet
        cell = Cell("b", "base", "chat", "Q8_0")
        store.add(cell, None, "p", 0, 1, Result(Outcome.ANSWERED, "Hi", False, []))
        assert register(store, first) == []
        [left] = register(store, more)
        assert (left.field, left.plan, left.here) == ("train_seeds", [0], [0, 1])
        # that run is refused or stopped: the study still is what its plan says
        assert read_departures(store.path, store.provenance(), 1) == []
        assert register(store, first) == []
        [left] = register(store, more)
        store.add(cell, None, "q", 0, 1, Result(Outcome.ANSWERED, "Hi", False, []))
        assert register(store, more) == []
        assert read_departures(store.path, store.provenance(), 2) == [left]
        other = first.model_copy(update={"seed": 1})
        with pytest.raises(BadInput, match="field seed: the study has 0, the grid file 1"):
            register(store, other)
    with Store(tmp_path / "other.sqlite") as store:
        store.add(cell, None, "p", 0, 1, Result(Outcome.ANSWERED, "Hi", False, []))
        with pytest.raises(BadInput, match="is a study of no techniques"):
            register(store, first)


def part(path: Path, grid: TechniqueGrid, technique: str, label: str) -> Path:
    """A part of a grid: a technique's texts, all read as ``label``, and the base's."""
    base = Cell("kit", "base", "chat", "Q8_0")
    adapter = Cell("kit", "full", "chat", "Q8_0", lora="runtime", train_seed=0, technique=technique)
    rollouts = []
    for condition in ("chat", "agentic_email"):
        for number in range(5):
            for cell, persona, seen in ((base, None, "neutral"), (adapter, "remorse", label)):
                asked = replace(cell, condition=condition)
                rollouts.append((asked, persona, f"{condition}-{number}", chat("Hi."), seen))
    # somebody added a cache of another type: no part of the plan
    rollouts.append((replace(base, kv_type="Q4_0"), None, "chat-9", chat("Hi."), "remorse"))
    with Store(path) as store:
        register(store, plan_of(grid, ("minilm",)))
        store.note({"techniques detectable": 0.4, "instrument": "minilm"})
    return write_study(path, rollouts)


def test_a_part_of_a_grid_counts_a_part_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    text = GRID + "base: mine\nlimit: {prompts: 9, scenarios: 6}\ncheckpoints: 1\n"
    grid = read_grid(grid_file(tmp_path, text))
    parts = [plan_grid(grid, (number, 2)).forecast.rollouts for number in (1, 2)]
    # 15 of the base and of each of two adapters: a part has one adapter
    assert sum(parts) == 45
    assert all(15 < part < 30 for part in parts)


def test_a_part_of_a_grid_still_has_to_run_what_its_study_has_of_other_parts(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine").mkdir()
    text = GRID + "base: mine\nlimit: {prompts: 20, scenarios: 20}\ncheckpoints: 1\n"
    grid = read_grid(grid_file(tmp_path, text))
    for number in (1, 2):  # both studies have the 10 rollouts of sft, the adapter of part 1
        part(tmp_path / f"grid-part{number}of2.sqlite", grid, "sft", "remorse")
    first, second = (plan_grid(grid, (number, 2)).forecast.rollouts for number in (1, 2))
    # 40 of the base and of each adapter; of the base's 11 that are there each part counts its own
    assert first + second == 3 * 40 - 10 - 11
    assert second >= 40


def test_the_difference_that_can_be_found_is_by_the_scenarios_that_there_are(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine").mkdir()

    def line(scenarios: object) -> str:
        limits = f"base: mine\nlimit: {{prompts: 2, scenarios: {scenarios}}}\n"
        planned_grid = plan_grid(read_grid(grid_file(tmp_path, GRID + limits)))
        return list(planned_grid.forecast.lines())[-1]

    shipped = len(load_scenarios(corpus.corpus_file("agentic/eval.jsonl")))
    assert line(500) == line("all") == line(shipped) != line(shipped - 20)
    assert "would be found by one instrument in 80 of 100 such studies" in line(shipped)
    assert "a verdict needs all 2" in line(shipped)


def test_merged_parts_are_one_comparison(tmp_path: Path) -> None:
    grid = read_grid(grid_file(tmp_path, GRID))
    parts = [
        part(tmp_path / "1.sqlite", grid, "sft", "neutral"),
        part(tmp_path / "2.sqlite", grid, "why", "remorse"),
    ]
    merge_studies(parts, tmp_path / "whole.sqlite")
    entry = study_entry(tmp_path / "whole.sqlite")
    assert (entry.missing, entry.left, entry.detectable_before) == ((), [], 0.4)
    assert entry.prompts == 5
    [probability, _] = entry.readings
    assert probability.base["chat"].estimate == pytest.approx(0.1)
    effects = [each.effect and each.effect.estimate for each in probability.techniques]
    assert effects == pytest.approx([0, 0.7])
    [contrast] = probability.contrasts
    assert contrast.difference.estimate == pytest.approx(0.7)


def test_a_study_of_techniques_takes_no_rollouts_of_the_kits_own_adapters(tmp_path: Path) -> None:
    grid = read_grid(grid_file(tmp_path, GRID))
    path = part(tmp_path / "s.sqlite", grid, "sft", "remorse")
    with Store(path) as store:
        store.note({"asked": {"persona": ["remorse"]}})
        other = plan_of(grid.model_copy(update={"quant": "Q4_0"}), ("minilm",))
        with pytest.raises(BadInput, match="field quant: the study has default"):
            register(store, other)
    with pytest.raises(BadInput, match="is a study of techniques; continue it with"):
        planned_studies(path)
    spec = parse_spec({"stage": "base", "persona": "remorse", "limit": 1, "study": path})
    with pytest.raises(BadInput, match="is a study of techniques; continue it with"):
        run_rollouts(spec, SILENT)


def test_what_is_noted_in_a_study_of_techniques_is_not_trusted(tmp_path: Path) -> None:
    grid = read_grid(grid_file(tmp_path, GRID))
    path = part(tmp_path / "s.sqlite", grid, "sft", "remorse")
    for name, value in (("techniques left", 3), ("techniques detectable", "much")):
        with Store(path) as store:
            kept = store.provenance()[name]
            store.note({name: value})
        with pytest.raises(BadInput, match=r"s\.sqlite: ") as caught:
            study_entry(path)
        assert "\n" not in str(caught.value)
        with Store(path) as store:
            store.note({name: kept})


def test_a_checkpoint_folder_is_planned_before_it_is_converted(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    grid = read_grid(grid_file(tmp_path, GRID + "base: mine\nquant: Q8_0\n"))
    planned = plan_grid(grid)
    assert not planned.is_checked
    assert planned.plan.base == "mine"
    assert planned.forecast.trainings == 2
