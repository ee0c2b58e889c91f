"""The results of studies as texts and tables, and the progress of their runs."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from rich.table import Table

from charprobe_lite.eval.cli.progress import conversion_bar, note
from charprobe_lite.eval.cli.terminal_log import shows_progress
from charprobe_lite.eval.quant.run import QuantFindings
from charprobe_lite.eval.quant.tables import persona_notes, terminal_tables
from charprobe_lite.eval.scores.cells import scores_by_quant
from charprobe_lite.eval.scores.instruments import instrument_notes, instrument_table
from charprobe_lite.eval.scores.terminal import (
    class_notes,
    conclusion,
    score_table,
    stage_table,
    waterfall_table,
    with_row_intervals,
)
from charprobe_lite.eval.scores.training import seed_notes
from charprobe_lite.eval.study.progress import Progress, watching
from charprobe_lite.eval.study.run import SILENT, Display, ScoredStudy


def _watching(personas: Sequence[str]) -> AbstractContextManager[Progress]:
    return watching(personas) if shows_progress() else SILENT.progress(personas)


DISPLAY = Display(note, conversion_bar, _watching)


def result_parts(study: ScoredStudy | QuantFindings) -> Iterator[str | Table]:
    """The scores by quant type; of a quantization study its tables and recommendation."""
    if isinstance(study, QuantFindings):
        yield from terminal_tables(study.findings)
        yield from persona_notes(study.findings)
        yield study.findings.recommendation
        yield f"texts read by {study.instrument}"
    else:
        yield from _score_parts(study)
    yield f"study: {study.path}"


def _score_parts(study: ScoredStudy) -> Iterator[str | Table]:
    others = {other.name: scores_by_quant(other.scores) for other in study.others}
    for quant, scores in scores_by_quant(study.scores).items():
        weights = study.weights.get(quant or "")
        first, file = scores.by_cell[0], quant or "no model"
        if weights:
            file += f", {weights.bits_per_weight:.2f} bits per weight"
        by_cell, by_persona = scores.by_cell, scores.by_persona
        if study.interval == "rows":
            by_cell, by_persona = map(with_row_intervals, (by_cell, by_persona))
            file += ", intervals of rows"
        elif study.cluster == "family":
            file += ", families of scenarios resampled"
        title = f"{first.persona} on {first.base} ({file}), read by {study.instrument}"
        yield score_table(by_cell, title)
        several = scores.by_persona != scores.by_cell
        if several:
            yield score_table(by_persona, "per persona")
        # one persona's two levels stand in the first table
        if scores.waterfalls and (several or any(len(f.levels) > 2 for f in scores.waterfalls)):
            yield waterfall_table(scores.waterfalls)
        if scores.depths:
            yield waterfall_table(scores.depths, "after more turns of chat")
        if several and scores.comparison.stages:
            yield stage_table(scores.comparison)
        if several:
            yield from class_notes(scores)
        yield from seed_notes(scores.by_cell)
        yield conclusion(scores)
        for other in study.others:
            part = replace(other, scores=others[other.name][quant])
            yield instrument_table(study.instrument, scores, part)
    for other in study.others:
        yield from instrument_notes(study.instrument, other)
