"""What a figure is: its numbers, its drawing and its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from charprobe_lite.eval.quant.tables import Record
from charprobe_lite.eval.report.figures.canvas import Theme
from charprobe_lite.eval.report.study import ReportStudy

Data = TypeVar("Data")


@dataclass(frozen=True)
class Figure(Generic[Data]):
    """A figure of the report, named like its files; ``order`` is its place in the report.

    ``numbers`` gives the data of a study, nothing where the study has none; ``draw`` a matplotlib
    Figure of them, None where only the table has something to show; ``records`` that table,
    ``caption`` its caption. ``alt`` describes the picture; ``{study.metric}`` and other fields of
    the study are filled in.
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
