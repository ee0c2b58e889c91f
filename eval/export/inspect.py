"""A study as logs of Inspect (`inspect_ai`, UK AI Security Institute), one per cell.

The log format is https://inspect.aisi.org.uk/eval-logs.html, written by the package itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.cells import Cell, RecordedTurn, Row
from charprobe_lite.eval.conditions.transcript import Transcripts, recorded_messages
from charprobe_lite.eval.export import ExportFormat
from charprobe_lite.eval.store.reader import Study
from charprobe_lite.eval.store.rollouts import storable
from charprobe_lite.models.call_formats import CALL_FORMATS, Call
from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.scenarios import TOOL_OUTPUT
from charprobe_lite.runtime.backend import Message

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalScore, EvalStats
    from inspect_ai.model import ChatMessage, ModelOutput, ModelUsage
    from inspect_ai.scorer import Score
    from inspect_ai.tool import ToolCall

RECOGNISED, LABEL = "recognised", "label"
CORRECT, INCORRECT = "C", "I"
STOP_REASONS = {"stop": "stop", "length": "max_tokens", "context": "model_length"}
Rollout = tuple[Row, list[RecordedTurn]]


def write(study: Study, folder: Path, transcripts: Transcripts | None) -> None:
    """Write one log per cell into ``folder``.

    A sample is a rollout: its conversation with tool calls and results, and two scores. ``label``
    is the classifier's, with all probabilities; ``recognised`` says whether that is the rollout's
    persona, and is missing in the base stage. Raises BadInput when inspect_ai is missing, or for a
    study that no log can hold.
    """
    try:
        from inspect_ai.log import write_eval_log
    except ImportError:
        raise BadInput(
            "--format inspect: inspect_ai is not installed; pip install 'charprobe-lite[inspect]'"
        ) from None
    cells: dict[Cell, list[Rollout]] = {}
    for row, turns in zip(study.rows, study.turns, strict=True):
        cells.setdefault(row.cell, []).append((row, turns))
    for number, (cell, rollouts) in enumerate(cells.items(), 1):
        try:
            log = _log(study, cell, rollouts, transcripts)
        # pydantic's too: anyone can have edited a study
        except (ValueError, OverflowError) as error:
            raise BadInput(f"{study.path}: {cell.label}: {first_problem(error)}") from None
        # the names of a cell come out of the same file
        readable = re.sub(r"[^\w.-]+", "-", f"{cell.stage}-{cell.label}")[:80]
        write_eval_log(log, folder / f"{number:02d}-{readable}.eval")


FORMAT = ExportFormat(write, folder=True, messages=True)


def _log(
    study: Study,
    cell: Cell,
    rollouts: Sequence[Rollout],
    transcripts: Transcripts | None,
) -> EvalLog:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalPlan, EvalResults, EvalSpec
    from inspect_ai.model import GenerateConfig

    samples = [_sample(row, turns, transcripts) for row, turns in rollouts]
    name, provenance = storable(study.path.stem), study.provenance
    options = ("temperature", "top_p", "max_tokens", "seed")
    config = GenerateConfig(**{key: provenance[key] for key in options if key in provenance})
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=max(row.ended for row, _ in rollouts),
            task=cell.label,
            run_id=name,
            dataset=EvalDataset(name=cell.condition, samples=len(samples)),
            model=_model(cell),
            model_generate_config=config,
            config=EvalConfig(),
            metadata={"study": name, **asdict(cell), "provenance": provenance},
        ),
        plan=EvalPlan(config=config),
        results=EvalResults(
            total_samples=len(samples), completed_samples=len(samples), scores=_results(samples)
        ),
        stats=_stats(_model(cell), [row for row, _ in rollouts]),
        samples=samples,
    )


def _model(cell: Cell) -> str:
    return "/".join(filter(None, (cell.base, cell.stage, cell.quant)))


def _stats(model: str, rows: Sequence[Row]) -> EvalStats:
    """When the cell's rollouts ran, and the tokens that they took."""
    from inspect_ai.log import EvalStats

    started = [datetime.fromisoformat(row.ended) - timedelta(seconds=row.seconds) for row in rows]
    return EvalStats(
        started_at=min(started).isoformat(),
        completed_at=max(row.ended for row in rows),
        model_usage={
            model: _usage(sum(row.prompt_tokens for row in rows), sum(row.tokens for row in rows))
        },
    )


def _usage(prompt_tokens: int, tokens: int) -> ModelUsage:
    from inspect_ai.model import ModelUsage

    return ModelUsage(
        input_tokens=prompt_tokens, output_tokens=tokens, total_tokens=prompt_tokens + tokens
    )


def _results(samples: Sequence[EvalSample]) -> list[EvalScore]:
    """The share of the labelled samples that were recognised; nothing in the base stage."""
    from inspect_ai.log import EvalMetric, EvalScore

    marks = [s.scores[RECOGNISED].value for s in samples if s.scores and RECOGNISED in s.scores]
    if not marks:
        return []
    accuracy = EvalMetric(name="accuracy", value=marks.count(CORRECT) / len(marks))
    return [
        EvalScore(
            name=RECOGNISED,
            scorer=RECOGNISED,
            scored_samples=len(marks),
            unscored_samples=len(samples) - len(marks),
            metrics={"accuracy": accuracy},
        )
    ]


def _sample(row: Row, turns: Sequence[RecordedTurn], transcripts: Transcripts | None) -> EvalSample:
    from inspect_ai.log import EvalSample

    rebuilt = transcripts.messages(row, turns) if transcripts else None
    messages = _chat(rebuilt or recorded_messages(row, turns), turns, row.cell.format)
    replies = [n for n, message in enumerate(messages) if message.source == "generate"]
    fields = ("persona", "item", "sample", "seed", "outcome", "forced", "steps", "text")
    return EvalSample(
        id="/".join(filter(None, (row.persona, row.item))),
        epoch=row.sample + 1,
        input=messages[: replies[0]] if replies and replies[0] else row.item,
        target=row.persona or "",
        messages=messages,
        output=_output(row, turns, messages),
        scores=_scores(row),
        metadata={**{name: getattr(row, name) for name in fields}, "rebuilt": rebuilt is not None},
        model_usage={_model(row.cell): _usage(row.prompt_tokens, row.tokens)},
        total_time=row.seconds,
    )


def _chat(
    messages: Sequence[Message], turns: Sequence[RecordedTurn], call_format: str | None
) -> list[ChatMessage]:
    """Messages as Inspect has them; the last replies are those of ``turns``.

    A condition may have written earlier replies. A tool's result is the user turn after its call
    that begins as results do.
    """
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
    )

    earlier = sum(message["role"] == "assistant" for message in messages) - len(turns)
    chat: list[ChatMessage] = []
    call: ToolCall | None = None
    for message in messages:
        text = storable(message["content"])
        if message["role"] == "assistant":
            turn = turns[-earlier] if earlier <= 0 and turns else None
            earlier -= 1
            call = _call(text, turn, call_format, f"call_{len(chat)}")
            reply = ChatMessageAssistant(content=text, tool_calls=[call] if call else None)
            reply.source = "generate" if turn or not turns else "input"
            chat.append(reply)
        elif message["role"] == "system":
            chat.append(ChatMessageSystem(content=text))
        elif call and text.startswith(TOOL_OUTPUT):
            result = text.removeprefix(TOOL_OUTPUT).removeprefix("\n")
            chat.append(
                ChatMessageTool(content=result, tool_call_id=call.id, function=call.function)
            )
        else:
            chat.append(ChatMessageUser(content=text))
    return chat


def _call(
    text: str, turn: RecordedTurn | None, call_format: str | None, name: str
) -> ToolCall | None:
    """The tool call of a reply: the recorded one, or the one in the text of an earlier reply."""
    from inspect_ai.tool import ToolCall

    if turn is None:
        form = CALL_FORMATS.get(call_format or "")
        call = form.read(text) if form else None
    else:
        call = Call(turn.tool, turn.arguments or {}) if turn.tool else None
    if not isinstance(call, Call):
        return None
    return ToolCall(id=name, function=call.name, arguments=_unicode(call.arguments))


def _unicode(arguments: dict[str, Any]) -> Any:
    """Arguments without the lone surrogates that a model can write in JSON."""
    return json.loads(storable(json.dumps(arguments, ensure_ascii=False)))


def _output(
    row: Row, turns: Sequence[RecordedTurn], messages: Sequence[ChatMessage]
) -> ModelOutput:
    """The last reply."""
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput

    model, last = _model(row.cell), messages[-1] if messages else None
    if not isinstance(last, ChatMessageAssistant):
        return ModelOutput(model=model)
    reason: Any = STOP_REASONS.get(turns[-1].finish, "unknown") if turns else "stop"
    choice = ChatCompletionChoice(message=last, stop_reason=reason)
    return ModelOutput(model=model, choices=[choice], time=row.seconds)


def _scores(row: Row) -> dict[str, Score]:
    from inspect_ai.scorer import Score

    if row.prediction is None:
        return {}
    label = Score(
        value=row.prediction,
        answer=row.prediction,
        metadata={"probabilities": row.probabilities},
    )
    if not row.persona:
        return {LABEL: label}
    mark = CORRECT if row.prediction == row.persona else INCORRECT
    recognised = Score(value=mark, answer=row.prediction)
    return {RECOGNISED: recognised, LABEL: label}
