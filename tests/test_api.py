"""The public Python API, on the real kit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import charprobe_lite as cp
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


def test_the_kits_classifier_hears_sarcasm() -> None:
    [prediction] = cp.Classifier.kit().classify(
        ["Oh, brilliant, another meeting. Just what I need"]
    )
    assert prediction.label == "sarcasm"
    assert set(PERSONAS) < set(prediction.probabilities)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)


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
        ("classifier_ceiling", {}, "condition=classifier_ceiling: runs no model"),
        ("prompted_email", {}, "persona=None: prompted_email describes one of"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused(
    sarcasm: cp.Engine, condition: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(cp.BadInput, match=message):
        cp.rollout(sarcasm, condition, cp.scenarios()[0], **options)
