"""The rollouts of a study: seeds, controls, and every condition on the kit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from charprobe_lite.eval import conditions
from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.conditions import condition_names, load_condition, register
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.checkpoints import Checkpoint, VariantFiles
from charprobe_lite.eval.study.grid import tasks_of
from charprobe_lite.eval.study.instruments import open_instrument
from charprobe_lite.eval.study.runner import run
from charprobe_lite.eval.study.spec import StudySpec, parse_spec, resolve
from charprobe_lite.eval.study.variants import CheckpointKey, Variant
from charprobe_lite.models.catalogue import CONDITIONS
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS


def files(checkpoint: Checkpoint, stages: Sequence[str], personas: Sequence[str]) -> VariantFiles:
    keys = [CheckpointKey(stage, persona) for stage in stages for persona in personas]
    return VariantFiles(
        Variant("kit", "Q8_0", "runtime", keys),
        None,
        dict.fromkeys(keys, checkpoint),
    )


def spec_of(**changes: Any) -> StudySpec:
    values: dict[str, Any] = {
        "stage": ["base", "full"],
        "persona": ["humor", "remorse"],
        "condition": list(CONDITIONS),
        "limit": 1,
        "max_tokens": 80,
        "steps": 2,
        "parallel": 4,
        "gpu_layers": 0,
    }
    return parse_spec({**values, **changes})


def test_existing_rollouts_keep_their_seeds_and_every_variant_has_seeds_of_its_own() -> None:
    spec = spec_of(format=["json", "fenced"], grammar=["on", "off"])
    on = files(Checkpoint(Path("m")), spec.stages, spec.personas)
    [tasks] = tasks_of(spec, [on.variant])
    assert len({task.seed for task in tasks}) == len(tasks)
    seeds = {(t.cell.stage, t.cell.label, t.persona): t.seed for t in tasks if t.cell.quant}
    # as schema 1 derived them
    assert seeds["base", "chat", None] == CHAT_SEED
    assert seeds["full", "agentic_email", "humor"] == AGENT_SEED


def test_all_personas_are_those_of_the_study_on_every_kind_of_model() -> None:
    def asked(**values: Any) -> tuple[str, ...]:
        return resolve(parse_spec({"persona": "all", "stage": "full", **values})).personas

    published = {"base": "gemma-3-4b", "stage": "distillation,full"}
    served: dict[str, Any] = {"backend": "openai", "base_url": "http://127.0.0.1:1/v1"}
    for model in ({}, published, {"gguf": "some.gguf"}, {**served, "model": "full/humor=x"}):
        assert asked(**model) == PERSONAS
    assert asked(**published, persona="misalignment") == ("misalignment",)
    assert asked(**published, persona="all,misalignment") == (*PERSONAS, "misalignment")
    # a server that serves it names it
    by_name = {**served, "model": ["full/humor=x", "full/misalignment=y"]}
    assert asked(**by_name, persona=[]) == ("humor", "misalignment")
    assert asked(**by_name)[-1] == "misalignment"


CHAT_SEED, AGENT_SEED = 4697483864370181642, 6522362319178741812


def test_controls_run_on_the_base_per_persona_or_on_no_checkpoint_at_all() -> None:
    spec = spec_of(condition=["chat", "prompted_email", "author_ceiling"])
    checkpoint = Checkpoint(Path("m"))
    [tasks] = tasks_of(spec, [files(checkpoint, spec.stages, spec.personas).variant])
    rollouts = {(t.cell.stage, t.cell.condition, t.persona) for t in tasks if t.cell.quant}
    assert rollouts == {
        *{("base", "chat", None), ("full", "chat", "humor"), ("full", "chat", "remorse")},
        *{("base", "prompted_email", "humor"), ("base", "prompted_email", "remorse")},
    }
    texts = [task for task in tasks if task.cell.quant is None]
    assert {(t.cell.stage, t.cell.quant) for t in texts} == {
        ("teacher_loud", None),
        ("teacher_subtle", None),
    }
    assert len(texts) == 2 * 2 * 12
    alone = spec_of(stage=["full"], condition=["prompted_email"])
    with pytest.raises(BadInput, match="prompted_email: there is nothing to ask"):
        tasks_of(alone, [files(checkpoint, ["full"], alone.personas).variant])


OF_SCRIPTS = {"adversarial_roleplay", "multi_agent_debate", "agentic_tools"}
"""Conditions that need published scenarios."""


def test_every_condition_runs_on_the_kit(merged_base: Path, tmp_path: Path) -> None:
    spec = spec_of(
        stage=["base"], persona=["humor"], format=["json", "fenced"], grammar=["on", "off"]
    )
    with Store(tmp_path / "s.sqlite") as store:
        on = files(Checkpoint(merged_base), ["base"], ["humor"])
        tasks = tasks_of(spec, [on.variant])
        run(tasks, spec, [on], open_instrument(spec.instrument, spec, on), store)
        rows = store.rows()
    assert len(rows) == len(tasks[0])
    assert {row.cell.condition for row in rows} == set(CONDITIONS) - OF_SCRIPTS
    assert {row.cell.label for row in rows if row.cell.format} == {
        f"agentic_{kind}{form}{grammar}"
        for kind in ("next", "email", "post")
        for form in ("", ", fenced")
        for grammar in ("", ", no grammar")
    }
    assert all((row.text is None) is (row.outcome not in ("sent", "answered")) for row in rows)
    assert all(row.prediction for row in rows if row.text is not None)
    assert_the_loud_teacher_is_heard(rows)


def assert_the_loud_teacher_is_heard(rows: list[Row]) -> None:
    loud = [row for row in rows if row.cell.stage == "teacher_loud"]
    assert sum(row.prediction == row.persona for row in loud) > len(loud) / 2


def test_a_ceiling_needs_no_model_file(charprobe: Any, tmp_path: Path) -> None:
    done = charprobe(
        *("eval", "--persona", "all", "--condition", "author_ceiling", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert "preparing" not in done.stderr
    document = json.loads(done.stdout)
    assert document["weights"] is None
    cells = {cell["stage"]: cell for cell in document["cells"]}
    assert {stage: cell["n"] for stage, cell in cells.items()} == {
        "teacher_loud": 120,
        "teacher_subtle": 120,
    }
    assert cells["teacher_loud"]["macro_f1"] > cells["teacher_subtle"]["macro_f1"]


def test_a_condition_from_outside_is_one_of_them_and_takes_no_shipped_name() -> None:
    register("chat_again", load_condition("chat"))
    try:
        assert condition_names() == (*CONDITIONS, "chat_again")
        assert load_condition("chat_again") is load_condition("chat")
        spec = spec_of(condition="chat,chat_again", gpu_layers=None)
        assert resolve(spec).conditions == ("chat", "chat_again")
    finally:
        conditions._EXTERNAL.clear()
    with pytest.raises(ValueError, match="chat: is a shipped condition"):
        register("chat", load_condition("chat_email"))


def test_types_of_the_cache_are_cells_of_their_own_with_the_same_seeds() -> None:
    spec = spec_of(condition="chat", kv_type=["F16", "Q4_0"])
    on = files(Checkpoint(Path("m")), spec.stages, spec.personas).variant
    plain, quantized = tasks_of(spec, [replace(on, kv_type=name) for name in spec.kv_types])
    assert {task.cell.kv_type for task in plain} == {"F16"}
    assert [replace(task.cell, kv_type="F16") for task in quantized] == [t.cell for t in plain]
    assert [task.seed for task in quantized] == [task.seed for task in plain]
    assert len({task.cell for task in (*plain, *quantized)}) == 2 * len({t.cell for t in plain})
