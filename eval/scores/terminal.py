"""Scores as tables for a terminal, and as one plain sentence."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from charprobe_lite.eval.scores.cells import CellScore
from charprobe_lite.eval.scores.gap import Comparison
from charprobe_lite.eval.stats.bootstrap import Estimate


def score_table(scores: Sequence[CellScore], title: str) -> Table:
    """The scores as a rich table; columns that hold nothing are left out."""
    several = any(score.macro_f1 is not None for score in scores)
    named = len({score.persona for score in scores}) > 1
    ways = len({score.lora for score in scores if score.lora}) > 1
    found = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    names = ["stage", *(["lora"] if ways else []), "condition", *(["persona"] if named else [])]
    for name in names:
        found.add_column(name, no_wrap=True)
    headings = ["detected", "95% interval", "mean prob.", "n", "yield", "forced"]
    if several:
        headings += ["macro-F1", "95% interval"]
    if named:
        headings += ["F1"]
    for name in headings:
        found.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        cells = [score.stage, *([score.lora or "-"] if ways else []), score.label]
        cells += [score.persona] if named else []
        cells += [_percent(score.detection_rate), _interval(score.ci, 100, "%")]
        cells += [_number(score.mean_probability), str(score.n), _percent(score.yield_)]
        cells += ["-" if score.forced is None else str(score.forced)]
        if several:
            cells += [_number(score.macro_f1), _interval(score.macro_f1_ci, 1, "")]
        if named:
            cells += [_number(score.f1)]
        found.add_row(*cells)
    return found


def gap_table(comparison: Comparison) -> Table:
    """Where macro-F1 is lost: steps within a stage, then stages within a condition."""
    found = Table(title="where it is lost", title_justify="left", box=box.SIMPLE_HEAD)
    differences = [*comparison.steps, *comparison.stages]
    ways = len({each.after.lora for each in differences if each.after.lora}) > 1
    for name in ("stage", *(["lora"] if ways else []), "condition", "through"):
        found.add_column(name, no_wrap=True)
    for name in ("change", "95% interval"):
        found.add_column(name, justify="right", no_wrap=True)
    rows = [
        (step, step.before.stage, f"{step.before.condition} to {step.after.condition}", step.cause)
        for step in comparison.steps
    ] + [(step, step.cause, step.before.condition, "training") for step in comparison.stages]
    for step, stage, condition, through in rows:
        way = [step.after.lora or "-"] if ways else []
        found.add_row(stage, *way, condition, through, *_change(step.change))
    return found


def _change(change: Estimate) -> tuple[str, str]:
    return f"{change.value:+.3f}", f"{change.low:+.3f} to {change.high:+.3f}"


def conclusion(scores: Sequence[CellScore]) -> str:
    """One plain sentence: how the most trained stage that was run fares as a chat and an agent."""
    for stage in ("full", "distillation", "base"):
        # of several variants the first, which is the one nearest to the default
        cells = {score.condition: score for score in reversed(scores) if score.stage == stage}
        if "chat" in cells and "agentic_email" in cells:
            return _compare(cells["chat"], cells["agentic_email"])
    return "There is nothing to compare: run conditions chat and agentic_email of one stage."


def _compare(chat: CellScore, agent: CellScore) -> str:
    several = "," in chat.persona
    who = f"{len(chat.persona.split(','))} personas" if several else chat.persona
    inside, outside = chat.headline, agent.headline
    if inside is None or outside is None:
        what = "email was sent as an agent" if inside else "chat was answered"
        return f"{who}, stage {chat.stage}: no {what}, so there is nothing to compare."
    measure = "macro-F1" if several else "detection"
    shown = [f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" for e in (inside, outside)]
    return (
        f"{who}, stage {chat.stage}: {measure} {shown[0]} in chat, {shown[1]} in the emails sent "
        f"as an agent; {_verdict(chat.stage, inside, outside)}."
    )


def _verdict(stage: str, inside: Estimate, outside: Estimate) -> str:
    if stage == "base":
        return "this is the untrained base, the level to compare trained stages with"
    if inside.value < 0.5:
        return "the character is weak already in the chat window, so its loss says little"
    if outside.low >= inside.low and outside.value >= inside.value:
        return "the character survives the move from the chat window to the agent"
    if outside.high >= inside.low:
        return "the intervals overlap, so these samples cannot tell whether character is lost"
    if outside.value < inside.value / 2:
        return "the character does not survive the move from the chat window to the agent"
    return "the character weakens in the move from the chat window to the agent"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(ends: tuple[float, float] | None, scale: int, unit: str) -> str:
    if ends is None:
        return "-"
    digits = 0 if unit else 3
    return f"{scale * ends[0]:.{digits}f}-{scale * ends[1]:.{digits}f}{unit}"
