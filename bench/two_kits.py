"""Two kits on the same prompts and scenarios: how much of the fall from chat to agent is whose?

The second is one with another tool use, or on another base (docs/training.md):

    charprobe-lite train kit --tool-use masked --out runs/masked
    CHARPROBE_CATALOGUE=runs/masked/catalogue.yaml charprobe-lite eval --base masked-masked \
        --persona all --limit 24,50 --study masked.sqlite
    python bench/two_kits.py shipped.sqlite masked.sqlite

Prints Markdown: for each trained stage and instrument the macro-F1 of both studies in chat and in
the agent's emails, each fall, and the second fall minus the first, over the personas that both
studies have. Everything is paired by prompt and scenario. A shorter text says less: the second
table has the emails of the first study cut to as many words as the second's for the same scenario
and persona has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import click
from results import TRAINED, number, table

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.report.study import report_study
from charprobe_lite.eval.scores.gap import labels_of
from charprobe_lite.eval.stats.classification import Labels, confusion, macro_f1s
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics
from charprobe_lite.eval.techniques.grid import AGENT, CHAT
from charprobe_lite.eval.techniques.outcomes import rows_by_instrument
from charprobe_lite.models.personas import PERSONAS
from charprobe_lite.runtime.classifier import TextClassifier
from charprobe_lite.runtime.instruments import kit_instrument

Place = tuple[int, str, str]
"""Which study, its stage and its condition."""


def readings(path: Path) -> dict[str, list[Row]]:
    """The rows of a study by each of its instruments."""
    study = report_study(path)
    return rows_by_instrument(study.rows, study.instrument, study.instrument_labels)


def read_shared(paths: Sequence[Path]) -> tuple[list[str], dict[str, list[list[Row]]]]:
    """The personas that all studies have, and the rows of each by their common instruments."""
    studies = [readings(path) for path in paths]
    seen = [{row.persona for row in next(iter(by.values()))} for by in studies]
    personas = [name for name in PERSONAS if all(name in names for names in seen)]
    common = [name for name in studies[0] if all(name in by for by in studies)]
    return personas, {name: [by[name] for by in studies] for name in common}


def macro_f1(true: Sequence[str], predicted: Sequence[str]) -> float:
    return float(macro_f1s(confusion(true, predicted)[1][None])[0])


def shared_items(studies: list[list[Row]]) -> set[str]:
    """The prompts and scenarios of trained stages that all studies have."""
    return set.intersection(
        *({r.item for r in rows if r.cell.stage in TRAINED} for rows in studies)
    )


def cells(studies: list[list[Row]], personas: list[str]) -> dict[Place, Labels]:
    """The labels of each place."""
    items, found = shared_items(studies), {}
    for study, rows in enumerate(studies):
        kept = [row for row in rows if row.item in items and row.persona in personas]
        for cell, labels in labels_of(kept, personas).items():
            if cell.stage in TRAINED and cell.condition in (CHAT, AGENT):
                place = study, cell.stage, cell.condition
                if place in found:
                    raise click.UsageError(
                        f"study {study + 1} has several cells in {cell.stage}, {cell.condition}; "
                        "name a study of one base, quant type and technique"
                    )
                found[place] = labels
    return found


def emails(rows: list[Row], stage: str) -> dict[tuple[str, str], str]:
    """The texts of a stage's agents by persona and scenario."""
    return {
        (row.persona or "", row.item): row.text
        for row in rows
        if (row.cell.stage, row.cell.condition) == (stage, AGENT) and row.text
    }


def at_equal_length(
    studies: list[list[Row]], classifier: TextClassifier, stage: str
) -> tuple[str, ...]:
    """Words of a middle email of either study, macro-F1 of the first's, of the same emails cut to
    the second's words, and of the second's."""
    first, second = (emails(rows, stage) for rows in studies)
    keys = [key for key in first if key in second]
    whole, other = ([texts[key] for key in keys] for texts in (first, second))
    cut = [
        " ".join(text.split()[: max(1, len(short.split()))])
        for text, short in zip(whole, other, strict=True)
    ]
    words = [f"{median(len(text.split()) for text in texts):.0f}" for texts in (whole, other)]
    personas, scores = [persona for persona, _ in keys], []
    for texts in (whole, cut, other):
        predicted = [prediction.label for prediction in classifier.classify(texts)]
        scores.append(f"{macro_f1(personas, predicted):.2f}")
    return stage, str(len(keys)), *words, *scores


def lines(studies: list[list[Row]], personas: list[str]) -> Iterator[tuple[str, ...]]:
    """A line for each stage and study, and one for the difference of their falls."""
    found = cells(studies, personas)
    resampled = ResampledMetrics(label_metrics(found))
    for stage in TRAINED:
        keys = [
            [((study, stage, condition), "macro_f1") for condition in (CHAT, AGENT)]
            for study in range(len(studies))
        ]
        if not all(key in resampled for pair in keys for key in pair):
            continue
        falls = [resampled.replicates(pair[1]) - resampled.replicates(pair[0]) for pair in keys]
        for study, (pair, fall) in enumerate(zip(keys, falls, strict=True), start=1):
            levels = [number(resampled.estimate(key)) for key in pair]
            yield stage, str(study), *levels, number(resampled.interval(fall, pair), signed=True)
        change = resampled.interval(falls[1] - falls[0], [key for pair in keys for key in pair])
        yield stage, "2 minus 1", "", "", number(change, signed=True)


@click.command(help=__doc__)
@click.argument("paths", nargs=2, type=click.Path(path_type=Path, exists=True, dir_okay=False))
def main(paths: tuple[Path, Path]) -> None:
    personas, by_instrument = read_shared(paths)
    click.echo(f"1: {paths[0]}; 2: {paths[1]}; personas: {', '.join(personas)}")
    table(
        ("instrument", "stage", "study", f"`{CHAT}`", f"`{AGENT}`", "change"),
        (
            (instrument, *line)
            for instrument, studies in by_instrument.items()
            for line in lines(studies, personas)
        ),
    )
    texts = next(iter(by_instrument.values()))
    stages = [stage for stage in TRAINED if all(emails(rows, stage) for rows in texts)]
    classifiers = {name: kit_instrument(name, 1, "cpu") for name in by_instrument}
    table(
        ("instrument", "stage", "pairs", "words, 1", "words, 2", "1", "1, cut", "2"),
        (
            (name, *at_equal_length(texts, classifier, stage))
            for name, classifier in classifiers.items()
            for stage in stages
        ),
    )


if __name__ == "__main__":
    main()
