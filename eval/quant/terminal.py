"""The findings of a quantization study as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from charprobe_lite.eval.quant.findings import CAPABILITIES, QuantStudy
from charprobe_lite.eval.quant.score import QuantScore
from charprobe_lite.eval.quant.tables import (
    quant_tables,
    readable,
    readable_name,
    rounded,
    trained_cells,
)
from charprobe_lite.eval.scores.terminal import plain_table
from charprobe_lite.eval.stats.bootstrap import Estimate

FINDINGS = ("quant-trend", "quant-contrast", "quant-correlation", "quant-classifier")
"""The tables of `quant_tables` that are narrow enough as they are."""
VERDICTS = {True: "equivalent", False: "different", None: "not decided"}


def terminal_tables(study: QuantStudy) -> Iterator[Table]:
    """Files, fidelity, cells, then the findings across types; empty ones are left out."""
    for table in (_costs(study.quants), _fidelity(study.quants), _cells(study)):
        if table.row_count:
            yield table
    for numbers in quant_tables(study):
        if numbers.name in FINDINGS:
            records = readable(numbers.records)
            table = plain_table(numbers.caption, [*records[0]], [], wrap=records[0])
            for record in records:
                table.add_row(*record.values())
            yield table


def _costs(quants: Sequence[QuantScore]) -> Table:
    numbers = ["bits per weight", "MB", "tokens/s", "peak MB"]
    table = plain_table("files", ["quant", "lora"], numbers)
    for quant in quants:
        record = quant.record
        speed, peak = record.tokens_per_second, record.peak_bytes
        table.add_row(
            *_file(quant),
            *(f"{record.bits_per_weight:.2f}", f"{record.bytes / 1e6:.0f}"),
            *("-" if speed is None else f"{speed:.0f}", f"{peak / 1e6:.0f}" if peak else "-"),
        )
    return table


def _fidelity(quants: Sequence[QuantScore]) -> Table:
    numbers = ["tokens", "perplexity", "mean KL", "median KL", "99% KL", "same top"]
    table = plain_table("fidelity to F16, nats per token", ["quant", "lora", "texts"], numbers)
    for quant in quants:
        for kind, score in quant.fidelity.items():
            values = (score.perplexity, score.kl_mean, score.kl_median, score.kl_p99)
            table.add_row(
                *(*_file(quant), kind, str(score.tokens)),
                *(rounded(value.value) for value in values),
                f"{score.top1.value:.1%}",
            )
    return table


def _cells(study: QuantStudy) -> Table:
    metrics = map(readable_name, (study.metric, *CAPABILITIES))
    numbers = ["n", next(metrics), "minus F16", f"within {study.margin:g}", *metrics]
    table = plain_table("character and tool calls", ["quant", "lora", "condition"], numbers)
    for quant, cell in trained_cells(study):
        difference, health = cell.difference, cell.health
        table.add_row(
            *(*_file(quant), cell.condition, str(cell.score.n), _interval(cell.score.headline)),
            _interval(difference.change if difference else None, "+"),
            VERDICTS[difference.equivalent] if difference else "-",
            *(f"{health[x].value.value:.0%}" if x in health else "-" for x in CAPABILITIES),
        )
    return table


def _file(quant: QuantScore) -> tuple[str, str]:
    return quant.record.quant, quant.record.lora or "-"


def _interval(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return "-"
    value, low, high = (f"{number:{sign}.3f}" for number in (estimate.value, *estimate.ends))
    return f"{value} [{low}, {high}]"
