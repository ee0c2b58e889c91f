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
from charprobe_lite.eval.store.database import storable
from charprobe_lite.eval.store.reader import Study
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


def write_logs(study: Study, transcripts: Transcripts, folder: Path) -> list[str]:
    """Write one log per cell into ``folder``; gives the names of the files.

    A sample is a rollout: its conversation with tool calls and results, and two scores. ``label``
    is what the classifier says, with all probabilities; ``recognised`` whether that is the
    rollout's persona, which base-stage rollouts have none of. Raises BadInput when inspect_ai is
    missing, or for a study that no log can hold.
    """
    try:
        from inspect_ai.log import write_eval_log
    except ImportError:
        raise BadInput(
            "--format inspect: inspect_ai is not installed; pip install 'charprobe-lite[inspect]'"
        ) from None
    cells: dict[Cell, list[tuple[Row, list[RecordedTurn]]]] = {}
    for row, turns in zip(study.rows, study.turns, strict=True):
        cells.setdefault(row.cell, []).append((row, turns))
    names = []
    for number, (cell, rollouts) in enumerate(cells.items(), 1):
        try:
            log = _log(study, cell, rollouts, transcripts)
        # pydantic's too: anyone can have edited a study
        except (ValueError, OverflowError) as error:
            raise BadInput(f"{study.path}: {cell.label}: {first_problem(error)}") from None
        # the names of a cell come out of the same file
        readable = re.sub(r"[^\w.-]+", "-", f"{cell.stage}-{cell.label}")[:80]
        names.append(f"{number:02d}-{readable}.eval")
        write_eval_log(log, folder / names[-1])
    return names


def _log(
    study: Study,
    cell: Cell,
    rollouts: Sequence[tuple[Row, list[RecordedTurn]]],
    transcripts: Transcripts,
) -> EvalLog:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalPlan, EvalResults, EvalSpec
    from inspect_ai.model import GenerateConfig

    samples = [_sample(row, turns, transcripts) for row, turns in rollouts]
    name, known = storable(study.path.stem), study.provenance
    asked = ("temperature", "top_p", "max_tokens", "seed")
    config = GenerateConfig(**{each: known[each] for each in asked if each in known})
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
            metadata={"study": name, **asdict(cell), "provenance": known},
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

    begun = [datetime.fromisoformat(row.ended) - timedelta(seconds=row.seconds) for row in rows]
    return EvalStats(
        started_at=min(begun).isoformat(),
        completed_at=max(row.ended for row in rows),
        model_usage={
            model: _usage(sum(row.prompt_tokens for row in rows), sum(row.tokens for row in rows))
        },
    )


def _usage(read: int, written: int) -> ModelUsage:
    from inspect_ai.model import ModelUsage

    return ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written)


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


def _sample(row: Row, turns: Sequence[RecordedTurn], transcripts: Transcripts) -> EvalSample:
    from inspect_ai.log import EvalSample

    rebuilt = transcripts.messages(row, turns)
    messages = _chat(rebuilt or recorded_messages(row, turns), turns, row.cell.format)
    replies = [n for n, message in enumerate(messages) if message.source == "generate"]
    told = ("persona", "item", "sample", "seed", "outcome", "forced", "steps", "text")
    return EvalSample(
        id="/".join(filter(None, (row.persona, row.item))),
        epoch=row.sample + 1,
        input=messages[: replies[0]] if replies and replies[0] else row.item,
        target=row.persona,
        messages=messages,
        output=_output(row, turns, messages),
        scores=_scores(row),
        metadata={**{name: getattr(row, name) for name in told}, "rebuilt": rebuilt is not None},
        model_usage={_model(row.cell): _usage(row.prompt_tokens, row.tokens)},
        total_time=row.seconds,
    )


def _chat(
    messages: Sequence[Message], turns: Sequence[RecordedTurn], form: str
) -> list[ChatMessage]:
    """Messages as Inspect has them; the last replies are those of ``turns``.

    A condition may have written replies before them. A tool's result is the user turn after the
    call that begins as results do.
    """
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
    )

    written = sum(message["role"] == "assistant" for message in messages) - len(turns)
    found: list[ChatMessage] = []
    call: ToolCall | None = None
    for message in messages:
        text = storable(message["content"])
        if message["role"] == "assistant":
            turn = turns[-written] if written <= 0 and turns else None
            written -= 1
            call = _call(text, turn, form, f"call_{len(found)}")
            reply = ChatMessageAssistant(content=text, tool_calls=[call] if call else None)
            reply.source = "generate" if turn or not turns else "input"
            found.append(reply)
        elif message["role"] == "system":
            found.append(ChatMessageSystem(content=text))
        elif call and text.startswith(TOOL_OUTPUT):
            result = text.removeprefix(TOOL_OUTPUT).removeprefix("\n")
            found.append(
                ChatMessageTool(content=result, tool_call_id=call.id, function=call.function)
            )
        else:
            found.append(ChatMessageUser(content=text))
    return found


def _call(text: str, turn: RecordedTurn | None, form: str, name: str) -> ToolCall | None:
    """The tool call of a reply: what was recorded, or what a reply that stood there before says."""
    from inspect_ai.tool import ToolCall

    if turn is None:
        said = CALL_FORMATS[form].read(text) if form in CALL_FORMATS else None
    else:
        said = Call(turn.tool, turn.arguments or {}) if turn.tool else None
    if not isinstance(said, Call):
        return None
    return ToolCall(id=name, function=said.name, arguments=_unicode(said.arguments))


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

    said = row.prediction
    if said is None:
        return {}
    label = Score(value=said, answer=said, metadata={"probabilities": row.probabilities})
    if not row.persona:
        return {LABEL: label}
    recognised = Score(value=CORRECT if said == row.persona else INCORRECT, answer=said)
    return {RECOGNISED: recognised, LABEL: label}
