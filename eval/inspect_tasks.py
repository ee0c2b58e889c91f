"""Inspect tasks, one per condition, so that every provider of Inspect can be probed.

    inspect eval charprobe_lite/agentic_email -T persona=sarcasm --model openai/gpt-4o-mini

Prompts, tool simulator and step rules are the condition's; Inspect (`inspect_ai`, UK AI Security
Institute) runs the model, and keeps the log. Tasks are found by the entry point of this package.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ResponseSchema,
    get_model,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, mean, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import JSONSchema

from charprobe_lite.eval.conditions import condition_names, load_condition
from charprobe_lite.eval.conditions.condition import Condition, Inputs, Item, RolloutSettings
from charprobe_lite.eval.protocols import load_protocol
from charprobe_lite.eval.protocols.outcome import Result
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.stats.classification import wilson_share
from charprobe_lite.eval.study.grid import rollout_seed
from charprobe_lite.eval.texts.card import open_classifier
from charprobe_lite.models import defaults
from charprobe_lite.models.axes import AxisScenario
from charprobe_lite.models.call_formats import CALL_FORMATS
from charprobe_lite.models.catalogue import ENSEMBLE, MINILM, NGRAM, STAGES
from charprobe_lite.models.errors import BadInput, require_known
from charprobe_lite.models.prompts import load_prompts, prompt_file
from charprobe_lite.models.published_scenarios import load_any_scenarios
from charprobe_lite.models.tools import load_tools
from charprobe_lite.runtime.backend import Completion, Finish, Message, Request, turn_seed

FINISH: dict[str, Finish] = {"max_tokens": "length", "model_length": "context"}
OUTCOME, TEXT, FORCED = "outcome", "text", "forced"
opened = cache(open_classifier)  # tasks of one command share what they read with
KEYWORDS = {"oneOf": "anyOf"}
"""What Inspect's subset of JSON schema calls by another name."""


def probe(
    condition: str,
    persona: str,
    instrument: str = f"{ENSEMBLE},{MINILM},{NGRAM}",
    classifier: str | None = None,
    prompts: str | None = None,
    scenarios: str | None = None,
    format: str = "json",
    grammar: bool = True,
    steps: int = defaults.MAX_STEPS,
    max_tokens: int = defaults.MAX_TOKENS,
    seed: int = 0,
    protocol: str = "lite",
) -> Task:
    """The task of a condition: how often texts are in the voice of ``persona``.

    ``instrument`` names one or more of the kit's; ``classifier`` is the folder of another one.
    ``prompts`` and ``scenarios`` are files of one's own. ``grammar`` asks for replies that fit the
    tools' JSON schema, where the provider can do that. Raises BadInput.
    """
    record = load_condition(condition)
    require_known("format", format, CALL_FORMATS)
    rules = load_protocol(protocol)
    settings = RolloutSettings(
        *(max_tokens, steps, load_tools()),
        persona=persona,
        format=format,
        grammar="on" if grammar else "off",
        protocol=rules,
    )
    inputs = Inputs(
        load_prompts(prompt_file(prompts)),
        load_any_scenarios(Path(scenarios) if scenarios else None),
        protocol=rules,
    )
    items = {item.id: item for item in record.items(inputs)}
    names = [classifier] if classifier else [name.strip() for name in instrument.split(",")]
    return Task(
        dataset=MemoryDataset([_sample(item, persona) for item in items.values()], condition),
        solver=in_condition(condition, record, items, settings, seed),
        scorer=[*(speaks_as(name, persona) for name in names), ends_with_text()],
        config=GenerateConfig(
            temperature=defaults.TEMPERATURE, top_p=defaults.TOP_P, max_tokens=max_tokens
        ),
        metadata={"condition": condition, "persona": persona, "protocol": protocol, "seed": seed},
    )


def _sample(item: Item, persona: str) -> Sample:
    if isinstance(item, AxisScenario):
        return Sample(id=item.id, input=item.request(), target=persona)
    text = getattr(item, "text", None) or getattr(item, "task", None) or item.id
    return Sample(id=item.id, input=str(text), target=persona)


@solver
def in_condition(
    condition: str,
    record: Condition,
    items: dict[str, Item],
    settings: RolloutSettings,
    seed: int,
) -> Solver:
    """Runs the condition's rollout; its requests go to Inspect's model.

    A rollout has its own seed, which each turn's is derived from, for providers that take one.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        name, number = str(state.sample_id), state.epoch - 1
        start = rollout_seed(seed, condition, item=name, sample=number)
        rollout, completion, turn = record.rollout(items[name], settings), None, 0
        while True:
            try:
                request = next(rollout) if completion is None else rollout.send(completion)
            except StopIteration as stop:
                _keep(state, stop.value)
                return state
            state.messages = [*map(_chat_message, request.messages)]
            completion = await _complete(state, get_model(), request, turn_seed(start, turn))
            turn += 1

    return solve


async def _complete(state: TaskState, model: Model, request: Request, seed: int) -> Completion:
    config = GenerateConfig(max_tokens=request.max_tokens, seed=seed)
    if request.grammar and request.grammar.notation == "json_schema":
        schema = JSONSchema.model_validate(_subset(json.loads(request.grammar.source)))
        config.response_schema = ResponseSchema(name="tool_call", json_schema=schema)
    state.output = await model.generate(state.messages, config=config)
    state.messages.append(state.output.message)
    usage = state.output.usage
    return Completion(
        text=state.output.completion,
        finish=FINISH.get(state.output.stop_reason, "stop"),
        prompt_tokens=usage.input_tokens if usage else 0,
        evaluated_tokens=usage.input_tokens if usage else 0,
        tokens=usage.output_tokens if usage else 0,
        seconds=state.output.time or 0.0,
    )


def _keep(state: TaskState, result: Result) -> None:
    """What the scorers read: the text, if there is one, and how the rollout ended."""
    state.metadata |= {OUTCOME: str(result.outcome), FORCED: result.forced, TEXT: result.text}


def _chat_message(message: Message) -> ChatMessage:
    kinds = {"system": ChatMessageSystem, "assistant": ChatMessageAssistant}
    return kinds.get(message["role"], ChatMessageUser)(content=message["content"])


def _subset(schema: Any) -> Any:
    """A JSON schema in the keywords that Inspect has: a constant is a choice of one."""
    if isinstance(schema, list):
        return [_subset(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {KEYWORDS.get(key, key): _subset(value) for key, value in schema.items()}
    if "const" in found:
        value = found.pop("const")
        found |= {"type": "string" if isinstance(value, str) else found.get("type")}
        found["enum"] = [value]
    return found


def _metric(read: Callable[[Estimate], float], name: str, meaning: str) -> Callable[..., Metric]:
    def make() -> Metric:
        # Inspect reads the annotation: without it a metric gets plain scores
        def compute(scores: list[SampleScore]) -> float:
            return read(_share(scores))

        return compute

    make.__name__, make.__doc__ = name, meaning
    return metric(name=name)(make)


detected = _metric(lambda share: share.value, "detected", "The share of texts in the voice.")
low = _metric(lambda share: share.low, "low", "The low end of the share's 95% interval.")
high = _metric(lambda share: share.high, "high", "The high end of the share's 95% interval.")


def _share(scores: Sequence[SampleScore]) -> Estimate:
    """With Wilson's interval; where epochs make means of samples, with Student's."""
    values = _values(scores)
    if not values:
        return Estimate(math.nan, math.nan, math.nan)
    if set(values) <= {0.0, 1.0}:
        return wilson_share(int(sum(values)), len(values))
    from scipy.stats import t

    level, spread = fmean(values), stdev(values) if len(values) > 1 else 0.5
    reach = t.ppf(0.975, max(1, len(values) - 1)) * spread / math.sqrt(len(values))
    return Estimate(level, max(0.0, level - reach), min(1.0, level + reach))


def _values(scores: Sequence[SampleScore]) -> list[float]:
    values = [each.score.as_float() for each in scores]
    return [value for value in values if not math.isnan(value)]


@scorer(metrics=[mean()])
def ends_with_text() -> Scorer:
    """1 where a rollout ended with a text: of agents, where an email was sent."""

    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=float(state.metadata.get(TEXT) is not None))

    return score


@scorer(metrics=[detected(), low(), high()])
def speaks_as(instrument: str, persona: str) -> Scorer:
    """1 where an instrument names the persona of a rollout's text, NaN without a text."""
    reader = opened(instrument)
    if persona not in reader.labels:
        raise BadInput(f"persona {persona}: {instrument} knows {', '.join(reader.labels)}")

    async def score(state: TaskState, target: Target) -> Score:
        text, kept = state.metadata.get(TEXT), {OUTCOME: state.metadata.get(OUTCOME)}
        if text is None:
            return Score(value=math.nan, explanation="ended without a text", metadata=kept)
        [prediction] = reader.classify([text])
        kept |= {"probabilities": prediction.probabilities}
        value = float(prediction.label == persona)
        return Score(value=value, answer=prediction.label, explanation=text, metadata=kept)

    return score


def _task_of(condition: str) -> Callable[..., Task]:
    def condition_task(persona: str, **options: Any) -> Task:
        return probe(condition, persona, **options)

    condition_task.__name__ = condition
    condition_task.__doc__ = f"The condition {condition}: see `probe` for its options."
    return task(name=condition)(condition_task)


for _name in condition_names():
    _stages = load_condition(_name).stages
    if not _stages or set(_stages) & set(STAGES):  # the others run no model
        globals()[_name] = _task_of(_name)
