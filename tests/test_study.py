"""Studies that a file describes: the grid, its parts, and the parts joined again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.cli.main import main
from charprobe_lite.eval.protocols.outcome import Result, Turn
from charprobe_lite.eval.scores.cells import score_study
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.merge import merge_studies
from charprobe_lite.eval.store.migrations import MIGRATIONS
from charprobe_lite.eval.study.cost import fit_budget, within_budget
from charprobe_lite.eval.study.file import read_specs
from charprobe_lite.eval.study.grid import Task, tasks_of
from charprobe_lite.eval.study.spec import parse_spec, resolve
from charprobe_lite.eval.study.variants import CheckpointKey, Variant, variants_of
from charprobe_lite.models.catalogue import load_catalogue
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.runtime.backend import Completion
from tests.conftest import ValidJson

PERSONAS = ["humor", "remorse"]
THERE = [CheckpointKey(stage, persona) for stage in ("base", "full") for persona in PERSONAS]
GRID = [
    Variant("kit", quant, lora, THERE)
    for quant in ("F16", "Q4_0")
    for lora in ("runtime", "merged")
]


def tasks(**changes: Any) -> list[Task]:
    values = {"stage": ["base", "full"], "persona": PERSONAS, "limit": (6, 5), **changes}
    return [task for tasks in tasks_of(parse_spec(values), GRID) for task in tasks]


# ---- the grid


def test_cells_come_stage_by_stage_as_tables_show_them() -> None:
    spec = parse_spec({"stage": ["base", "full"], "persona": PERSONAS, "limit": (2, 2)})
    [found] = tasks_of(spec, GRID[:1])
    cells = dict.fromkeys(task.cell for task in found)
    assert [(cell.stage, cell.condition) for cell in cells] == [
        *(("base", "chat"), ("base", "agentic_email")),
        *(("full", "chat"), ("full", "agentic_email")),
    ]


def test_variants_share_the_base_stage_and_every_one_meets_the_same_seeds() -> None:
    found = tasks()
    cells = {(task.cell.stage, task.cell.quant, task.cell.lora) for task in found}
    assert cells == {
        *(("base", quant, None) for quant in ("F16", "Q4_0")),
        *(("full", variant.quant, variant.lora) for variant in GRID),
    }
    assert len({task.key for task in found}) == len(found)
    seeds: dict[tuple[str, ...], set[int]] = {}
    for task in found:
        asked = (task.cell.stage, task.cell.condition, task.persona, task.item.id)
        seeds.setdefault(asked, set()).add(task.seed)
    assert {len(own) for own in seeds.values()} == {1}


def test_repeats_are_other_seeds_of_the_same_items_and_rows_of_one_cluster() -> None:
    once, thrice = tasks(condition="chat"), tasks(condition="chat", repeats=3)
    assert {task.key: task.seed for task in once}.items() <= {
        task.key: task.seed for task in thrice
    }.items()
    of_one = [task for task in thrice if task.cell == thrice[0].cell]
    assert len({task.seed for task in of_one}) == len(of_one) == 18
    given = tasks(condition="author_ceiling", repeats=3)
    assert {task.sample for task in given} == {0}  # texts that are there already

    # two of six prompts fail at each repeat: no wider with three repeats than the prompts allow
    cell = Cell("kit", "full", "chat", "F16")
    chances = {"humor": 0.5, "neutral": 0.5}
    rows = [
        Row(cell, "humor", f"p{item}", sample, 0, "answered", False, "x", said, chances)
        for item in range(6)
        for sample in range(3)
        for said in ["neutral" if item < 2 else "humor"]
    ]
    [score] = score_study(rows, [cell], ["humor"], 0).by_cell
    assert score.n == 18
    assert score.ci
    assert score.ci_rows
    assert score.ci[1] - score.ci[0] > score.ci_rows[1] - score.ci_rows[0]


def test_shards_hold_every_rollout_once_and_keep_what_is_compared_together() -> None:
    parts = [tasks(shard=(number, 3), repeats=2) for number in (1, 2, 3)]
    assert sum(map(len, parts)) == len(tasks(repeats=2))
    keys = [{task.key for task in part} for part in parts]
    assert set.union(*keys) == {task.key for task in tasks(repeats=2)}
    pairs = [{(t.persona, t.item.id, t.sample) for t in part} for part in parts]
    assert all(one.isdisjoint(other) for one, other in combinations(pairs, 2))
    with pytest.raises(BadInput, match="--shard 7/900: none of 10 rollouts is in this part"):
        tasks(shard=(7, 900), limit=1, condition="chat")


# ---- merging


def recorded(path: Path, part: Iterable[Task], pins: dict[str, Any] | None = None) -> Path:
    """A study of these rollouts, every other one without a label."""
    with Store(path) as store:
        store.pin({"seed": 0, "sha256 model F16": "a", **(pins or {})})
        store.note({"machine": path.stem, "asked": {"persona": PERSONAS, "shard": [1, 2]}})
        for number, task in enumerate(part):
            text = f"{task.persona} on {task.item.id}"
            turn = Turn(Completion(text, "stop", 9, 4, 3, 0.5))
            rollout = store.add(*task.key, task.seed, Result("answered", text, turns=[turn]))
            if number % 2:
                store.classify([(rollout, "humor", {"humor": 0.75, "neutral": 0.25})])
    return path


def contents(path: Path) -> list[tuple[Any, ...]]:
    """All rollouts with their turns and labels, whatever their ids and times."""
    with Store(path, readonly=True) as store:
        turns = store.turns()
        return [
            (*key, row.seed, row.text, row.probabilities, turns[key])
            for row in store.rows()
            for key in [(row.cell, row.persona, row.item, row.sample)]
        ]


def test_merged_parts_are_the_whole_without_loss_or_duplicates(tmp_path: Path) -> None:
    every = tasks()
    whole = recorded(tmp_path / "whole.sqlite", every)
    # both parts hold the middle; labels are missing in other places
    one = recorded(tmp_path / "one.sqlite", every[:60])
    two = recorded(tmp_path / "two.sqlite", every[39:], {"sha256 model Q4_0": "b"})
    before = [sha256_file(path) for path in (one, two)]
    merged = merge_studies([one, two], tmp_path / "merged.sqlite")
    assert (merged.rollouts, merged.added) == (len(every), [60, len(every) - 60])
    assert [row[:6] for row in contents(merged.path)] == [row[:6] for row in contents(whole)]
    assert [row[7] for row in contents(merged.path)] == [row[7] for row in contents(whole)]
    labels = {row[:4] for row in contents(merged.path) if row[6]}
    assert labels == {row[:4] for path in (one, two) for row in contents(path) if row[6]}
    assert [sha256_file(path) for path in (one, two)] == before
    assert sorted(path.name for path in tmp_path.glob("merged*")) == ["merged.sqlite"]
    with Store(merged.path) as store:
        known = store.provenance()
        store.add(Cell("kit", "full", "chat", "F16"), "humor", "new", 0, 1, Result("answered", "x"))
    assert (known["sha256 model F16"], known["sha256 model Q4_0"]) == ("a", "b")
    assert [part["file"] for part in known["merged"]] == ["one.sqlite", "two.sqlite"]
    assert known["asked"] == {"persona": PERSONAS, "shard": None}


def test_studies_that_do_not_belong_together_are_refused_by_name(tmp_path: Path) -> None:
    every = tasks()
    one = recorded(tmp_path / "one.sqlite", every[:2])
    other = recorded(tmp_path / "other.sqlite", every[2:4], {"sha256 model F16": "c"})
    changed = recorded(tmp_path / "changed.sqlite", every[2:4])
    with sqlite3.connect(changed) as database:
        database.execute("UPDATE rollouts SET item = ?, seed = 1 WHERE id = 1", (every[0].item.id,))
    target = tmp_path / "merged.sqlite"
    with pytest.raises(BadInput, match=r'other.sqlite: field sha256 model F16: has "c", .* "a"'):
        merge_studies([one, other], target)
    named = rf"changed.sqlite: rollout kit/base/chat/F16/{every[0].item.id}/0: has another seed"
    with pytest.raises(BadInput, match=named):
        merge_studies([one, changed], target)
    with pytest.raises(BadInput, match=r"none.sqlite: no such study"):
        merge_studies([one, tmp_path / "none.sqlite"], target)
    assert not target.exists()
    with pytest.raises(BadInput, match=r"one.sqlite: exists already"):
        merge_studies([one], one)


def test_a_part_of_an_earlier_schema_is_merged_and_stays_as_it_is(tmp_path: Path) -> None:
    old = tmp_path / "old.sqlite"
    with sqlite3.connect(old) as database:
        database.executescript(MIGRATIONS[0])
        database.executescript(
            "PRAGMA user_version = 1;"
            "INSERT INTO provenance VALUES ('seed', '0'), ('sha256 model', '\"a\"');"
            "INSERT INTO cells VALUES (1, 'kit', 'full', 'chat', 'F16');"
            "INSERT INTO rollouts VALUES (1, 1, 'humor', 'id-1', 0, 7, 'answered', 0, 1, 2, 2, 3,"
            " 0.5, 'then');"
            "INSERT INTO samples VALUES (1, 'Hi', NULL, NULL);"
        )
    before = sha256_file(old)
    new = recorded(tmp_path / "new.sqlite", tasks()[:3])
    merge_studies([new, old], tmp_path / "merged.sqlite")
    assert sha256_file(old) == before
    with Store(tmp_path / "merged.sqlite") as store:
        assert len(store.rows()) == 4
        assert store.done(Cell("kit", "full", "chat", "F16", lora="runtime"), "humor") == {
            ("id-1", 0)
        }


# ---- what a file says


def test_a_study_file_is_a_study_for_every_base_and_seed(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        "stage: all\npersona: [humor, remorse]\nquant: F16,Q8_0\nlora: all\ngrammar: [on, off]\n"
        "limit: {prompts: 40, scenarios: all}\nseeds: [0, 3]\nprompts: mine.txt\nrepeats: 2\n"
    )
    parts = read_specs(file)
    assert [(part.base, part.seed) for part in parts] == [("smollm2-135m", 0), ("smollm2-135m", 3)]
    assert [part.study for part in parts] == [
        tmp_path / "grid" / f"smollm2-135m-seed{seed}.sqlite" for seed in (0, 3)
    ]
    first = parts[0]
    assert first.prompts == str(tmp_path / "mine.txt")
    (tmp_path / "mine.txt").write_text("Hello\n")
    spec = resolve(first)
    assert (spec.limit.prompts, spec.limit.scenarios, spec.repeats) == (40, None, 2)
    assert spec.grammars == ("on", "off")
    assert [(v.quant, v.lora) for v in variants_of(spec, load_catalogue())] == [
        (quant, lora) for quant in ("F16", "Q8_0") for lora in ("runtime", "merged")
    ]
    file.write_text("persona: humor\nstudy: results\n")
    assert [part.study for part in read_specs(file)] == [tmp_path / "results.sqlite"]
    # a study says of itself what its file said
    with Store(tmp_path / "results.sqlite") as store:
        store.note({"asked": first.recorded()})
    [again] = read_specs(tmp_path / "results.sqlite")
    assert again.recorded() == first.recorded()
    assert resolve(again).with_values(study=None) == spec.with_values(study=None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("persona: humor\nquants: [F16]\n", "quants: unknown; did you mean quant"),
        ("persona: humor\nlimit: {prompt: 3}\n", "limit.prompt: unknown"),
        ("persona: humor\nrepeats: 0\n", "repeats: Input should be greater than"),
        ("persona: humor\nbase: smollm\n", "base: smollm: unknown; "),
        ("persona: humor\nstage: [ful]\n", "stage: ful: unknown; "),
        ("persona: humor\nseed: [1, 2]\nstudy: s.sqlite\n", "study: several studies; name"),
        ("persona: humor\nbase_url: x\n", "base_url: is an option of eval, not a key"),
        ("persona: humor\nseed: []\n", "seed: names nothing; leave it out"),
        ("- humor\n", "no study file; write keys such as base"),
        ("persona: [humor\n", "not YAML"),
    ],
)
def test_a_study_file_that_cannot_be_run_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(BadInput) as error:
        read_specs(file)
    assert str(error.value).startswith(f"{file}: {said}")


def test_what_a_study_was_asked_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    for value, said in (
        (None, "does not record its spec"),
        ({"parallel": 10**9}, "parallel: Input should be less"),
        ({"stage": ["everything"]}, "stage: everything: unknown"),
    ):
        with Store(file) as store:
            store.note({"asked": value})
        with pytest.raises(BadInput, match=said):
            read_specs(file)


# ---- the budget


def test_a_budget_leaves_out_what_does_not_fit_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARPROBE_CACHE", str(tmp_path))  # nothing is made yet
    spec = parse_spec({"stage": "base", "persona": "humor", "quant": "F16,Q8_0,Q4_0,IQ1_S"})
    resolved, catalogue = resolve(spec), load_catalogue()
    kept, left_out = within_budget(resolved, catalogue, 1_050_000_000)
    assert kept == ["Q8_0", "Q4_0"]
    assert left_out["F16"].endswith("classifier and buffers 352 MB), the budget is 1.05 GB")
    assert left_out["IQ1_S"] == "it needs an importance matrix"
    notes: list[str] = []
    fitted = fit_budget(spec, 1_050_000_000, notes.append)
    assert fitted.quants == ("Q8_0", "Q4_0")
    assert [line.split(":")[0] for line in notes] == ["F16", "IQ1_S"]
    with pytest.raises(BadInput, match="--budget: none of the quant types fits"):
        fit_budget(spec, 10_000_000, notes.append)
    # a quantization study loads no file beside another
    small = resolved.with_values(parallel=1, texts=4)
    kept, left_out = within_budget(small, catalogue, 850_000_000)
    assert kept == ["F16", "Q8_0", "Q4_0"]
    # the disk counts too: the types that are kept must find room together
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 450_000_000}))
    kept, left_out = within_budget(resolved, catalogue, 10**12)
    assert "Q4_0" in left_out
    assert "are to be written" in left_out["Q4_0"]


# ---- the commands


def printed(*arguments: str) -> str:
    """What `charprobe-lite study` prints; nothing on stderr but progress."""
    done = CliRunner().invoke(main, ["study", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert all(" rollouts" in line for line in done.stderr.splitlines())
    return done.stdout


def test_two_machines_run_a_part_each_and_the_whole_is_resumed(
    tmp_path: Path, merged_base: Path, monkeypatch: pytest.MonkeyPatch, valid_json: ValidJson
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(
        "stage: [base, full]\npersona: humor\ncondition: chat\nlimit: {prompts: 3}\n"
        "max-tokens: 12\nparallel: 2\n"  # as the option is spelled
    )
    planned = json.loads(printed("plan", "grid.yaml", "--json"))
    assert (planned["studies"][0]["rollouts"], planned["studies"][0]["missing"]) == (6, 6)
    assert planned["forecasts"][0]["rollouts"] == 6
    for number in ("1", "2"):
        printed("run", "grid.yaml", "--shard", f"{number}/2", "--study", f"part{number}.sqlite")
    joined = printed("merge", "part1.sqlite", "part2.sqlite", "-o", "whole.sqlite")
    again = printed("merge", "part2.sqlite", "part1.sqlite", "-o", "again.sqlite", "--json")
    valid_json(json.loads(again), "study-merge")
    assert joined.splitlines()[-1] == "study: whole.sqlite, 6 rollouts"
    [state] = json.loads(printed("status", "whole.sqlite", "--json"))["studies"]
    assert (state["rollouts"], state["done"], state["missing"]) == (6, 6, 0)
    assert {cell["lora"] for cell in state["cells"]} == {None, "runtime"}
    with sqlite3.connect("whole.sqlite") as database:  # as if it had been killed there
        for table in ("labels", "samples", "turns"):
            database.execute(f"DELETE FROM {table} WHERE rollout_id = 1")
        database.execute("DELETE FROM rollouts WHERE id = 1")
    assert [
        line.split()[-4:] for line in printed("status", "whole.sqlite").splitlines()[-2:-1]
    ] == [["6", "5", "1", "0"]]
    resumed = json.loads(printed("resume", "whole.sqlite", "--json"))
    valid_json(resumed, "study-run")
    [document] = resumed["studies"]
    assert [cell["n"] for cell in document["cells"]] == [3, 3]
