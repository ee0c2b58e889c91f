"""The tables of docs/quantization.md from a quantization study.

    charprobe-lite quant-study --persona all --limit 24,25 --study ladder.sqlite
    python bench/quant_tables.py ladder.sqlite [--without Q4_1]

Prints Markdown, one table after the other for each way to use an adapter: macro-F1 of every type
with its difference from F16 and the verdict; what the files cost and how far the agents get;
fidelity by kind of text; macro-F1 of the agents' emails by every instrument. Then how many emails
are detected of those that the grammar demanded and of the others, the trends, what falls faster,
the correlations with KL divergence, and the recommendation.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import click
from results import number, table

from charprobe_lite.eval.conditions import calls_tools
from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.records import score_recorded_study
from charprobe_lite.eval.quant.score import ComparedEstimate, QuantScore
from charprobe_lite.eval.quant.tables import equivalence_text, quant_tables, readable
from charprobe_lite.eval.report.study import ReportStudy, report_study
from charprobe_lite.eval.stats.metrics import PairedDifference
from charprobe_lite.eval.store.database import Store

FINDINGS = ("quant-trend", "quant-contrast", "quant-correlation")


def verdict(difference: PairedDifference | None) -> str:
    """A difference from F16 with its interval, and what it shows."""
    return f"{number(difference.change, True)} {equivalence_text(difference)}" if difference else ""


def characters(quants: Sequence[QuantScore], conditions: Sequence[str]) -> Iterator[list[str]]:
    for quant in quants:
        row, cells = [quant.record.label], {cell.condition: cell for cell in quant.trained_cells}
        for cell in map(cells.get, conditions):
            values = [number(cell.score.headline), verdict(cell.difference)] if cell else ["", ""]
            row += values
        yield row


def costs(quants: Sequence[QuantScore]) -> Iterator[list[str]]:
    for quant in quants:
        record, speed, peak = quant.record, quant.record.tokens_per_second, quant.record.peak_bytes
        yield [
            record.label,
            f"{record.bits_per_weight:.2f}",
            f"{record.bytes / 1e6:.0f}",
            f"{speed:.0f}" if speed else "",
            f"{peak / 1e6:.0f}" if peak else "",
            *(works(quant.health) if quant.health else [""] * 5),
        ]


def works(health: Mapping[str, ComparedEstimate]) -> list[str]:
    """How far the agents get."""
    shares = {name: estimate.value.value for name, estimate in health.items()}
    return [
        f"{shares['unforced']:.0%}",
        verdict(health["unforced"].difference),
        f"{shares['forced']:.0%}",
        f"{1 - shares['yield']:.0%}",
        f"{shares['steps']:.1f}",
    ]


def fidelities(quants: Sequence[QuantScore]) -> Iterator[list[str]]:
    for quant in quants:
        scores = [score for score in quant.fidelity.values() if score.ratio]
        if scores:
            yield [
                quant.record.label,
                ", ".join(f"{score.ratio.value:.2f}" for score in scores if score.ratio),
                ", ".join(f"{score.kl_mean.value:.3f}" for score in scores),
                ", ".join(f"{score.top1.value:.0%}" for score in scores),
            ]


def instruments(study: ReportStudy, quants: Sequence[QuantScore]) -> Iterator[list[str]]:
    """The headline's cell of each file by every instrument."""
    for quant in quants:
        if quant.headline:
            cell = quant.headline.score.cell
            scores = (
                next((score for score in scores.by_cell if score.cell == cell), None)
                for scores in study.readings.values()
            )
            yield [quant.record.label, *(number(score and score.headline) for score in scores)]


def forced_emails(path: Path) -> Iterator[list[str]]:
    """Of the emails that a trained checkpoint's agents sent, the share detected: those that they
    sent unforced, and those that the grammar demanded."""
    query = (
        "select stage, condition, quant, kv_type, lora, forced, avg(prediction = persona) "
        "from rollouts join cells on cells.id = cell_id join samples on rollout_id = rollouts.id "
        "where stage <> 'base' group by 1, 2, 3, 4, 5, 6"
    )
    shares: dict[tuple[str, ...], list[str]] = {}
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as study:
        for *names, forced, detected in study.execute(query):
            if calls_tools(names[1]):
                shares.setdefault(tuple(names), ["", ""])[forced] = f"{detected:.0%}"
    for cell, row in shares.items():
        yield [*cell, *row]


def print_way(study: ReportStudy, quants: Sequence[QuantScore]) -> None:
    """The tables of the files that were made in one way."""
    conditions = list(dict.fromkeys(cell.condition for q in quants for cell in q.trained_cells))
    columns = [part for name in conditions for part in (f"`{name}`", "difference from F16")]
    table(("type", *columns), characters(quants, conditions))
    titles = ("type", "bits per weight", "MB", "tokens/s", "peak MB", "unforced", "difference")
    table((*titles, "forced", "no email", "steps"), costs(quants))
    if kinds := next((list(quant.fidelity) for quant in quants if quant.fidelity), []):
        click.echo(f"\n{', '.join(kinds)}:")
    table(("type", "perplexity over F16's", "mean KL", "same top token"), fidelities(quants))
    table(("type", *study.readings), instruments(study, quants))


def print_findings(quants: QuantStudy) -> None:
    """What holds across files."""
    for found in quant_tables(quants):
        if found.name in FINDINGS:
            records = readable(found.records)
            click.echo(f"\n{found.caption}")
            table(list(records[0]), (list(record.values()) for record in records))
    click.echo(f"\n{quants.recommendation}")


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--without", default="", metavar="TYPE[,TYPE]", help="Types to leave out.")
def main(path: Path, without: str) -> None:
    """Print the tables."""
    study = report_study(path)
    quants = study.quants
    if without:
        with Store(path, readonly=True) as store:
            quants = score_recorded_study(store, study.personas, without.split(","))
    if quants is None:
        raise click.ClickException(f"{path}: has no F16 and another type to compare with it")
    for way in dict.fromkeys(quant.record.lora for quant in quants.quants):
        click.echo(f"\n## {way}")
        print_way(study, [quant for quant in quants.quants if quant.record.lora == way])
    titles = ("stage", "condition", "type", "cache", "way")
    table((*titles, "detected, unforced", "detected, forced"), forced_emails(path))
    print_findings(quants)


if __name__ == "__main__":
    main()
