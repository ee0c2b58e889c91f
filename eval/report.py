"""From recorded rollouts to cells, a table and one plain sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.score import Estimate, accuracy, detection_rate, macro_f1, per_class_f1
from charprobe_lite.eval.store import Cell, Row

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class CellScore:
    """The scores of one cell, for one persona or for several together.

    ``n`` counts samples; in the base stage all personas share them. ``yield_`` is the share of
    rollouts that sent an email, ``forced`` the number of emails that the grammar demanded; both
    None outside agentic conditions. For one persona ``detection_rate`` is its recall with
    Wilson's interval; for several it is the share of rows classified as their own persona, with
    the row bootstrap's. ``macro_f1`` stands only for several; ``f1`` only for one of several.
    ``started`` counts the rollouts that ended, in whatever way.

    The published bootstrap counts a base-stage sample as one row for every persona, which makes
    the base stage's interval for several personas too narrow; it is kept for comparison.
    """

    base: str
    stage: str
    persona: str
    condition: str
    quant: str
    n: int
    started: int
    yield_: float | None
    forced: int | None
    detection_rate: float | None
    ci: tuple[float, float] | None
    mean_probability: float | None
    macro_f1: float | None = None
    macro_f1_ci: tuple[float, float] | None = None
    f1: float | None = None
    format: str = ""
    grammar: str = ""

    @property
    def asked(self) -> str:
        """The condition, and how tool calls were asked for."""
        return Cell(
            self.base, self.stage, self.condition, self.quant, self.format, self.grammar
        ).asked

    def as_json(self) -> dict[str, Any]:
        """The cell as ``--json`` prints it."""
        return {name.rstrip("_"): value for name, value in asdict(self).items()}


def score_cells(
    rows: Sequence[Row], cells: Sequence[Cell], personas: Sequence[str], seed: int
) -> tuple[list[CellScore], list[CellScore]]:
    """(one score per cell, one per cell and persona); the same list twice for one persona."""
    merged, single = [], []
    for cell in cells:
        by_persona = {persona: _rows_of(rows, cell, persona) for persona in personas}
        if len(personas) == 1:
            merged.append(_score(cell, personas[0], by_persona, seed))
            single.append(merged[-1])
            continue
        merged.append(_score(cell, ",".join(personas), by_persona, seed))
        f1 = per_class_f1(*_labels(by_persona)) if any(_texts(by_persona)) else {}
        for persona, own in by_persona.items():
            score = _score(cell, persona, {persona: own}, seed)
            single.append(CellScore(**{**asdict(score), "f1": f1.get(persona)}))
    return merged, single


def _rows_of(rows: Sequence[Row], cell: Cell, persona: str) -> list[Row]:
    return [row for row in rows if row.cell == cell and row.persona in (persona, "")]


def _texts(by_persona: dict[str, list[Row]]) -> list[Row]:
    return [row for rows in by_persona.values() for row in rows if row.prediction is not None]


def _labels(by_persona: dict[str, list[Row]]) -> tuple[list[str], list[str]]:
    """True and predicted labels; a base-stage sample counts once for every persona."""
    pairs = [
        (persona, row.prediction)
        for persona, rows in by_persona.items()
        for row in rows
        if row.prediction is not None
    ]
    return [true for true, _ in pairs], [found for _, found in pairs]


def _score(cell: Cell, persona: str, by_persona: dict[str, list[Row]], seed: int) -> CellScore:
    distinct = {
        (row.persona, row.item, row.sample): row for rows in by_persona.values() for row in rows
    }
    rollouts = list(distinct.values())
    true, predicted = _labels(by_persona)
    agentic = cell.condition.startswith("agentic")
    rate: Estimate | None = None
    macro: Estimate | None = None
    if true and len(by_persona) == 1:
        rate = detection_rate(predicted, persona)
    elif true:
        rate, macro = accuracy(true, predicted, seed), macro_f1(true, predicted, seed)
    probabilities = [
        row.probabilities[name]
        for name, rows in by_persona.items()
        for row in rows
        if row.probabilities
    ]
    sent = sum(row.outcome == "sent" for row in rollouts)
    return CellScore(
        base=cell.base,
        stage=cell.stage,
        persona=persona,
        condition=cell.condition,
        quant=cell.quant,
        n=sum(row.text is not None for row in rollouts),
        started=len(rollouts),
        yield_=sent / len(rollouts) if agentic and rollouts else None,
        forced=sum(row.forced for row in rollouts) if agentic else None,
        detection_rate=rate.value if rate else None,
        ci=(rate.low, rate.high) if rate else None,
        mean_probability=sum(probabilities) / len(probabilities) if probabilities else None,
        macro_f1=macro.value if macro else None,
        macro_f1_ci=(macro.low, macro.high) if macro else None,
        format=cell.format,
        grammar=cell.grammar,
    )


def table(scores: Sequence[CellScore], title: str) -> Table:
    """The scores as a rich table; columns that hold nothing are left out."""
    from rich import box
    from rich.table import Table

    several = any(score.macro_f1 is not None for score in scores)
    named = len({score.persona for score in scores}) > 1
    found = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("stage", "condition", *(["persona"] if named else [])):
        found.add_column(name, no_wrap=True)
    headings = ["detected", "95% interval", "mean prob.", "n", "yield", "forced"]
    if several:
        headings += ["macro-F1", "95% interval"]
    if named:
        headings += ["F1"]
    for name in headings:
        found.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        cells = [score.stage, score.asked, *([score.persona] if named else [])]
        cells += [_percent(score.detection_rate), _interval(score.ci, 100, "%")]
        cells += [_number(score.mean_probability), str(score.n), _percent(score.yield_)]
        cells += ["-" if score.forced is None else str(score.forced)]
        if several:
            cells += [_number(score.macro_f1), _interval(score.macro_f1_ci, 1, "")]
        if named:
            cells += [_number(score.f1)]
        found.add_row(*cells)
    return found


def finding(scores: Sequence[CellScore]) -> str:
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
    inside, outside = _headline(chat), _headline(agent)
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


def _headline(score: CellScore) -> Estimate | None:
    if score.macro_f1 is not None and score.macro_f1_ci is not None:
        return Estimate(score.macro_f1, *score.macro_f1_ci)
    if score.detection_rate is not None and score.ci is not None:
        return Estimate(score.detection_rate, *score.ci)
    return None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(ends: tuple[float, float] | None, scale: int, unit: str) -> str:
    if ends is None:
        return "-"
    digits = 0 if unit else 3
    return f"{scale * ends[0]:.{digits}f}-{scale * ends[1]:.{digits}f}{unit}"
