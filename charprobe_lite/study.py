"""Studies from Python: run one, open one, and read it as pandas tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.export import export_study
from charprobe_lite.eval.export.records import COLUMNS, records
from charprobe_lite.eval.quant.run import run_quant_study
from charprobe_lite.eval.report import write_report
from charprobe_lite.eval.report.study import report_study
from charprobe_lite.eval.scores.cells import CellScore, Scores
from charprobe_lite.eval.stats.bootstrap import Estimate
from charprobe_lite.eval.store.reader import open_study as read_study
from charprobe_lite.eval.study.backend_fields import check_backend
from charprobe_lite.eval.study.file import read_specs
from charprobe_lite.eval.study.run import run_rollouts
from charprobe_lite.eval.study.spec import StudySpec, parse_spec
from charprobe_lite.models.errors import BadInput, require_known, spelled
from charprobe_lite.notebook import silent_bar, study_display

if TYPE_CHECKING:
    import pandas as pd

CELL = tuple(field.name for field in fields(Cell))
TURN = (
    *("persona", "item", "sample", "turn", "text", "finish"),
    *("tool", "arguments", "output", "tokens"),
)
STEP = (
    *("base", "stage", "quant", "lora", "from", "to", "cause"),
    *("estimate", "ci_low", "ci_high", "personas"),
)
INTERVALS = {
    "macro_f1": ("macro_f1_ci", "macro_f1_ci_rows"),
    "detection_rate": ("ci", "ci_rows"),
    "f1": ("f1_ci",),
}
"""The intervals of a `CellScore` by metric: over clusters, then over rows."""


@spelled("argument")
def run_study(*, progress: bool = True, **spec: Any) -> Study:
    """Run what is missing of a study, as ``charprobe-lite eval`` does, and open it.

    The arguments are those of the command with underscores: ``persona`` and ``quant`` take a name,
    a comma-separated text or a list; ``limit`` a number, "all" or a pair (prompts, scenarios);
    ``study`` is the file, by default ``runs/BASE-seedSEED.sqlite``. What the file has already is
    not run again. With ``texts`` it is a quantization study, in which each file also reads texts
    next to F16. ``progress`` shows a table in a notebook or a terminal, and lines elsewhere.
    Raises BadInput for an argument that cannot be used, and for files that cannot be fetched or
    made.
    """
    record, display = parse_spec(spec), study_display(progress)
    check_backend(record)
    if record.is_quant_study:
        return Study(run_quant_study(record, display, silent_bar).path)
    return Study(run_rollouts(record, display).path)


def open_study(path: str | Path) -> Study:
    """Open a study (.sqlite) that ``eval`` or `run_study` made; it may still be running.

    Raises BadInput when there is no study under this path, or no rollout in it.
    """
    read_study(Path(path))
    return Study(Path(path))


class Study:
    """A study on disk. Every table is read anew, so that a running study can be watched.

    Tables are pandas DataFrames (extra: report). Estimates have their 95% intervals in columns
    that end in ``ci_low`` and ``ci_high``; a value that does not apply is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r})"

    @cached_property
    def spec(self) -> StudySpec:
        """What the study is to do. Raises BadInput for a study that does not record it."""
        [spec] = read_specs(self.path)
        return spec

    def rollouts(self) -> pd.DataFrame:
        """One row per rollout: cell, persona, item, outcome, text, prediction, probabilities.

        The columns are those of ``charprobe-lite export``; `score_texts` reads them as they are.
        """
        return _frame(records(read_study(self.path)), tuple(COLUMNS))

    def turns(self) -> pd.DataFrame:
        """One row per reply: the rollout's columns, ``turn`` from 1, the text, the tool call in it
        (``tool``, ``arguments``), the tool's ``output``, and ``tokens``."""
        study = read_study(self.path)
        return _frame(
            (
                {
                    **asdict(row.cell),
                    "persona": row.persona,
                    "item": row.item,
                    "sample": row.sample,
                    "turn": number,
                    **asdict(turn),
                }
                for row, turns in zip(study.rows, study.turns, strict=True)
                for number, turn in enumerate(turns, 1)
            ),
            (*CELL, *TURN),
        )

    @spelled("argument")
    def scores(self, instrument: str | None = None, *, cluster: str = "item") -> pd.DataFrame:
        """One row per cell: ``estimate`` is macro-F1 over the personas, or the detection rate for
        one persona; then every metric of the cell by name. Intervals resample prompts and
        scenarios (cluster bootstrap), with the ``cluster`` "family" prompts and families of
        scenarios; those of ``_rows`` columns resample rows, as published. ``instrument`` is what
        read the texts, by default the headline's. Raises BadInput for one that did not."""
        return _frame(map(_score_row, self._scores(cluster, instrument).by_cell))

    @spelled("argument")
    def per_persona(self, *, cluster: str = "item") -> pd.DataFrame:
        """One row per cell and persona, with the columns of `scores`; ``estimate`` is the
        detection rate, the persona's recall."""
        return _frame(map(_score_row, self._scores(cluster).by_persona))

    @spelled("argument")
    def gap(self, *, cluster: str = "item") -> pd.DataFrame:
        """One row per step from chat to agent within a stage: ``from``, ``to``, its ``cause``, and
        the paired difference of macro-F1 (of the detection rate for one persona). ``personas`` are
        those that both have a classified text of, None for all of the study."""
        return _frame(
            (
                {
                    **{name: getattr(step.after, name) for name in STEP[:4]},
                    "from": step.before.label,
                    "to": step.after.label,
                    "cause": step.cause,
                    **_estimate("estimate", step.change),
                    "personas": step.personas,
                }
                for step in self._scores(cluster).comparison.steps
            ),
            STEP,
        )

    @spelled("argument")
    def report(self, folder: str | Path, *, occlusion: int | None = 0) -> Path:
        """Write the report (page, figures, tables) into a folder; gives the path of the page.

        ``occlusion`` is the number of texts whose sentences are shaded by what they contribute to
        the prediction, None for all. Raises BadInput when the extra ``report`` is missing.
        """
        return write_report(self.path, Path(folder), occlusion=occlusion).page

    @spelled("argument")
    def export(self, format: str = "jsonl", target: str | Path | None = None) -> list[Path]:
        """Write the rollouts as jsonl, csv, parquet or inspect logs; gives the files.

        ``target`` is a file (a folder for inspect), by default next to the study.
        """
        return export_study(self.path, format, None if target is None else Path(target))

    def _scores(self, cluster: str, instrument: str | None = None) -> Scores:
        readings = report_study(self.path, cluster=cluster).readings
        name = next(iter(readings)) if instrument is None else instrument
        require_known("--instrument", name, readings)
        return readings[name]

    def _repr_html_(self) -> str:
        """The scores, as a notebook shows them."""
        title = f"<p><code>{escape(str(self.path))}</code></p>"
        try:
            scores = self.scores()
        except BadInput as error:
            return f"{title}<p>{escape(str(error))}</p>"
        columns = ["base", "stage", "condition", "quant", "persona", "n"]
        table = scores[[*columns, "estimate", "ci_low", "ci_high"]]
        html: str = table.to_html(index=False, float_format="{:.3f}".format)
        return title + html


def _frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError:
        raise BadInput("pandas: is not installed; pip install 'charprobe-lite[report]'") from None
    return pd.DataFrame(list(rows), columns=columns)


def _score_row(score: CellScore) -> dict[str, Any]:
    """A score as one flat row: its cell, counts, headline and metrics; curves are left out."""
    values = score.as_json()
    row = {name: values[name] for name in (*CELL, "persona", "n", "started", "yield", "forced")}
    row |= _estimate("estimate", score.headline)
    for metric, intervals in INTERVALS.items():
        row[metric] = values[metric]
        for interval, suffix in zip(intervals, ("ci", "ci_rows"), strict=False):
            row |= _ends(f"{metric}_{suffix}", values[interval])
    row |= {name: values[name] for name in ("precision", "mean_probability")}
    row["train_seed_sd"] = score.train_seed_sd
    return row | _ends("bounds", values["bounds"]) | _estimate("retention", score.retention)


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """The value under ``name``, with the ends of its interval; those of the headline are bare."""
    interval = "ci" if name == "estimate" else f"{name}_ci"
    return {
        name: estimate.value if estimate else None,
        **_ends(interval, estimate.ends if estimate else None),
    }


def _ends(name: str, ends: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = ends or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}
