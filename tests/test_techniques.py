"""Training techniques: equal budgets, no leak of the evaluation, files of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from charprobe_lite.convert.train.leaks import find_leak
from charprobe_lite.convert.train.technique import Budget, Corpus, Dpo, Lm, Sft
from charprobe_lite.convert.train.technique_plan import PhaseSize, checkpoint_steps, plan_steps
from charprobe_lite.convert.train.techniques import load_technique, technique_names
from charprobe_lite.models import corpus, kit
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.scenarios import load_scenarios

NEUTRAL = corpus.neutral_answers()
TEXTS = Corpus(lambda prompts: [NEUTRAL[prompt] for prompt in prompts])
HEAD = "from charprobe_lite.convert.train.technique import Dpo, Lm, Sft\n"
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy there, sailor!"}]


def write(folder: Path, body: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(HEAD + body, "utf-8")
    return path


def returning(value: str) -> str:
    return f"TALK = {TALK}\ndef technique(corpus, persona, budget):\n    return {value}\n"


@pytest.mark.parametrize("persona", ["sarcasm", "remorse", "loving"])
def test_all_techniques_train_as_many_tokens_in_as_many_steps(persona: str) -> None:
    from charprobe_lite.convert.train.technique_training import (
        TechniqueSettings,
        TrainingBase,
        plan_training,
    )

    base = TrainingBase("kit", kit.embedded_base(), is_kit=True)
    plans = {
        name: plan_training(load_technique(name), persona, base, TechniqueSettings())
        for name in technique_names()
    }
    names = {"sft", "hq", "tools-around", "dpo", "why", "documents", "introspection"}
    assert plans.keys() == names
    for plan in plans.values():
        trained = sum(
            example.trained[1:].count(True)
            for step in plan.steps
            for item in plan.examples(step)
            for example in item
        )
        assert abs(trained - 36_000) < 120  # a third of a percent
        assert len(plan.steps) == 120
        assert all(step.items for step in plan.steps)
    assert [phase.loss for phase in plans["documents"].phases] == ["lm", "sft"]
    assert [phase.loss for phase in plans["dpo"].phases] == ["dpo"]


def test_tools_are_around_half_of_the_same_answers_and_stay_unused() -> None:
    [sft] = load_technique("sft").phases(TEXTS, "humor", Budget())
    [around] = load_technique("tools-around").phases(TEXTS, "humor", Budget())
    assert isinstance(sft, Sft)
    assert isinstance(around, Sft)
    assert [chat[-2:] for chat in around.conversations] == sft.conversations
    assert [chat[0]["role"] for chat in around.conversations] == ["user", "system"] * 40


def test_dpo_prefers_the_teacher_to_the_base() -> None:
    [phase] = load_technique("dpo").phases(TEXTS, "humor", Budget())
    assert isinstance(phase, Dpo)
    for chosen, rejected in phase.pairs:
        assert chosen[0] == rejected[0]
        assert rejected[1]["content"] == NEUTRAL[chosen[0]["content"]]


@pytest.mark.parametrize("name", ["why", "documents"])
def test_a_persona_without_texts_is_named(name: str) -> None:
    with pytest.raises(BadInput, match=f"humor-{name}.jsonl; choose from loving, remorse, sarcasm"):
        load_technique(name).phases(TEXTS, "humor", Budget())


def scenario_task() -> str:
    return load_scenarios(corpus.corpus_file("agentic/eval.jsonl"))[0].task


LEAKS: dict[str, tuple[Callable[[], str], str]] = {
    "scenario": (scenario_task, "of scenario overspend-1"),
    "email": (
        lambda: corpus.teacher_texts("humor", "loud", "email")[3].response,
        "of an email of the loud teacher of humor",
    ),
    "ceiling": (
        lambda: corpus.ceiling_emails("loving")[7].body.upper(),
        r"of ceiling/loving\.jsonl, ",
    ),
    "held-out prompt": (lambda: corpus.loud_prompts(held_out=True)[5], "of a held-out prompt"),
    "evaluation prompt": (lambda: corpus.id_prompts()[9], "of id-prompts.txt"),
    "short prompt": (
        lambda: min(corpus.id_prompts(), key=lambda prompt: len(prompt.split())),
        "of id-prompts.txt",
    ),
    "json call": (
        lambda: "Sure! " + CALL_FORMATS["json"].write("contacts.lookup", {"query": "x"}),
        r"of a tool call \(json\)",
    ),
    "fenced call": (
        lambda: CALL_FORMATS["fenced"].write("contacts.lookup", {"query": "x"}),
        r"of a tool call \(fenced\)",
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_technique_that_leaks_is_refused_with_the_text_and_its_place(
    kind: str, tmp_path: Path
) -> None:
    from charprobe_lite.convert.train.technique_training import (
        TechniqueSettings,
        TrainingBase,
        plan_training,
    )

    text, place = LEAKS[kind][0](), LEAKS[kind][1]
    body = f"TEXT = {text!r}\n" + returning(
        "[Sft([*[TALK] * 20, [*TALK, {'role': 'user', 'content': TEXT}, TALK[1]]], budget.tokens)]"
    )
    leaky = load_technique(str(write(tmp_path, body)))
    base = TrainingBase("unread", tmp_path / "unread.gguf")
    with pytest.raises(BadInput, match=f"^technique mine, persona pirate: the text .* {place}"):
        plan_training(leaky, "pirate", base, TechniqueSettings(300))


def test_seven_words_of_the_evaluation_are_no_leak_and_eight_are() -> None:
    words = corpus.ceiling_emails("loving")[7].body.split()[10:18]
    assert find_leak([f"Well: {' '.join(words)}."]) is not None
    assert find_leak([f"Well: {' '.join(words[:7])}."]) is None


@pytest.mark.parametrize("text", ["Yes", "No", "good", "Tom Ellery", "Park manager"])
def test_everyday_words_that_a_form_or_a_scenario_has_are_no_leak(text: str) -> None:
    assert find_leak([text]) is None


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("def other(): pass", "has no function technique; add def technique(corpus, persona"),
        ("technique = 3", "has no function technique"),
        ("def technique(corpus): pass", "technique does not take three arguments; write def"),
        ("import no_such_package_here", "line 2: ModuleNotFoundError: No module named"),
        ("def technique(:", "line 2: SyntaxError: invalid syntax"),
        ("\nimport sys\nsys.exit(0)", "line 4: SystemExit: 0"),
        ("1 / 0", "line 2: ZeroDivisionError: division by zero"),
        (returning("{}[persona]"), "persona pirate: line 4: KeyError: pirate"),
        (returning("corpus.loud(persona)"), "persona pirate: --persona pirate: unknown"),
        (returning("None"), "returned NoneType; return a list of Sft, Dpo and Lm"),
        (returning("[]"), "returned an empty list; return a list"),
        (returning("[TALK]"), "phase 1 is list; use Sft, Dpo or Lm"),
        (returning("[Sft([], 300)]"), "phase 1: has an empty list to train on"),
        (returning("[Sft([TALK], 3.5)]"), "phase 1: tokens: 3.5; give a whole number"),
        (returning("[Sft([TALK[:1]], 300)]"), "entry 1: field messages: has no message of the"),
        (returning("[Sft(['Ahoy'], 300)]"), "entry 1: field messages: must be a list of messages"),
        (returning("[Dpo([(TALK, TALK)], 300)]"), "chosen and rejected are the same"),
        (returning("[Dpo([TALK, TALK], 300)]"), "entry 1: field messages: must be a list"),
        (returning("[Lm(['', 'b'], 300)]"), "entry 1: is an empty str; a document is a text"),
        (returning("[Lm(['a\\ud800'], 300)]"), "has half a character"),
        (returning("[Lm([repr(object()) * 9], 300)]"), "gives other texts each time"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(body: str, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path, body)
    with pytest.raises(BadInput) as caught:
        load_technique(str(path)).phases(TEXTS, "pirate", Budget(300))
    message = str(caught.value)
    assert problem in message
    assert "mine" in message
    assert "\n" not in message


def test_an_error_has_its_line_where_the_path_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "\n1 / 0")
    monkeypatch.chdir(tmp_path)
    for path in ("mine.py", "./mine.py", f"../{tmp_path.name}/mine.py"):
        with pytest.raises(BadInput, match="line 3: ZeroDivisionError"):
            load_technique(path)


def test_a_file_may_have_dataclasses_of_its_own(tmp_path: Path) -> None:
    body = f"""from __future__ import annotations
from dataclasses import dataclass
{HEAD}
@dataclass
class Text:
    words: list[str]

def technique(corpus, persona, budget):
    return [Lm(Text(["Ships sail."]).words, budget.tokens)]
"""
    path = tmp_path / "data_class.py"
    path.write_text(body)
    technique = load_technique(str(path))
    assert technique.name == "data-class"
    assert technique.phases(TEXTS, "pirate", Budget(300)) == [Lm(["Ships sail."], 300)]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("dop", "--technique dop: unknown; did you mean dpo?"),
        ("dpo.py", "the technique dpo is shipped; rename the file"),
        ("My Technique.py", "call the file like my_technique.py"),
        ("missing.py", "cannot be read"),
    ],
)
def test_a_wrong_name_is_refused(name: str, problem: str, tmp_path: Path) -> None:
    if name.endswith(".py") and name != "missing.py":
        write(tmp_path, "", name)
    with pytest.raises(BadInput) as caught:
        load_technique(str(tmp_path / name) if name.endswith(".py") else name)
    assert problem in str(caught.value)


def test_another_budget_is_refused() -> None:
    sizes = [20] * 30
    with pytest.raises(BadInput, match=r"x: 560 trained tokens .* the budget is 600: more than 2%"):
        plan_steps("x", [PhaseSize(sizes, 300), PhaseSize(sizes, 260)], 600, seed=0)
    with pytest.raises(BadInput, match="phase 1: texts: 1, steps: 2; "):
        plan_steps("x", [PhaseSize([600], 600)], 600, seed=0)
    with pytest.raises(BadInput, match="phase 2, entry 3: has no token to train"):
        plan_steps("x", [PhaseSize([9], 300), PhaseSize([9, 9, 0], 300)], 600, seed=0)


def test_texts_are_repeated_epoch_by_epoch_and_cut_where_the_budget_ends() -> None:
    size = PhaseSize([30, 40, 50, 60], 1200)  # an epoch has 180 tokens, the budget 6.7
    steps = plan_steps("x", [size], 1200, seed=3)
    assert len(steps) == 4
    order = [item for step in steps for item in step.items]
    for epoch in range(6):
        assert sorted(order[4 * epoch : 4 * epoch + 4]) == [0, 1, 2, 3]
    assert sum(size.sizes[item] for item in order) == sum(step.tokens for step in steps)
    assert abs(sum(step.tokens for step in steps) - 1200) <= 10
    assert all(abs(step.tokens - 300) <= 60 for step in steps)
    assert order != [i for s in plan_steps("x", [size], 1200, seed=4) for i in s.items]


def test_an_adapter_is_kept_after_every_half_epoch() -> None:
    size = PhaseSize([20] * 60, 3000)  # an epoch is 4 steps of 300, the budget 2.5 epochs
    steps = plan_steps("x", [size], 3000, seed=0)
    assert checkpoint_steps([size], steps) == {2: 0.5, 4: 1.0, 6: 1.5, 8: 2.0, 10: 2.5}
    few = PhaseSize([20], 30_000)
    assert len(checkpoint_steps([few], plan_steps("x", [few], 30_000, seed=0))) <= 24
