"""Differences from F16: a forest plot with the verdicts on equivalence."""

from typing import Any

from charprobe_lite.eval.quant import tables
from charprobe_lite.eval.quant.score import QuantScore
from charprobe_lite.eval.report.figures import Figure
from charprobe_lite.eval.report.figures.canvas import Theme, draw_panels, one_line
from charprobe_lite.eval.report.figures.panels import LORA_LOOKS, QuantPanels
from charprobe_lite.eval.report.study import ReportStudy
from charprobe_lite.eval.stats.metrics import PairedDifference

UNFORCED = ", sent unforced"
Difference = tuple[QuantScore, PairedDifference]


def numbers(study: ReportStudy) -> QuantPanels[Difference] | None:
    """The files' differences by condition: character, then emails that were sent unforced."""
    if study.quants is None:
        return None
    panels: dict[str, list[Difference]] = {}
    for quant, cell in tables.trained_cells(study.quants):
        if cell.difference:
            panels.setdefault(cell.condition, []).append((quant, cell.difference))
            if cell.unforced:
                panels.setdefault(cell.condition + UNFORCED, []).append((quant, cell.unforced))
    ordered = sorted(panels.items(), key=lambda panel: panel[0].endswith(UNFORCED))
    return QuantPanels(study.quants, study.quant_metric, dict(ordered))


def draw(data: QuantPanels[Difference], theme: Theme) -> Any:
    """Conditions side by side, a row per file, most bits per weight at the top."""
    drawn = {quant.name for rows in data.panels.values() for quant, _ in rows}
    names = [quant.name for quant in data.study.quants if quant.name in drawn]
    margin = data.study.margin

    def draw_panel(axis: Any, title: str, rows: list[Difference]) -> None:
        axis.axvspan(-margin, margin, color=theme.quiet, alpha=0.22, linewidth=0)
        axis.axvline(0, color=theme.quiet, linewidth=1)
        for quant, difference in rows:
            colour = LORA_LOOKS[quant.record.lora][0]
            _draw_row(axis, names.index(quant.name), colour, difference, theme)
        axis.set_yticks(range(len(names)), [one_line(name) for name in names])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_title(one_line(title).replace(", ", ",\n"))
        metric = "share" if title.endswith(UNFORCED) else one_line(data.metric)
        axis.set_xlabel(f"{metric} minus F16's")
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", alpha=0.3)
        if title == next(iter(data.panels)):
            _verdicts(axis, margin, theme)

    height = 0.34 * len(names) + 1.3
    return draw_panels(data.panels, draw_panel, height, columns=3, below=0.5, sharey=True)


def _draw_row(
    axis: Any, place: int, colour: str, difference: PairedDifference, theme: Theme
) -> None:
    """A difference: thin its 95% interval, thick its 90% interval, the verdict in the marker."""
    y, inner = [place] * 2, difference.interval_90
    axis.plot(difference.change.ends, y, color=colour, linewidth=1.2)
    axis.plot(inner, y, color=colour, linewidth=3.5, solid_capstyle="butt")
    marker, width, edge, face = {
        True: ("o", 1.6, colour, colour),
        False: ("X", 0.6, theme.paper, colour),
        None: ("o", 1.6, colour, theme.paper),
    }[difference.equivalent]
    style = {"markeredgecolor": edge, "markerfacecolor": face, "markeredgewidth": width}
    axis.plot(difference.change.value, place, marker=marker, color=colour, **style)


def _verdicts(axis: Any, margin: float, theme: Theme) -> None:
    """What the markers and the band mean, for the legend."""
    for label, marker, face in (
        (f"within {margin:g} of F16", "o", theme.ink),
        ("not decided", "o", theme.paper),
        (f"further than {margin:g}", "X", theme.ink),
    ):
        axis.plot([], [], marker, color=theme.ink, markerfacecolor=face, label=label)


def records(data: QuantPanels[Difference]) -> list[tables.Record]:
    """A record per file, condition and measure, with the personas where some are left out."""
    cells = [cell for _, cell in tables.trained_cells(data.study)]
    partial = any(cell.difference and cell.difference.personas is not None for cell in cells)
    return [
        {
            **tables.file_columns(quant),
            "condition": cell.condition,
            "measure": metric,
            **tables.estimate_columns("difference", difference.change),
            "inner_90_low": difference.interval_90[0],
            "inner_90_high": difference.interval_90[1],
            "margin": data.study.margin,
            "equivalent": tables.equivalence_text(difference),
            "p_holm": _smaller_p(difference),
            **_power_columns(difference),
            **({"personas": ", ".join(difference.personas or ["all"])} if partial else {}),
        }
        for quant, cell in tables.trained_cells(data.study)
        for metric, difference in (
            (data.study.metric, cell.difference),
            ("unforced", cell.unforced),
        )
        if difference is not None
    ]


def _smaller_p(difference: PairedDifference) -> float | None:
    """The p-value of the verdict that is nearer."""
    tests = difference.p_holm
    return min(tests.equivalent, tests.different) if tests else None


def _power_columns(difference: PairedDifference) -> tables.Record:
    """Prompts or scenarios, the 90% interval's half-width, and how many would decide."""
    power = difference.power
    return {
        "clusters": difference.clusters,
        "half_width_90": power and power.half_width,
        "needed_80": power and power.needed_equivalent,
    }


FIGURE = Figure(
    name="quant-difference",
    order=120,
    section="quantization",
    title="Differences from F16",
    alt="Forest plot: {study.quant_metric} of each file minus F16's, and of the emails that agents "
    "sent unforced the share; thick the 90% interval that decides on equivalence, thin the 95% "
    "interval; the band is the margin of {study.quants.margin:g}.",
    caption="Differences from F16",
    numbers=numbers,
    draw=draw,
    records=records,
)
