"""The shipped kit beside adapters of other training seeds: how much is one training's luck?

docs/training.md has how the second study is made. The first is the conditions study of the kit,
whose adapters have seed 0.

    python bench/training_seeds.py conditions.sqlite seeds.sqlite

Prints Markdown, over the prompts, scenarios and personas that both studies have: macro-F1 of each
stage and condition for every seed, their standard deviation, and the score over all of them, whose
interval resamples items and adapters; the same for the fall from chat to agent and the climb from
distillation to full, by every instrument; and F1 of each persona.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import click
from results import TRAINED, number, table
from two_kits import macro_f1, read_shared, shared_items

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.scores.gap import labels_of
from charprobe_lite.eval.stats.classification import Labels, per_class
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics
from charprobe_lite.eval.techniques.grid import AGENT, CHAT

Place = tuple[str, str]
"""A stage and a condition."""
Resampled = ResampledMetrics[tuple[Place, str]]
CHANGES: dict[str, tuple[Place, Place]] = {
    f"`{CHAT}` to `{AGENT}`, {stage}": ((stage, CHAT), (stage, AGENT)) for stage in TRAINED
} | {
    f"distillation to full, `{condition}`": ((TRAINED[0], condition), (TRAINED[1], condition))
    for condition in (CHAT, AGENT)
}


def with_seed(row: Row) -> Row:
    """A row of the shipped kit, as one of its training seed."""
    known = row.cell.train_seed is not None
    return row if known else replace(row, cell=replace(row.cell, train_seed=0))


def places(studies: list[list[Row]], personas: list[str]) -> dict[Place, Labels]:
    """The labels of each stage and condition that has several training seeds, of all of them."""
    items, rows = shared_items(studies), [with_seed(row) for rows in studies for row in rows]
    kept = [
        row
        for row in rows
        if row.item in items
        and row.persona in personas
        and row.cell.stage in TRAINED
        and row.cell.condition in (CHAT, AGENT)
    ]
    found = labels_of(kept, personas)
    by_place = {(cell.stage, cell.condition): labels for cell, labels in found.items()}
    if len(by_place) < len(found):
        raise click.UsageError("name studies of one base, quant type and technique")
    shared = {place: found for place, found in by_place.items() if len(found.by_train_seed()) > 1}
    if not shared:
        raise click.UsageError("the studies share no stage and condition")
    return shared


def by_seed(found: Mapping[Place, Labels], place: Place) -> dict[int, float]:
    parts = found[place].by_train_seed()
    return {seed: macro_f1(part.true, part.predicted) for seed, part in parts.items()}


def with_spread(values: list[float], signed: bool = False) -> list[str]:
    """The value of each seed, and their standard deviation."""
    sign = "+" if signed else ""
    return [*(f"{value:{sign}.2f}" for value in values), f"{stdev(values):.3f}"]


def levels(found: Mapping[Place, Labels], resampled: Resampled) -> Iterator[list[str]]:
    """Macro-F1 of each place, by seed and over all."""
    for stage, condition in found:
        values = list(by_seed(found, (stage, condition)).values())
        estimate = resampled.estimate(((stage, condition), "macro_f1"))
        yield [stage, f"`{condition}`", *with_spread(values), number(estimate)]


def changes(found: Mapping[Place, Labels], resampled: Resampled) -> Iterator[list[str]]:
    """Falls and climbs, by seed and over all."""
    for name, pair in CHANGES.items():
        if not all(place in found for place in pair):
            continue
        before, after = (by_seed(found, place) for place in pair)
        values = [after[seed] - before[seed] for seed in before]
        first, second = ((place, "macro_f1") for place in pair)
        change = resampled.difference(second, first).change
        yield [name, *with_spread(values, signed=True), number(change, signed=True)]


def personas_by_seed(found: Mapping[Place, Labels], personas: list[str]) -> Iterator[list[str]]:
    """F1 of each persona in each place, of every seed."""
    rates: dict[str, list[str]] = {persona: [] for persona in personas}
    for labels in found.values():
        parts = labels.by_train_seed().values()
        scores = [per_class(part.true, part.predicted) for part in parts]
        for persona, cells in rates.items():
            cells.append(", ".join(f"{of[persona].f1:.2f}" for of in scores))
    yield from ([persona, *cells] for persona, cells in rates.items())


@click.command(help=__doc__)
@click.argument("paths", nargs=2, type=click.Path(path_type=Path, exists=True, dir_okay=False))
def main(paths: tuple[Path, Path]) -> None:
    personas, by_instrument = read_shared(paths)
    found = {name: places(studies, personas) for name, studies in by_instrument.items()}
    resampled = {name: ResampledMetrics(label_metrics(labels)) for name, labels in found.items()}
    first = next(iter(found))
    seeds = [f"seed {seed}" for seed in by_seed(found[first], next(iter(found[first])))]
    spread = (*seeds, "standard deviation", "all seeds")
    click.echo(f"personas: {', '.join(personas)}")
    for titles, of in (
        (("instrument", "stage", "condition", *spread), levels),
        (("instrument", "change", *spread), changes),
    ):
        lines = ([name, *line] for name in found for line in of(found[name], resampled[name]))
        table(titles, lines)
    titles = tuple(f"`{condition}`, {stage}" for stage, condition in found[first])
    click.echo(f"\nF1 by {first}, of each seed")
    table(("persona", *titles), personas_by_seed(found[first], personas))


if __name__ == "__main__":
    main()
