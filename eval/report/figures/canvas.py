"""What all figures are drawn with: themes, looks, panels, legends, intervals and files.

Colours are Okabe and Ito's (and Tol's wine for their yellow, which white paper swallows): people
with any colour vision tell them apart. Hatches and markers say the same without colour. Names from
a study are text, never mathematics or markup.
"""

import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from charprobe_lite.eval.stats.bootstrap import Estimate

FORMATS = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
"""The files of a figure, and their metadata that would differ between two runs."""
WIDTH = 8.0  # inches; the page shows a figure at this size and scrolls where it is narrower


@dataclass(frozen=True)
class Theme:
    """Paper, ink and the quiet colour of grids and reference lines."""

    paper: str
    ink: str
    quiet: str


LIGHT, DARK = Theme("#ffffff", "#1a1a1a", "#767676"), Theme("#16181d", "#ececec", "#9a9a9a")


class Look(NamedTuple):
    """How a condition looks in every figure."""

    colour: str
    hatch: str
    marker: str

    def fill(self, theme: Theme) -> dict[str, Any]:
        """How matplotlib fills a bar."""
        style = {"color": self.colour, "hatch": self.hatch}
        return {**style, "edgecolor": theme.paper, "linewidth": 0}


LOOKS = {
    "chat": Look("#0072B2", "", "o"),
    "agentic_email": Look("#D55E00", "///", "s"),
    "chat_email": Look("#56B4E9", "...", "^"),
    "agentic_next": Look("#E69F00", "xxx", "D"),
    "scenario_ceiling": Look("#009E73", "", "P"),
    "author_ceiling": Look("#8C8C8C", "---", "p"),
    "prompted_email": Look("#CC79A7", "\\\\\\", "v"),
}
SPARE_LOOKS = (
    Look("#882255", "ooo", "X"),
    Look("#8C8C8C", "---", "p"),
    Look("#009E73", "+++", "h"),
    Look("#CC79A7", "***", "<"),
    Look("#56B4E9", "|||", ">"),
)


Draw = Callable[[Theme], Any]
"""Draws a matplotlib Figure in a theme, or None where there is nothing to draw."""
Contents = TypeVar("Contents")


def save(draw: Draw, stem: Path) -> list[Path]:
    """Write a figure in every format, light, if there is one; one study gives the same bytes."""
    figure = drawn(draw, LIGHT)
    if figure is None:
        return []
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in FORMATS]
    for file in files:
        file.write_bytes(image(figure, file.suffix[1:]))
    return files


def drawn(draw: Draw, theme: Theme) -> Any:
    """The matplotlib Figure."""
    with _style(theme):
        return draw(theme)


def subplots(
    count: int, height: float, columns: int = 1, below: float = 0, width: float = WIDTH, **rest: Any
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


def draw_panels(
    panels: Mapping[str, Contents],
    draw_panel: Callable[[Any, str, Contents], None],
    height: float,
    columns: int = 1,
    **options: Any,
) -> Any:
    """A figure with what ``draw_panel`` draws of each title and its contents, None without any.

    One legend is below all panels. ``height``, ``columns`` and ``options`` as in `subplots`.
    """
    if not panels:
        return None
    figure, axes = subplots(len(panels), height, min(len(panels), columns), **options)
    for axis, (title, contents) in zip(axes, panels.items(), strict=True):
        draw_panel(axis, title, contents)
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = sorted(handles, key=lambda label: ("published" in label, label[:6] == "chance"))
    if labels:
        entries = [handles[label] for label in labels]
        figure.legend(entries, labels, loc="outside lower center", ncols=min(len(labels), 3))
    return figure


def look_of(name: str, series: Sequence[str]) -> Look:
    """The look of a condition; one without its own gets that of its place among ``series``."""
    if name in LOOKS:
        return LOOKS[name]
    unknown = list(dict.fromkeys(other for other in series if other not in LOOKS))
    return SPARE_LOOKS[unknown.index(name) % len(SPARE_LOOKS)]


def whiskers(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Distances to the ends of the intervals, below and above."""
    below = [max(estimate.value - estimate.low, 0) for estimate in estimates]
    return [below, [max(estimate.high - estimate.value, 0) for estimate in estimates]]


def draw_line(
    axis: Any, x: Sequence[float], levels: Sequence[Estimate], look: Look, **style: Any
) -> None:
    """A line through levels, with their intervals."""
    values = [level.value for level in levels]
    style = {"color": look.colour, "marker": look.marker, **style}
    axis.errorbar(x, values, yerr=whiskers(levels), **style)


def write_number(
    axis: Any, x: float, y: float, text: str, theme: Theme, size: float = 10, boxed: bool = False
) -> None:
    """Write a number just above a point of the axis, ``boxed`` where lines pass behind it."""
    place = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "va": "bottom"}
    style = boxed_text(theme) if boxed else {"color": theme.ink}
    axis.annotate(text, (x, y), size=size, **style, **place)


def boxed_text(theme: Theme) -> dict[str, Any]:
    """The style of text that lines pass behind."""
    box = {"facecolor": theme.paper, "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    return {"color": theme.ink, "bbox": box}


def one_line(name: str) -> str:
    """A name of a study as one short printable line."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return line if len(line) <= 60 else line[:57] + "..."


def wrapped(name: str, width: int = 12) -> str:
    """A name in lines of ``width`` characters, broken at spaces and after underscores."""
    return "\n".join(textwrap.wrap(name.replace("_", "_ "), width)).replace("_ ", "_")


def image(figure: Any, kind: str = "svg") -> bytes:
    """A matplotlib Figure as a file, without dates and random ids."""
    target = io.BytesIO()
    with _style(LIGHT):
        figure.savefig(target, format=kind, dpi=200, metadata=FORMATS[kind])
    return target.getvalue()


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    import matplotlib

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
        "lines.markersize": 8,
        "errorbar.capsize": 4,
        "text.parse_math": False,  # a persona may be called $x^2$
        "svg.fonttype": "path",  # looks the same wherever it is opened
        "svg.hashsalt": "charprobe-lite",
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **style, "backend": "agg"}):
        yield
