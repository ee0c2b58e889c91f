"""How many tokens a rollout may fill: the spec's number, or more where the scenarios need it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from charprobe_lite.convert.cached import Notify
from charprobe_lite.eval.conditions import calls_tools
from charprobe_lite.eval.conditions.condition import Item
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.study.grid import Task
from charprobe_lite.eval.study.rollouts import beginner
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.gguf_header import context_length
from charprobe_lite.models.published_scenarios import StubScenario
from charprobe_lite.models.scenarios import Scenario

AGENT_REPLIES = 2
"""Replies of full length that an agent gets room for: its calls are short, the last reply is not.
Of 1,050 agents of docs/results.md the longest wrote 382 tokens more than it could look up."""


@dataclass(frozen=True)
class Longest:
    """The item whose rollout needs most tokens: its prompt's, and all, as far as they are known."""

    item: str
    prompt: int
    total: int


def select_context(
    spec: StudySpec,
    tasks: Sequence[Sequence[Task]],
    provenance: Mapping[str, Any],
    model: Path | None,
    note: Notify,
) -> int:
    """Tokens that a rollout of a resolved spec may fill.

    A number that was given stays, as does that of a study that has begun. Otherwise the default
    grows where a scenario needs more, up to what ``model``, None on a server, was trained with.
    What does not fit is noted. Raises BadInput for a model that cannot be read.
    """
    if model is None:
        return spec.context
    longest = longest_rollout(spec, chain.from_iterable(tasks), model)
    context = _chosen(spec, provenance, longest, model)
    if longest.prompt >= context:
        note(
            f"{longest.item}: its prompt has {longest.prompt} tokens, --context is {context}; such "
            "rollouts end as context_full without a reply"
        )
    elif longest.total > context:
        note(
            f"{longest.item}: a rollout may need {longest.total} tokens, --context is {context}; "
            "one that does ends as context_full"
        )
    elif context > spec.context:
        note(f"--context {context}, as {longest.item} needs up to {longest.total} tokens")
    return context


def planned_context(spec: StudySpec, tasks: Sequence[Sequence[Task]], model: Path | None) -> int:
    """The same for a study that has not begun; ``model`` None also where it is not made yet."""
    if model is None or "context" in spec.model_fields_set:
        return spec.context
    return _grown(spec, longest_rollout(spec, chain.from_iterable(tasks), model), model)


def _chosen(spec: StudySpec, provenance: Mapping[str, Any], longest: Longest, model: Path) -> int:
    if "context" in spec.model_fields_set:
        return spec.context
    recorded = provenance.get("context")
    if type(recorded) is int and recorded >= spec.context:
        return recorded
    return _grown(spec, longest, model)


def _grown(spec: StudySpec, longest: Longest, model: Path) -> int:
    """What the longest rollout needs, within what the model was trained with."""
    from charprobe_lite.runtime.turn_length import rounded

    most = context_length(model) or spec.context
    return max(spec.context, min(most, rounded(longest.total)))


def longest_rollout(spec: StudySpec, tasks: Iterable[Task], model: Path) -> Longest:
    """The longest rollout of these tasks, each prompt and scenario counted once per condition.

    An agent's has all that its tools can answer, and `AGENT_REPLIES` replies.
    """
    from charprobe_lite.runtime.turn_length import TokenCounter  # a server needs no llama.cpp

    begin, longest = beginner(spec), Longest("", 0, 0)
    distinct = {
        (task.cell.condition, task.cell.format, task.item.id): task
        for task in tasks
        if task.cell.quant is not None
    }
    with TokenCounter(model, double_bos=spec.bos == "double") as counter:
        for task in distinct.values():
            prompt = counter.prompt(next(begin(task)).messages)
            is_agent = _looks_up(task.cell.condition)
            answers = tool_answers(task.item, spec) if is_agent else []
            replies = min(spec.steps, AGENT_REPLIES) if is_agent else 1
            total = prompt + sum(map(counter.text, answers)) + replies * spec.max_tokens
            if total > longest.total:
                longest = Longest(task.item.id, prompt, total)
    return longest


def _looks_up(condition: str) -> bool:
    """Whether its agents get answers of tools; the prompt of `agentic_next` has them all."""
    return calls_tools(condition) and condition != "agentic_next"


def tool_answers(item: Item, spec: StudySpec) -> list[str]:
    """What the tools of a scenario can answer, each answer once, as the protocol writes it."""
    if isinstance(item, StubScenario):
        write = load_protocol(spec.protocol).write_output
        return [write(rule.response) for stub in item.tool_stubs for rule in stub.rules]
    if isinstance(item, Scenario):
        contacts, documents = item.contacts, item.documents
        return [*(each.card() for each in contacts), *(each.card() for each in documents)]
    return []
