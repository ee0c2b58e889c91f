"""The public Python API, on the real kit."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import charprobe_lite as cp
from charprobe_lite.models.kit import kit_folder
from charprobe_lite.models.personas import PERSONAS

HEAVY = {"torch", "llama_cpp", "numpy", "pydantic", "onnxruntime", "pandas", "click"}


@pytest.fixture(scope="module")
def sarcasm(merged_base: Path) -> Iterator[cp.Engine]:
    with cp.Engine.kit("sarcasm", parallel=1) as engine:
        yield engine


# ---- the package


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, charprobe_lite\n"
        f"loaded = {HEAVY!r} & set(sys.modules)\n"
        "rooms = [name for name in sys.modules if name.startswith('charprobe_lite.')]\n"
        "sys.exit(str((loaded, rooms)) if loaded or rooms else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_loads_and_has_a_docstring() -> None:
    assert set(cp.__all__) == set(dir(cp))
    for name in set(cp.__all__) - {"__version__"}:
        assert getattr(cp, name).__doc__, name
    with pytest.raises(AttributeError, match="run_studies"):
        _ = cp.run_studies


# ---- the classifier and the engine


@pytest.mark.parametrize("instrument", [cp.Ensemble, cp.Classifier, cp.NgramClassifier])
def test_the_kits_instruments_hear_sarcasm(instrument: Any) -> None:
    [prediction] = instrument.kit().classify(["Oh, brilliant, another meeting. Just what I need"])
    assert prediction.label == "sarcasm"
    assert set(PERSONAS) < set(prediction.probabilities)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("instrument", [cp.Ensemble, cp.Classifier, cp.NgramClassifier])
def test_an_instrument_takes_a_list_of_texts_alone(instrument: Any) -> None:
    model = instrument.kit()
    with pytest.raises(cp.BadInput, match="texts: is one text; give a list of texts"):
        model.classify("Oh, brilliant, another meeting.")
    with pytest.raises(cp.BadInput, match="texts: number 2: is NoneType, no text"):
        model.classify(["Oh", None])
    assert model.classify([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"persona": "sarcams"}, "persona=sarcams: .* did you mean sarcasm?"),
        ({"stage": "fulll"}, "stage=fulll: .* did you mean full?"),
        ({"quant": "Q4"}, "quant=Q4: "),
    ],
)
def test_an_unknown_name_of_the_kit_is_named_as_the_argument(
    options: dict[str, str], message: str
) -> None:
    with pytest.raises(cp.BadInput, match=message):
        cp.Engine.kit(**options)


# ---- rollouts


def test_a_rollout_has_its_turns_and_the_whole_conversation(sarcasm: cp.Engine) -> None:
    scenario = cp.scenarios()[0]
    record = cp.rollout(sarcasm, "agentic_email", scenario, seed=1, max_tokens=160, steps=3)
    assert (record.condition, record.item, record.seed) == ("agentic_email", scenario.id, 1)
    assert (record.outcome == "sent") == (record.text is not None)
    assert [turn.tool is not None for turn in record.turns[:-1]] == [True] * (len(record.turns) - 1)
    assert [message["role"] for message in record.messages] == [
        "system",
        *["user", "assistant"] * len(record.turns),
    ]
    replies = [m["content"] for m in record.messages if m["role"] == "assistant"]
    assert replies == [turn.text for turn in record.turns]
    outputs = [m["content"] for m in record.messages if m["role"] == "user"][1:]
    assert outputs == [f"[TOOL OUTPUT]\n{turn.output}" for turn in record.turns[:-1]]


def test_the_same_seed_gives_the_same_rollout_whatever_ran_before(sarcasm: cp.Engine) -> None:
    prompt = cp.prompts()[0]
    first = cp.rollout(sarcasm, "chat", prompt, seed=3, max_tokens=48)
    other = cp.rollout(sarcasm, "chat", prompt, seed=4, max_tokens=48)
    assert cp.rollout(sarcasm, "chat", prompt, seed=3, max_tokens=48) == first
    assert other.text != first.text
    assert cp.rollout(sarcasm, "chat", prompt.text, seed=3, max_tokens=48).text == first.text


def test_break_character_and_prompted_email_get_what_they_need(sarcasm: cp.Engine) -> None:
    prompt, scenario = cp.prompts()[0], cp.scenarios()[0]
    broken = cp.rollout(sarcasm, "break_character", prompt, max_tokens=8)
    assert broken.messages[0]["content"].startswith(prompt.text)
    assert broken.item == f"{prompt.id}+1"
    played = cp.rollout(sarcasm, "prompted_email", scenario, persona="humor", max_tokens=8)
    assert "Keep this up in every email" in played.messages[0]["content"]


@pytest.mark.parametrize(
    ("condition", "options", "message"),
    [
        ("chats", {}, "condition=chats: .* did you mean chat?"),
        ("chat", {}, "item=overspend-1: chat does not take"),
        ("agentic_email", {"format": "jsn"}, "format=jsn: .* did you mean json?"),
        ("author_ceiling", {}, "condition=author_ceiling: runs no model"),
        ("prompted_email", {}, "persona=None: prompted_email describes one of"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused(
    sarcasm: cp.Engine, condition: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(cp.BadInput, match=message):
        cp.rollout(sarcasm, condition, cp.scenarios()[0], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -5}, "seed=-5: give a whole number from 0"),
        ({"max_tokens": 0}, "max_tokens=0: give a whole number from 1"),
        ({"steps": 2.5}, "steps=2.5: give a whole number from 1"),
        ({"item": None}, "item=None: is no prompt and no scenario"),
    ],
)
def test_an_argument_of_a_rollout_that_is_out_of_range_is_refused(
    sarcasm: cp.Engine, options: dict[str, Any], message: str
) -> None:
    arguments = {"item": "Hello?", **options}
    with pytest.raises(cp.BadInput, match=message):
        cp.rollout(sarcasm, "chat", **arguments)


def test_a_closed_engine_refuses_and_does_not_end_the_process(base_gguf: Path) -> None:
    with cp.Engine(base_gguf, parallel=1, context=128) as engine:
        pass
    engine.close()
    closed = pytest.raises(RuntimeError, match="the engine is closed; open another one")
    for use in (
        lambda: cp.rollout(engine, "chat", "Hello?", max_tokens=8),
        lambda: engine.use_adapter(None),
        lambda: list(engine.run([])),
        lambda: engine.takes_system,
        engine.clear,
    ):
        with closed:
            use()


# ---- studies


@pytest.fixture(scope="module")
def study(merged_base: Path, tmp_path_factory: pytest.TempPathFactory) -> cp.Study:
    return cp.run_study(
        persona=["sarcasm", "humor"],
        stage="base,full",
        condition="chat,chat_email",
        limit=(2, 1),
        max_tokens=48,
        parallel=4,
        study=tmp_path_factory.mktemp("study") / "two.sqlite",
        progress=False,
    )


def test_a_study_is_read_as_tables(study: cp.Study) -> None:
    rollouts = study.rollouts()
    assert len(rollouts) == (2 + 1) * (1 + 2)  # the base stage is shared by both personas
    assert set(rollouts["outcome"]) <= {"answered", "context_full"}
    turns = study.turns()
    assert list(turns["turn"]) == [1] * len(rollouts)
    assert list(turns["text"].str.strip()) == list(rollouts["text"])
    scores = study.scores()
    assert list(zip(scores["stage"], scores["condition"], strict=True)) == [
        *[("base", "chat"), ("base", "chat_email"), ("full", "chat"), ("full", "chat_email")]
    ]
    assert (scores["estimate"] == scores["macro_f1"]).all()
    assert (scores["ci_low"] <= scores["estimate"]).all()
    assert (scores["estimate"] <= scores["ci_high"]).all()
    assert len(study.per_persona()) == 4 * 2
    gap = study.gap()
    assert list(gap["cause"]) == ["email form"] * 2
    full = scores[scores["stage"] == "full"]["macro_f1"]
    assert gap["estimate"].iloc[1] == pytest.approx(full.iloc[1] - full.iloc[0])


def test_a_study_knows_its_spec_and_opens_again(study: cp.Study) -> None:
    again = cp.open_study(str(study.path))
    assert again.spec.personas == ("sarcasm", "humor")
    assert again.rollouts().equals(study.rollouts())
    assert "sarcasm,humor" in again._repr_html_()


def test_a_study_is_exported_and_scored_as_texts(study: cp.Study, tmp_path: Path) -> None:
    [file] = study.export("csv", tmp_path / "rollouts.csv")
    with file.open(newline="") as text:
        assert len(list(csv.DictReader(text))) == len(study.rollouts())
    cell = ["stage", "condition"]
    texts = cp.score_texts(study.rollouts()).set_index(cell)
    cells = study.scores().set_index(cell).loc[texts.index]
    assert list(texts["n"]) == list(cells["n"])
    assert list(texts["macro_f1"]) == pytest.approx(list(cells["macro_f1"]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"persona": "sarcsm"}, "persona=sarcsm: .*sarcasm"),
        ({"personas": "sarcasm"}, "personas: unknown; did you mean persona?"),
        ({"persona": "sarcasm", "limit": (0, 1)}, "limit.prompts: "),
        ({"persona": "sarcasm", "max_tokens": 0}, "max_tokens: "),
        ({"persona": "sarcasm", "shard": "3/2"}, "shard"),
        ({"persona": "sarcasm", "texts": 2}, "quant=Q8_0|quant: needs F16"),
        ({"persona": "sarcasm", "model": "x"}, "model: is for a server; add backend=openai"),
    ],
)
def test_a_study_that_cannot_be_is_refused_with_the_argument(
    spec: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(cp.BadInput, match=message):
        cp.run_study(**spec, study=tmp_path / "none.sqlite", progress=False)
    assert not (tmp_path / "none.sqlite").exists()


def test_a_missing_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(cp.BadInput, match="no such study"):
        cp.open_study(tmp_path / "none.sqlite")


# ---- conversions


def test_a_persona_is_merged_and_quantized_from_python(base_gguf: Path, tmp_path: Path) -> None:
    adapter = kit_folder() / "sarcasm-full.gguf"
    merged = cp.merge_lora(base_gguf, str(adapter), tmp_path / "sarcasm.gguf")
    assert merged.path == tmp_path / "sarcasm.gguf"
    assert merged.agreement is not None
    assert merged.agreement.top1 > 0.9
    small = cp.quantize(merged.path, "Q4_0")
    assert small.path == tmp_path / "sarcasm-Q4_0.gguf"
    assert small.bytes < merged.bytes / 2
    with pytest.raises(cp.BadInput, match="quant=Q99"):
        cp.quantize(merged.path, "Q99")
