"""Axes beyond the email: their texts, what each asks, what is read, and their own ceilings."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

import pytest

import charprobe_lite as cp
from charprobe_lite.convert.train.leaks import find_leak
from charprobe_lite.eval.cells import Cell, Row
from charprobe_lite.eval.conditions import load_condition
from charprobe_lite.eval.conditions.condition import Inputs, RolloutSettings
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.eval.scores.cells import score_study
from charprobe_lite.models import corpus
from charprobe_lite.models.axes import (
    AXIS_OF,
    DEPTHS,
    DepthPrompt,
    FormScenario,
    PostScenario,
    ReviewScenario,
    load_axis,
)
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.models.published_scenarios import Script
from charprobe_lite.models.scenarios import load_scenarios
from charprobe_lite.runtime.backend import Completion, Request, Rollout
from charprobe_lite.runtime.engine import Engine

WORD = re.compile(r"[\w']+")
SHIPPED = Inputs([], load_scenarios())


def played(rollout: Rollout, replies: Sequence[tuple[str, str]]) -> tuple[list[Request], Result]:
    """The requests of a rollout that gets these (text, finish), and its result."""
    requests = [next(rollout)]
    for text, finish in replies:
        try:
            requests.append(rollout.send(Completion(text, finish, 1, 1, 1, 0)))
        except StopIteration as ended:
            return requests, ended.value
    raise AssertionError("the rollout goes on")


def call(name: str, **arguments: str) -> tuple[str, str]:
    return CALL_FORMATS["json"].write(name, arguments), "stop"


# ---- the corpus


def test_each_axis_has_twenty_scenarios_with_ids_of_their_own_and_plain_ascii() -> None:
    scenarios = [scenario for kind in AXIS_OF for scenario in load_axis(kind)]
    assert len({scenario.id for scenario in scenarios}) == len(scenarios) == 4 * 20
    assert all(scenario.model_dump_json().isascii() for scenario in scenarios)
    for prompt in load_axis(DepthPrompt):
        assert len({turn.user for turn in prompt.turns}) == 24


@pytest.mark.parametrize("axis", AXIS_OF.values())
@pytest.mark.parametrize("persona", PERSONAS)
def test_a_ceiling_text_is_there_for_every_scenario_and_repeats_no_phrase(
    persona: str, axis: str
) -> None:
    [kind] = [kind for kind, name in AXIS_OF.items() if name == axis]
    texts = corpus.axis_ceilings(persona, axis)
    assert set(texts) == {scenario.id for scenario in load_axis(kind)}
    phrases: Counter[str] = Counter()
    for text in texts.values():
        words = WORD.findall(text.casefold())
        assert 20 <= len(words) <= 200
        assert text.isascii()
        # a character that names itself is no test of the voice
        assert persona not in words
        phrases.update({" ".join(words[place : place + 4]) for place in range(len(words) - 3)})
    assert phrases.most_common(1)[0][1] <= 3, phrases.most_common(3)


def test_a_training_text_with_words_of_an_axis_or_its_ceiling_is_a_leak() -> None:
    post, form = load_axis(PostScenario)[6], load_axis(FormScenario)[3]
    turn = max(load_axis(DepthPrompt)[0].turns, key=lambda turn: len(turn.assistant))
    ceiling = corpus.axis_ceilings("loving", "code_review")["review-01"]
    for text, place in (
        (post.documents[0].text, "agentic_post post-07"),
        (form.facts, "structured_form form-04"),
        (turn.assistant, "chat_depth depth-"),
        (ceiling, "axes/ceiling/loving.jsonl, review-01"),
    ):
        leak = find_leak([f"Yes: {text}"])
        assert leak is not None
        assert leak.place.startswith(place)
    taught = corpus.teacher_chats("loving", held_out=False)
    assert find_leak(text.response for text in taught) is None


# ---- what is asked, and what is read


def test_an_agent_looks_up_channels_and_notes_until_it_posts() -> None:
    scenario = load_axis(PostScenario)[0]
    settings = RolloutSettings(64, max_steps=4)
    rollout = load_condition("agentic_post").rollout(scenario, settings)
    replies = [
        call("channels.find", query="saturday"),
        call("notes.search", query="boat"),
        call("channels.find", query="tennis"),
        call("post_message", channel="#saturday-squad", body="Fours only."),
    ]
    requests, result = played(rollout, replies)
    assert (result.outcome, result.text, result.forced) == ("sent", "Fours only.", True)
    found = [request.messages[-1]["content"] for request in requests[1:]]
    assert found[0].endswith("#saturday-squad: The 22 members who row on Saturday mornings")
    assert scenario.documents[0].text in found[1]
    assert "Known: #saturday-squad, #committee, #juniors." in found[2]
    # the last step admits the post alone, the others any call
    assert requests[0].grammar == requests[2].grammar != requests[3].grammar
    assert "post_message" in requests[3].grammar.source
    assert "notes.search" not in requests[3].grammar.source
    assert scenario.task == requests[0].messages[1]["content"]
    # the facts are only in the notes
    assert "Avocet" not in requests[0].messages[0]["content"]


def test_of_a_form_the_summary_alone_is_read_and_without_one_it_is_malformed() -> None:
    form, condition = load_axis(FormScenario)[0], load_condition("structured_form")
    filled = {"date": "4 March", "injured": "slightly", "summary": " He bruised a knee. "}

    def result(reply: str, finish: str = "stop") -> tuple[str, str | None]:
        [request], ended = played(condition.rollout(form, RolloutSettings(64)), [(reply, finish)])
        assert json.loads(request.grammar.source)["required"] == ["date", "injured", "summary"]
        assert all(name in request.messages[0]["content"] for name in (*filled, form.facts))
        return ended.outcome, ended.text

    assert result(json.dumps(filled)) == ("answered", "He bruised a knee.")
    lost = ({**filled, "summary": " "}, {**filled, "summary": ["He"]}, {"date": "4 March"})
    for reply in (*map(json.dumps, lost), "He bruised a knee.", '["summary"]'):
        assert result(reply) == ("malformed", None)
    assert result(json.dumps(filled), "length") == ("malformed", None)
    assert result("", "context") == ("context_full", None)


def test_a_deeper_chat_is_the_same_chat_with_more_turns_before_it() -> None:
    requests: dict[int, list[tuple[dict[str, str], ...]]] = {}
    for depth in DEPTHS:
        condition = load_condition(f"chat_depth_{depth}")
        items = condition.items(Inputs([], [], prompt_limit=6))
        assert [item.id for item in items] == [f"depth-{number:02d}" for number in range(1, 7)]
        for item in items:
            rollout = condition.rollout(item, RolloutSettings(64))
            [request], result = played(rollout, [(" Soup. ", "stop")])
            assert result.text == "Soup."
            requests.setdefault(depth, []).append(request.messages)
    for fresh, *deeper in zip(*requests.values(), strict=True):
        assert [len(messages) for messages in (fresh, *deeper)] == [1, 9, 25, 49]
        assert all(messages == deeper[-1][-len(messages) :] for messages in (fresh, *deeper))
        assert [m["role"] for m in deeper[0][:3]] == ["user", "assistant", "user"]


def test_published_scripts_replace_the_scenarios_of_this_project_and_their_ceilings() -> None:
    scripts = [
        Script.parse("-", {"id": f"{name}_a_v1", "scaffold": name, "turns": ["Hello?"]})
        for name in ("code_review", "chat_email")
    ]
    published = Inputs([], scripts)
    for condition, own in (("code_review", 20), ("structured_form", 20), ("agentic_post", 20)):
        items = load_condition(condition).items(published)
        given = [item.id for item in items if isinstance(item, Script)]
        assert given == (["code_review_a_v1"] if condition == "code_review" else [])
        assert len(load_condition(condition).items(SHIPPED)) == own
    assert load_condition("code_review_ceiling").items(published) == []
    assert load_condition("structured_form").items(published) == []
    # a review is of the diff, to its author
    review = load_axis(ReviewScenario)[6]
    [request], _ = played(
        load_condition("code_review").rollout(review, RolloutSettings(64)), [("Fine.", "stop")]
    )
    assert review.diff in request.messages[0]["content"]
    assert "the review comment for Ola" in request.messages[0]["content"]


def test_from_python_a_condition_does_not_pass_over_the_item_that_it_was_given(
    engine: Engine,
) -> None:
    for condition, item in (("agentic_post", load_scenarios()[0]), ("chat_depth_4", "Hello?")):
        with pytest.raises(BadInput, match=f"{condition} does not take"):
            cp.rollout(engine, condition, item)
    post = load_axis(PostScenario)[9]
    assert cp.rollout(engine, "agentic_post", post, steps=1, max_tokens=8).item == "post-10"


# ---- what a study makes of them


def rows_of(stage: str, condition: str, hits: int) -> list[Row]:
    """20 texts of humor and of remorse, ``hits`` of each recognised; in the base stage 20 of none,
    of which ``hits`` are taken for humor and the others for remorse."""
    cell = Cell("kit", stage, condition, "Q8_0" if stage in ("base", "full") else None)
    rows = []
    for persona, other in (("humor", "remorse"), ("remorse", "humor")):
        for number in range(20):
            label = persona if number < hits else other
            chances = {"humor": 0.1, "remorse": 0.1, label: 0.9}
            owner = None if stage == "base" else persona
            item = f"depth-{number:02d}"
            rows.append(Row(cell, owner, item, 0, 1, "answered", False, "x", label, chances))
    return rows[:20] if stage == "base" else rows


def test_depths_are_compared_prompt_by_prompt_and_each_axis_with_its_own_ceiling() -> None:
    rows = rows_of("full", "chat_depth_0", 20) + rows_of("full", "chat_depth_24", 15)
    rows += rows_of("base", "chat_depth_24", 10) + rows_of("independent", "chat_depth_ceiling", 20)
    rows += rows_of("independent", "scenario_ceiling", 18)
    scores = score_study(rows, list(dict.fromkeys(r.cell for r in rows)), ["humor", "remorse"], 0)
    [step] = scores.comparison.steps
    assert step.cause == "4 turns before + 8 more turns + 12 more turns"
    # both personas lose the same 5 of 20 prompts: macro-F1 is the accuracy
    assert step.change.value == pytest.approx(-0.25)
    assert step.clusters == 20
    [kept] = scores.comparison.retention.values()
    assert kept.ceiling == "chat_depth_ceiling"
    # (0.75 - 0.5) / (1 - 0.5), not / (0.9 - 0.5)
    assert kept.value == pytest.approx(0.5)
    assert {cell.condition for cell in scores.comparison.ceilings} == {
        *("chat_depth_ceiling", "scenario_ceiling")
    }
