"""What a quantization study found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.score import CellQuality, QuantScore
from charprobe_lite.eval.quant.tables import quant_tables, readable, rounded
from charprobe_lite.eval.stats.bootstrap import Estimate

FINDINGS = ("quant-trend", "quant-contrast", "quant-correlation", "quant-classifier")
"""The report's tables that are narrow enough as they are."""
VERDICTS = {True: "equivalent", False: "different", None: "not decided"}


def terminal_tables(study: QuantStudy) -> Iterator[Table]:
    """Files, fidelity, cells, then what was found across types; empty ones are left out."""
    for made in (_costs(study.quants), _fidelity(study.quants), _cells(study)):
        if made.row_count:
            yield made
    for each in quant_tables(study):
        if each.name in FINDINGS:
            records = readable(each.records)
            made = _table(each.caption, [], [])
            for name in records[0]:
                made.add_column(name)
            for record in records:
                made.add_row(*record.values())
            yield made


def _costs(quants: Sequence[QuantScore]) -> Table:
    numbers = ["bits per weight", "MB", "tokens/s", "peak MB"]
    made = _table("files", ["quant", "lora"], numbers)
    for each in quants:
        held = each.record
        speed, peak = held.tokens_per_second, held.peak_bytes
        made.add_row(
            *(held.quant, held.lora or "-"),
            *(f"{held.bits_per_weight:.2f}", f"{held.bytes / 1e6:.0f}"),
            *("-" if speed is None else f"{speed:.0f}", f"{peak / 1e6:.0f}" if peak else "-"),
        )
    return made


def _fidelity(quants: Sequence[QuantScore]) -> Table:
    numbers = ["tokens", "perplexity", "mean KL", "median KL", "99% KL", "same top"]
    made = _table("fidelity to F16, nats per token", ["quant", "lora", "texts"], numbers)
    for each in quants:
        for kind, score in each.fidelity.items():
            values = (score.perplexity, score.kl_mean, score.kl_median, score.kl_p99)
            made.add_row(
                *(each.record.quant, each.record.lora or "-", kind, str(score.tokens)),
                *(rounded(value.value) for value in values),
                f"{score.top1.value:.1%}",
            )
    return made


def _cells(study: QuantStudy) -> Table:
    measure = study.measure.replace("macro_f1", "macro-F1").replace("_", " ")
    health = ("well_formed", "yield", "unforced")
    numbers = ["n", measure, "minus F16", f"within {study.margin:g}"]
    numbers += [name.replace("_", " ") for name in health]
    made = _table("character and tool calls", ["quant", "lora", "condition"], numbers)
    for each in study.quants:
        for cell in each.trained_cells:
            made.add_row(
                *(each.record.quant, each.record.lora or "-", cell.condition, str(cell.score.n)),
                *(_interval(cell.score.headline), *_difference(cell)),
                *(_share(cell, name) for name in health),
            )
    return made


def _difference(cell: CellQuality) -> tuple[str, str]:
    found = cell.difference
    return (_interval(found.change, "+"), VERDICTS[found.equivalent]) if found else ("-", "-")


def _interval(found: Estimate | None, sign: str = "") -> str:
    if found is None:
        return "-"
    value, low, high = (f"{each:{sign}.3f}" for each in (found.value, *found.ends))
    return f"{value} [{low}, {high}]"


def _share(cell: CellQuality, name: str) -> str:
    return f"{cell.health[name].value.value:.0%}" if name in cell.health else "-"


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in names:
        made.add_column(name, no_wrap=True)
    for name in numbers:
        made.add_column(name, justify="right", no_wrap=True)
    return made
