"""The figures: matplotlib, one function each, in a light and a dark theme.

Colours are Okabe and Ito's (and Tol's wine for their yellow, which white paper swallows): people
with any colour vision tell them apart. Hatches and markers say the same without colour. Names from
a study are text, never mathematics or markup.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.eval.report.estimates import (
    Bar,
    Confusion,
    Findings,
    Gap,
    Panel,
    Reliability,
    Step,
)
from charprobe_lite.models.errors import BadInput

FORMATS = ("svg", "png", "pdf")
Look = tuple[str, str, str]
"""Colour, hatch and marker."""
STYLES = {
    "chat": ("#0072B2", "", "o"),
    "agentic_email": ("#D55E00", "///", "s"),
    "chat_email": ("#56B4E9", "...", "^"),
    "agentic_next": ("#E69F00", "xxx", "D"),
    "classifier_ceiling": ("#009E73", "", "P"),
    "prompted_email": ("#CC79A7", "\\\\\\", "v"),
}
OTHERS = (
    ("#882255", "ooo", "X"),
    ("#8C8C8C", "---", "p"),
    ("#009E73", "+++", "h"),
    ("#CC79A7", "***", "<"),
    ("#56B4E9", "|||", ">"),
)
WIDTH = 8.0  # inches; the page shows a figure at this size and scrolls where it is narrower


@dataclass(frozen=True)
class Theme:
    """Paper, ink and the quiet colour of grids and reference lines."""

    paper: str
    ink: str
    quiet: str


LIGHT, DARK = Theme("#ffffff", "#1a1a1a", "#767676"), Theme("#16181d", "#ececec", "#9a9a9a")


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn in a theme; ``alt`` says what it shows."""

    name: str
    title: str
    alt: str
    draw: Callable[[Theme], Any]


def drawings(found: Findings) -> list[Drawing]:
    """The figures that the study has numbers for."""
    several = f"{found.measure} with 95% intervals"
    made = [
        Drawing(
            "id-ood",
            "In distribution and out of distribution",
            f"Bars: {several}, chat beside agentic_email for every stage, with the chance line.",
            lambda theme: bars(found.shift, found.measure, found.chance, theme),
        ),
        Drawing(
            "stages",
            "Every condition, stage by stage",
            f"Lines over the stages: {several}, one line per condition.",
            lambda theme: lines(found.stages, found.measure, found.chance, theme),
        ),
        Drawing(
            "personas",
            "Persona by persona",
            "Bars: the share of each persona's samples recognised as that persona, per stage.",
            lambda theme: persona_bars(found.personas, theme),
        ),
        Drawing(
            "gap",
            "The gap, step by step",
            f"Waterfall: {found.measure} from chat to agentic_email, every step's change.",
            lambda theme: waterfall(found.gaps, found.measure, found.chance, theme),
        ),
        Drawing(
            "confusion",
            "What is taken for what",
            "Confusion matrices side by side: true persona by predicted label, row percentages.",
            lambda theme: matrices(found.confusions, theme),
        ),
        Drawing(
            "reliability",
            "How far the classifier's confidence can be trusted",
            "Reliability diagrams: accuracy against confidence, as right as sure on the diagonal.",
            lambda theme: calibration(found.reliability, theme),
        ),
    ]
    parts = (found.shift, found.stages, found.personas, found.gaps, found.confusions)
    there = [*map(bool, parts), bool(found.reliability)]
    return [drawing for drawing, any_numbers in zip(made, there, strict=True) if any_numbers]


def save(drawing: Drawing, folder: Path) -> list[Path]:
    """Write a figure in every format, light; the same study gives the same bytes."""
    figure = drawn(drawing, LIGHT)
    files = [folder / f"{drawing.name}.{kind}" for kind in FORMATS]
    for file in files:
        file.write_bytes(_bytes(figure, file.suffix[1:]))
    return files


def svg(drawing: Drawing, theme: Theme) -> bytes:
    """A figure as SVG."""
    return _bytes(drawn(drawing, theme), "svg")


def drawn(drawing: Drawing, theme: Theme) -> Any:
    """The matplotlib Figure. Raises BadInput when matplotlib is missing."""
    with _style(theme):
        return drawing.draw(theme)


def bars(panels: Sequence[Panel], measure: str, chance: float, theme: Theme) -> Any:
    """Grouped bars with intervals; a published value stands hollow beside its bar."""
    figure, axes = stacked(panels, 3.6)
    everywhere = _series(panels)
    for axis, panel in zip(axes, panels, strict=True):
        groups, series = _names(panel.bars)
        slots = [
            (name, kind)
            for name in series
            for kind in (False, True)
            if not kind or any(b.published is not None for b in panel.bars if b.series == name)
        ]
        width = min(0.8 / len(slots), 0.3)
        for bar in panel.bars:
            for kind in (False, True):
                if (bar.series, kind) in slots:
                    shift = slots.index((bar.series, kind)) - (len(slots) - 1) / 2
                    place = groups.index(bar.group) + shift * width
                    look = _look(bar.series, everywhere)
                    _bar(axis, place, 0.92 * width, bar, kind, look, theme)
        axis.set_xticks(range(len(groups)), groups)
        axis.set_xlim(-0.6, len(groups) - 0.4)
        _level_axis(axis, panel.title, measure, chance, theme)
    legend_below(figure, axes)
    return figure


def lines(panels: Sequence[Panel], measure: str, chance: float, theme: Theme) -> Any:
    """A line per condition over the stages; published values are hollow and dashed."""
    figure, axes = stacked(panels, 3.8)
    everywhere = _series(panels)
    for axis, panel in zip(axes, panels, strict=True):
        groups, series = _names(panel.bars)
        for number, name in enumerate(series):
            own = [bar for bar in panel.bars if bar.series == name]
            shift = 0.04 * (number - (len(series) - 1) / 2)
            places = [groups.index(bar.group) + shift for bar in own]
            colour, _, marker = _look(name, everywhere)
            axis.errorbar(
                places,
                [bar.value for bar in own],
                yerr=whiskers(own),
                color=colour,
                marker=marker,
                markersize=8,
                linewidth=2,
                capsize=4,
                label=shown(name),
            )
            known = [(x, b.published) for x, b in zip(places, own, strict=True) if b.published]
            if known:
                axis.plot(
                    *zip(*known, strict=True),
                    color=colour,
                    marker=marker,
                    markerfacecolor=theme.paper,
                    linestyle="--",
                    label=f"{shown(name)}, published",
                )
        axis.set_xticks(range(len(groups)), groups)
        axis.set_xlim(-0.35, len(groups) - 0.65)
        _level_axis(axis, panel.title, measure, chance, theme)
    legend_below(figure, axes)
    return figure


def persona_bars(panels: Sequence[Panel], theme: Theme) -> Any:
    """Horizontal bars, one panel per stage; personas in one order, the most recognised first."""
    names = list(dict.fromkeys(bar.group for panel in panels for bar in panel.bars))
    total = dict.fromkeys(names, 0.0)
    for bar in (bar for panel in panels for bar in panel.bars):
        total[bar.group] += bar.value
    names.sort(key=lambda name: (total[name], name))
    series = _series(panels)
    columns = min(len(panels), 3)
    per_row = max(1.6, len(names) * max(0.34, 0.17 * len(series)))
    one_row = len(panels) == columns
    figure, grid = grid_of(len(panels), columns, per_row + 0.7, 0.6, sharey=True)
    height = 0.82 / len(series)
    for axis, panel in zip(grid, panels, strict=True):
        for bar in panel.bars:
            shift = (len(series) - 1) / 2 - series.index(bar.series)
            place = names.index(bar.group) + shift * height
            colour, hatch, _ = _look(bar.series, series)
            axis.barh(
                place,
                bar.value,
                0.92 * height,
                color=colour,
                hatch=hatch,
                edgecolor=theme.paper,
                linewidth=0,
                label=shown(bar.series),
            )
            axis.errorbar(
                bar.value, place, xerr=whiskers([bar]), color=theme.ink, capsize=2, linewidth=1
            )
        axis.set_yticks(range(len(names)), [shown(name) for name in names])
        axis.set_xlim(0, 1.02)
        axis.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
        base, _, stage = panel.title.rpartition(": ")
        axis.set_title(shown(stage) if one_row else f"{shown(base)}:\n{shown(stage)}")
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("recognised as itself")
    legend_below(figure, grid)
    return figure


def waterfall(gaps: Sequence[Gap], measure: str, chance: float, theme: Theme) -> Any:
    """Levels as full bars at both ends, changes hanging between them, the ceiling apart."""
    figure, axes = stacked(gaps, 3.8)
    for axis, gap in zip(axes, gaps, strict=True):
        places: list[tuple[float, str]] = []
        first, last = gap.steps[0], gap.steps[-1]
        _whole(axis, 0, first, theme)
        places.append((0, shown(first.condition)))
        for number, step in enumerate(gap.steps[1:], 1):
            _hanging(axis, number, step, theme)
            places.append((number, f"to {shown(step.condition)}"))
        end = len(gap.steps)
        _whole(axis, end, last, theme)
        places.append((end, shown(last.condition)))
        for number, step in enumerate(gap.ceilings, end + 1):
            _whole(axis, number + 0.3, step, theme)
            places.append((number + 0.3, f"emails of {shown(step.stage)}"))
        axis.set_xticks([x for x, _ in places], [_wrapped(name) for _, name in places])
        axis.set_xlim(-0.6, places[-1][0] + 0.75)
        _level_axis(axis, gap.title, measure, chance, theme)
        axis.set_ylim(0, 1.3)  # an interval in figures stands above each change
    legend_below(figure, axes)
    return figure


def matrices(found: Sequence[Confusion], theme: Theme) -> Any:
    """Confusion matrices, each row as percentages of its true persona."""
    columns = min(len(found), 2)
    one_row = len(found) == columns
    figure, grid = grid_of(len(found), columns, 4.6, width=max(WIDTH, 5.2 * columns))
    for axis, matrix in zip(grid, found, strict=True):
        shares = matrix.counts / matrix.counts.sum(axis=1, keepdims=True).clip(min=1)
        axis.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (i, j), share in _cells(shares):
            if share >= 0.005:
                ink = "#000000" if share > 0.55 else "#ffffff"
                axis.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color=ink, size=9)
        axis.set_xticks(
            range(len(matrix.predicted)),
            [shown(name) for name in matrix.predicted],
            rotation=45,
            ha="right",
            rotation_mode="anchor",
        )
        axis.set_yticks(range(len(matrix.true)), [shown(name) for name in matrix.true])
        axis.set_xlabel("predicted label (% of the row)")
        axis.set_ylabel("true persona")
        axis.set_title(shown(matrix.title.partition(": ")[2] if one_row else matrix.title))
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return figure


def calibration(found: Sequence[Reliability], theme: Theme) -> Any:
    """Accuracy against confidence; on the diagonal the classifier is as right as it is sure."""
    columns = min(len(found), 3)
    figure, grid = grid_of(len(found), columns, 3, 0.4, sharex=True, sharey=True)
    names = [line.title.rpartition(": ") for line in found]
    several = len({checkpoint for checkpoint, _, _ in names}) > 1
    for axis, line, (checkpoint, _, name) in zip(grid, found, names, strict=True):
        colour, _, marker = _look(name, [each for _, _, each in names])
        axis.plot([0, 1], [0, 1], color=theme.quiet, linestyle="--")
        axis.errorbar(
            [each.confidence for each in line.bins],
            [each.right for each in line.bins],
            yerr=whiskers(line.bins, "right"),
            color=colour,
            marker=marker,
            markersize=6,
            linewidth=1.8,
            capsize=3,
        )
        above = f"{shown(checkpoint)}\n" if several else ""
        axis.set_title(f"{above}{shown(name)}\nECE {line.ece:.3f}, n = {line.n}", size=10)
        axis.set_xlim(0, 1.02)
        axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.3)
    figure.supxlabel("probability of the predicted label", size=10)
    figure.supylabel("share that is right", size=10)
    return figure


def _bar(
    axis: Any, place: float, width: float, bar: Bar, known: bool, look: Look, theme: Theme
) -> None:
    """Our bar with its interval, or the published one as an outline."""
    colour, hatch, _ = look
    if known and bar.published is not None:
        axis.bar(
            place,
            bar.published,
            width,
            facecolor=theme.paper,
            edgecolor=colour,
            linewidth=1.5,
            linestyle="--",
            label=f"{shown(bar.series)}, published",
        )
        _number(axis, place, bar.published, f"{bar.published:.2f}", theme)
    elif not known:
        axis.bar(
            place,
            bar.value,
            width,
            color=colour,
            hatch=hatch,
            edgecolor=theme.paper,
            linewidth=0,
            label=shown(bar.series),
        )
        axis.errorbar(place, bar.value, yerr=whiskers([bar]), color=theme.ink, capsize=4)
        _number(axis, place, bar.high, f"{bar.value:.2f}", theme)


def _whole(axis: Any, place: float, step: Step, theme: Theme) -> None:
    condition = step.condition.partition(",")[0]  # however its tools and adapters were asked for
    colour, hatch, _ = _look(condition, [condition])
    axis.bar(place, step.value, 0.6, color=colour, hatch=hatch, edgecolor=theme.paper, linewidth=0)
    axis.errorbar(place, step.value, yerr=whiskers([step]), color=theme.ink, capsize=4)
    _number(axis, place, step.high, f"{step.value:.2f}", theme)


def _hanging(axis: Any, place: float, step: Step, theme: Theme) -> None:
    """A change from the level before; an interval of the change hangs on its end."""
    change = step.change or 0.0
    before = step.value - change
    colour = "#D55E00" if change < 0 else "#009E73"
    axis.bar(place, change, 0.6, bottom=before, color=colour, alpha=0.55)
    axis.plot([place - 1 + 0.3, place - 0.3], [before, before], color=theme.quiet, linewidth=1)
    axis.plot([place + 0.3, place + 0.7], [step.value] * 2, color=theme.quiet, linewidth=1)
    top = max(before, step.value)
    text = f"{change:+.2f}"
    if step.change_low is not None and step.change_high is not None:
        ends = [[change - step.change_low], [step.change_high - change]]
        axis.errorbar(place, step.value, yerr=ends, color=theme.ink, capsize=4)
        top = max(top, before + step.change_high)
        text += f"\n[{step.change_low:+.2f}, {step.change_high:+.2f}]"
    _number(axis, place, top, text, theme, size=8.5)  # two intervals fit beside each other


def _number(axis: Any, x: float, y: float, text: str, theme: Theme, size: float = 10) -> None:
    axis.annotate(
        text,
        (x, y),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        size=size,
        color=theme.ink,
    )


def _level_axis(axis: Any, title: str, measure: str, chance: float, theme: Theme) -> None:
    axis.axhline(
        chance, color=theme.quiet, linestyle=":", linewidth=1.8, label=f"chance ({chance:.3f})"
    )
    axis.set_ylim(0, 1.12)
    axis.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axis.set_ylabel(shown(measure))
    axis.set_title(shown(title))
    axis.grid(axis="y", alpha=0.3)


def stacked(parts: Sequence[Any], height: float) -> tuple[Any, list[Any]]:
    """A figure with one panel per part, one below the other, each of ``height`` inches."""
    return grid_of(len(parts), 1, height)


def grid_of(
    count: int, columns: int, height: float, below: float = 0, width: float = WIDTH, **rest: Any
) -> tuple[Any, list[Any]]:
    """A figure with ``count`` panels in rows of ``columns``.

    ``height`` is a row's, ``below`` is left under the last, ``width`` the figure's, all in inches.
    """
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(width, rows * height + below), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **rest).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def legend_below(figure: Any, axes: Sequence[Any]) -> None:
    """One legend below all panels."""
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    entries = dict(
        sorted(
            entries.items(), key=lambda entry: ("published" in entry[0], entry[0][:6] == "chance")
        )
    )
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=min(len(entries), 3)
    )


def _names(bars: Sequence[Bar]) -> tuple[list[str], list[str]]:
    """The groups and the series in the order in which they come."""
    return list(dict.fromkeys(b.group for b in bars)), list(dict.fromkeys(b.series for b in bars))


def _series(panels: Sequence[Panel]) -> list[str]:
    """Those of all panels, which have one legend."""
    return _names([bar for panel in panels for bar in panel.bars])[1]


def _look(name: str, series: Sequence[str]) -> Look:
    """Of a condition; what has no look of its own gets one after its place among the series."""
    if name in STYLES:
        return STYLES[name]
    unknown = list(dict.fromkeys(each for each in series if each not in STYLES))
    return OTHERS[unknown.index(name) % len(OTHERS)]


def whiskers(parts: Sequence[Any], field: str = "value") -> list[list[float]]:
    """Distances to the ends of the intervals, below and above."""
    below = [max(getattr(part, field) - part.low, 0) for part in parts]
    return [below, [max(part.high - getattr(part, field), 0) for part in parts]]


def _cells(matrix: Any) -> Iterator[tuple[tuple[int, int], float]]:
    for i, row in enumerate(matrix.tolist()):
        for j, value in enumerate(row):
            yield (i, j), value


def shown(name: str) -> str:
    """A name of a study as one short printable line."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return line if len(line) <= 60 else line[:57] + "..."


def _wrapped(name: str) -> str:
    """A name in lines of a dozen characters, broken at spaces and after underscores."""
    import textwrap

    return "\n".join(textwrap.wrap(name.replace("_", "_ "), 12)).replace("_ ", "_")


def _bytes(figure: Any, kind: str) -> bytes:
    """The file's bytes, without dates and random ids."""
    metadata = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
    target = io.BytesIO()
    with _style(LIGHT):
        figure.savefig(target, format=kind, dpi=200, metadata=metadata[kind])
    return target.getvalue()


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    try:
        import matplotlib
    except ImportError:
        raise BadInput(
            "report: matplotlib is not installed; pip install 'charprobe-lite[report]'"
        ) from None
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    paper = ("figure.facecolor", "axes.facecolor", "legend.facecolor")
    style = {
        **dict.fromkeys(ink, theme.ink),
        **dict.fromkeys(paper, theme.paper),
        "grid.color": theme.quiet,
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "hatch.linewidth": 0.8,
        "text.parse_math": False,  # a persona may be called $x^2$
        "svg.fonttype": "path",  # looks the same wherever it is opened
        "svg.hashsalt": "charprobe-lite",
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **style, "backend": "agg"}):
        yield
