"""A study as logs of Inspect (`inspect_ai`, UK AI Security Institute), one per cell.

The log format is https://inspect.aisi.org.uk/eval-logs.html, written by the package itself.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from inspect_ai import log as logs
from inspect_ai import model as models
from inspect_ai.scorer import Score
from inspect_ai.tool import ToolCall

from charprobe_lite.eval.cells import Cell, RecordedTurn, Row
from charprobe_lite.eval.conditions.transcript import Transcripts, recorded_messages
from charprobe_lite.eval.export import ExportFormat
from charprobe_lite.eval.store.reader import Study
from charprobe_lite.models.call_formats import CALL_FORMATS, Call
from charprobe_lite.models.errors import BadInput, first_problem
from charprobe_lite.models.files import well_formed
from charprobe_lite.models.scenarios import TOOL_OUTPUT
from charprobe_lite.runtime.backend import Message

RECOGNISED, LABEL = "recognised", "label"
CORRECT, INCORRECT = "C", "I"
STOP_REASONS = {
    "stop": "stop",
    "length": "max_tokens",
    "context": "model_length",
    "empty": "unknown",
    "template": "unknown",
}
Rollout = tuple[Row, list[RecordedTurn]]


def write(study: Study, folder: Path, transcripts: Transcripts | None) -> None:
    """Write one log per cell into ``folder``.

    A sample is a rollout: its conversation with tool calls and results, and two scores. ``label``
    is the classifier's, with all probabilities; ``recognised`` says whether that is the rollout's
    persona, and is missing in the base stage. Raises BadInput for a study that no log can hold.
    """
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
        seed = "" if cell.train_seed is None else f"-seed{cell.train_seed}"
        readable = re.sub(r"[^\w.-]+", "-", f"{cell.stage}{seed}-{cell.label}")[:80]
        logs.write_eval_log(log, folder / f"{number:02d}-{readable}.eval")


FORMAT = ExportFormat(write, folder=True, messages=True)


def _log(
    study: Study, cell: Cell, rollouts: Sequence[Rollout], transcripts: Transcripts | None
) -> logs.EvalLog:
    samples = [_sample(row, turns, transcripts) for row, turns in rollouts]
    rows = [row for row, _ in rollouts]
    starts = [datetime.fromisoformat(row.ended) - timedelta(seconds=row.seconds) for row in rows]
    start, end = min(starts).isoformat(), max(row.ended for row in rows)
    counts = dict.fromkeys(("total_samples", "completed_samples"), len(samples))
    name, provenance = well_formed(study.path.stem), study.provenance
    options = ("temperature", "top_p", "max_tokens", "seed")
    config = models.GenerateConfig(**{key: provenance[key] for key in options if key in provenance})
    return logs.EvalLog(
        status="success",
        eval=logs.EvalSpec(
            created=end,
            task=cell.label,
            run_id=name,
            dataset=logs.EvalDataset(name=cell.condition, samples=len(samples)),
            model=_model(cell),
            model_generate_config=config,
            config=logs.EvalConfig(),
            metadata={"study": name, **asdict(cell), "provenance": provenance},
        ),
        plan=logs.EvalPlan(config=config),
        results=logs.EvalResults(**counts, scores=_results(samples)),
        stats=logs.EvalStats(started_at=start, completed_at=end, model_usage=_usage(rows)),
        samples=samples,
    )


def _model(cell: Cell) -> str:
    return "/".join(filter(None, (cell.base, cell.stage, cell.quant)))


def _usage(rows: Sequence[Row]) -> dict[str, models.ModelUsage]:
    """The tokens of rollouts of one cell, by its model."""
    prompts, replies = sum(row.prompt_tokens for row in rows), sum(row.tokens for row in rows)
    counts = {"input_tokens": prompts, "output_tokens": replies, "total_tokens": prompts + replies}
    return {_model(rows[0].cell): models.ModelUsage(**counts)}


def _results(samples: Sequence[logs.EvalSample]) -> list[logs.EvalScore]:
    """The share of the labelled samples that were recognised; nothing in the base stage."""
    marks = [s.scores[RECOGNISED].value for s in samples if s.scores and RECOGNISED in s.scores]
    if not marks:
        return []
    counts = {"scored_samples": len(marks), "unscored_samples": len(samples) - len(marks)}
    accuracy = logs.EvalMetric(name="accuracy", value=marks.count(CORRECT) / len(marks))
    metrics = {"accuracy": accuracy}
    return [logs.EvalScore(name=RECOGNISED, scorer=RECOGNISED, metrics=metrics, **counts)]


def _sample(
    row: Row, turns: Sequence[RecordedTurn], transcripts: Transcripts | None
) -> logs.EvalSample:
    rebuilt = transcripts.messages(row, turns) if transcripts else None
    messages = _chat(rebuilt or recorded_messages(row, turns), turns, row.cell.format)
    replies = [n for n, message in enumerate(messages) if message.source == "generate"]
    fields = ("persona", "item", "sample", "seed", "outcome", "forced", "steps", "text")
    return logs.EvalSample(
        id="/".join(filter(None, (row.persona, row.item))),
        epoch=row.sample + 1,
        input=messages[: replies[0]] if replies and replies[0] else row.item,
        target=row.persona or "",
        messages=messages,
        output=_output(row, turns, messages),
        scores=_scores(row),
        metadata={**{name: getattr(row, name) for name in fields}, "rebuilt": rebuilt is not None},
        model_usage=_usage([row]),
        total_time=row.seconds,
    )


def _chat(
    messages: Sequence[Message], turns: Sequence[RecordedTurn], call_format: str | None
) -> list[models.ChatMessage]:
    """Messages as Inspect has them; the last replies are those of ``turns``.

    A condition may have written earlier replies. A tool's result is the user turn after its call
    that begins as results do.
    """
    earlier = sum(message["role"] == "assistant" for message in messages) - len(turns)
    chat: list[models.ChatMessage] = []
    call: ToolCall | None = None
    for message in messages:
        text = well_formed(message["content"])
        if message["role"] == "assistant":
            turn = turns[-earlier] if earlier <= 0 and turns else None
            earlier -= 1
            call = _call(text, turn, call_format, f"call_{len(chat)}")
            reply = models.ChatMessageAssistant(content=text, tool_calls=[call] if call else None)
            reply.source = "generate" if turn or not turns else "input"
            chat.append(reply)
        elif message["role"] == "system":
            chat.append(models.ChatMessageSystem(content=text))
        elif call and text.startswith(TOOL_OUTPUT):
            result = text.removeprefix(TOOL_OUTPUT).removeprefix("\n")
            ids = {"tool_call_id": call.id, "function": call.function}
            chat.append(models.ChatMessageTool(content=result, **ids))
        else:
            chat.append(models.ChatMessageUser(content=text))
    return chat


def _call(
    text: str, turn: RecordedTurn | None, call_format: str | None, name: str
) -> ToolCall | None:
    """The tool call of a reply: the recorded one, or the one in the text of an earlier reply."""
    if turn is None:
        form = CALL_FORMATS.get(call_format or "")
        call = form.read(text) if form else None
    else:
        call = Call(turn.tool, turn.arguments or {}) if turn.tool else None
    if not isinstance(call, Call):
        return None
    # without the lone surrogates that a model can write in JSON
    arguments = json.loads(well_formed(json.dumps(call.arguments, ensure_ascii=False)))
    return ToolCall(id=name, function=call.name, arguments=arguments)


def _output(
    row: Row, turns: Sequence[RecordedTurn], messages: Sequence[models.ChatMessage]
) -> models.ModelOutput:
    """The last reply."""
    model, last = _model(row.cell), messages[-1] if messages else None
    if not isinstance(last, models.ChatMessageAssistant):
        return models.ModelOutput(model=model)
    reason: Any = STOP_REASONS.get(turns[-1].finish, "unknown") if turns else "stop"
    choice = models.ChatCompletionChoice(message=last, stop_reason=reason)
    return models.ModelOutput(model=model, choices=[choice], time=row.seconds)


def _scores(row: Row) -> dict[str, Score]:
    label = row.prediction
    if label is None:
        return {}
    scores = {}
    if row.persona:
        mark = CORRECT if label == row.persona else INCORRECT
        scores[RECOGNISED] = Score(value=mark, answer=label)
    probabilities = {"probabilities": row.probabilities}
    return {**scores, LABEL: Score(value=label, answer=label, metadata=probabilities)}
