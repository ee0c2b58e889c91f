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
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click
from results import number, table

from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.records import read_recordings, score_recordings
from charprobe_lite.eval.quant.score import CellQuality, QuantScore
from charprobe_lite.eval.quant.tables import equivalence_text, quant_tables, readable
from charprobe_lite.eval.report.study import ReportStudy, report_study
from charprobe_lite.eval.stats.metrics import PairedDifference
from charprobe_lite.eval.store.database import Store
from charprobe_lite.models.defaults import MARGIN

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
        record, health = quant.record, quant.health
        unforced = health["unforced"].difference if health else None
        speed, peak = record.tokens_per_second, record.peak_bytes
        yield [
            record.label,
            f"{record.bits_per_weight:.2f}",
            f"{record.bytes / 1e6:.0f}",
            f"{speed:.0f}" if speed else "",
            f"{peak / 1e6:.0f}" if peak else "",
            f"{health['unforced'].value.value:.0%}" if health else "",
            verdict(unforced),
            f"{health['forced'].value.value:.0%}" if health else "",
            f"{1 - health['yield'].value.value:.0%}" if health else "",
            f"{health['steps'].value.value:.1f}" if health else "",
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


def instruments(study: ReportStudy, headlines: Sequence[CellQuality]) -> Iterator[list[str]]:
    """The headline's cell of each file by every instrument."""
    for headline in headlines:
        cell = headline.score.cell
        scores = (
            next((score for score in scores.by_cell if score.cell == cell), None)
            for scores in study.readings.values()
        )
        yield [str(cell.quant), *(number(score and score.headline) for score in scores)]


def forced_emails(path: Path) -> Iterator[list[str]]:
    """Of the emails of a condition with tools, the share detected: sent unforced, and forced."""
    query = (
        "select condition, quant, lora, forced, avg(prediction = persona) from rollouts "
        "join cells on cells.id = cell_id join samples on rollout_id = rollouts.id "
        "where condition in (select condition from cells join rollouts on cells.id = cell_id "
        "where forced) group by 1, 2, 3, 4"
    )
    shares: dict[tuple[str, str, str], list[str]] = {}
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as study:
        for *names, forced, detected in study.execute(query):
            row = shares.setdefault(tuple(map(str, names)), ["", ""])
            row[forced] = f"{detected:.0%}"
    for names, row in shares.items():
        yield [*names, *row]


def print_way(study: ReportStudy, quants: Sequence[QuantScore]) -> None:
    """The tables of the files that were made in one way."""
    conditions = list(dict.fromkeys(cell.condition for q in quants for cell in q.trained_cells))
    columns = [part for name in conditions for part in (f"`{name}`", "difference from F16")]
    table(("type", *columns), characters(quants, conditions))
    titles = ("type", "bits per weight", "MB", "tokens/s", "peak MB", "unforced", "difference")
    table((*titles, "forced", "no email", "steps"), costs(quants))
    kinds = ", ".join(next((list(q.fidelity) for q in quants if q.fidelity), []))
    click.echo(f"\n{kinds}:")
    table(("type", "perplexity over F16's", "mean KL", "same top token"), fidelities(quants))
    headlines = [quant.headline for quant in quants if quant.headline]
    table(("type", *study.readings), instruments(study, headlines))


def print_findings(quants: QuantStudy) -> None:
    """What holds across files."""
    for found in quant_tables(quants):
        if found.name in FINDINGS:
            records = readable(found.records)
            click.echo(f"\n{found.caption}")
            table(list(records[0]), (list(record.values()) for record in records))
    click.echo(f"\n{quants.recommendation}")


def scored_without(path: Path, types: Container[str], personas: Sequence[str]) -> QuantStudy | None:
    """The study's quant types but ``types``."""
    with Store(path, readonly=True) as store:
        study, seed = read_recordings(store), int(store.provenance().get("seed", 0))
    files = [file for file in study.files if file.quant not in types]
    return score_recordings(replace(study, files=files), personas, MARGIN, seed)


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--without", default="", metavar="TYPE[,TYPE]", help="Types to leave out.")
def main(path: Path, without: str) -> None:
    """Print the tables."""
    study = report_study(path)
    quants = study.quants
    if without:
        quants = scored_without(path, without.split(","), study.personas)
    if quants is None:
        raise click.ClickException(f"{path}: has no F16 and another type to compare with it")
    for way in dict.fromkeys(quant.record.lora for quant in quants.quants):
        click.echo(f"\n## {way}")
        print_way(study, [quant for quant in quants.quants if quant.record.lora == way])
    titles = ("condition", "type", "way", "detected, unforced", "detected, forced")
    table(titles, forced_emails(path))
    print_findings(quants)


if __name__ == "__main__":
    main()
