"""The figures: each file with a `FIGURE` is one, with its numbers, its drawing and its table."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from charprobe_lite.eval.quant.tables import Record
    from charprobe_lite.eval.report.figures.canvas import Theme
    from charprobe_lite.eval.report.study import ReportStudy

Data = TypeVar("Data")


@dataclass(frozen=True)
class Figure(Generic[Data]):
    """A figure of the report, named like its files; ``order`` is its place in the report.

    ``numbers`` gives the data of a study, nothing where the study has none; ``draw`` a matplotlib
    Figure of them, None where only the table has something to show; ``records`` that table,
    ``caption`` its caption. ``alt`` describes the picture; in both ``{study.metric}`` and other
    fields of the study are filled in.
    """

    name: str
    order: int
    title: str
    alt: str
    caption: str
    numbers: Callable[[ReportStudy], Data | None]
    draw: Callable[[Data, Theme], Any]
    records: Callable[[Data], list[Record]]
    section: Literal["figures", "quantization"] = "figures"


_registered: list[Figure[Any]] = []


def register(figure: Figure[Any]) -> None:
    """Add a figure from elsewhere to the report."""
    _registered.append(figure)


def all_figures() -> list[Figure[Any]]:
    """Every figure, in the order of the report."""
    modules = [import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    figures = [module.FIGURE for module in modules if hasattr(module, "FIGURE")]
    return sorted([*figures, *_registered], key=lambda figure: figure.order)
