"""How a character holds in a long chat: a line per stage over the turns before the prompt."""

from typing import Any

from charprobe_lite.eval.report.figures import Figure, canvas, panels
from charprobe_lite.eval.report.figures.panels import Bar, Panels
from charprobe_lite.eval.report.study import ReportStudy, checkpoint_label
from charprobe_lite.eval.scores.gap import DEPTH_STEPS


def numbers(study: ReportStudy) -> Panels[list[Bar]] | None:
    """The levels of the conditions `chat_depth_N`, from few turns to many."""
    found: dict[str, list[Bar]] = {}
    for cell, score in study.cell_scores.items():
        if cell.condition in DEPTH_STEPS and (level := score.headline) is not None:
            # adapters and caches of other kinds have lines of their own
            series = f"{cell.stage}{cell.label.removeprefix(cell.condition)}"
            bar = Bar(cell.condition.rpartition("_")[2], series, level, score.n)
            found.setdefault(checkpoint_label(cell), []).append(bar)
    for bars in found.values():
        bars.sort(key=lambda bar: int(bar.group))
    return Panels(study, found) if found else None


def draw(data: Panels[list[Bar]], theme: canvas.Theme) -> Any:
    """A line per stage; the turns are apart as their numbers are."""
    all_series = panels.series_of(*data.panels.values())

    def draw_panel(axis: Any, title: str, bars: list[Bar]) -> None:
        series = panels.series_of(bars)
        for number, name in enumerate(series):
            line = [bar for bar in bars if bar.series == name]
            shift = 0.2 * (number - (len(series) - 1) / 2)
            x = [int(bar.group) + shift for bar in line]
            look, label = canvas.look_of(name, all_series), canvas.one_line(name)
            canvas.draw_line(axis, x, [bar.level for bar in line], look, linewidth=2, label=label)
        axis.set_xticks(sorted({int(bar.group) for bar in bars}))
        axis.set_xlabel("turns before the prompt")
        panels.level_axis(axis, title, data.study, theme)

    return canvas.draw_panels(data.panels, draw_panel, 3.8)


def records(data: Panels[list[Bar]]) -> list[dict[str, Any]]:
    """A record per stage and depth."""
    return [
        {"stage": record.pop("condition"), **record}
        for record in panels.panel_records(data, "base", "turns")
    ]


FIGURE = Figure(
    name="depths",
    order=25,
    title="The same prompts after more turns of chat",
    alt="Lines over the number of neutral turns before the prompt: {study.metric} with 95% "
    "intervals, one line per stage; {study.adapters}.",
    caption="Answers by the turns before the prompt, {study.adapters}",
    numbers=numbers,
    draw=draw,
    records=records,
)
