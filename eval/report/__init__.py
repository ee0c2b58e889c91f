"""The report: one HTML page that needs nothing else, with its figures and tables as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from charprobe_lite.eval.quant.findings import QuantStudy
    from charprobe_lite.eval.quant.tables import Table
    from charprobe_lite.eval.report.occlusion import ProgressBar, Sentence
    from charprobe_lite.eval.report.study import ReportStudy
    from charprobe_lite.eval.store.reader import Study


@dataclass(frozen=True)
class WrittenReport:
    """The files of a report."""

    page: Path
    figures: list[Path]
    tables: list[Path]

    def as_json(self) -> dict[str, Any]:
        """The paths as ``--json`` prints them."""
        figures, tables = [*map(str, self.figures)], [*map(str, self.tables)]
        return {"page": str(self.page), "figures": figures, "tables": tables}


def write_report(
    study: Path | Study,
    folder: Path,
    *,
    occlusion: int | None = 0,
    classifier: Path | None = None,
    cluster: str = "item",
    scenarios: Path | None = None,
    progress: ProgressBar | None = None,
    quant_study: QuantStudy | None = None,
) -> WrittenReport:
    """Write page, figures and tables of a study into ``folder``.

    ``occlusion`` is the number of samples whose sentences are shaded, None for all of them;
    ``classifier`` the folder of the classifier that made the predictions, the kit's without one.
    ``cluster`` and ``scenarios`` say what the intervals resample, see `study_clusters`; those of
    quant types resample prompts and scenarios.
    ``quant_study`` replaces the comparison of quant types over all of the study. Raises BadInput
    for a study that cannot be reported, a folder that takes no files, and when the extra
    ``report`` is missing. The same study gives the same bytes.
    """
    from charprobe_lite.eval.report.occlusion import occlude_study
    from charprobe_lite.eval.report.study import report_study

    source = report_study(study, quant_study, cluster, scenarios)
    occlusions = {} if occlusion == 0 else occlude_study(source, occlusion, classifier, progress)
    try:
        return write_files(source, folder, occlusions)
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder}: cannot be written ({error.strerror}); name another folder"
        ) from None


def write_files(
    study: ReportStudy, folder: Path, occlusions: Mapping[int, Sequence[Sentence]]
) -> WrittenReport:
    """Write the files of a report; ``occlusions`` has the occluded sentences by row index."""
    try:
        import matplotlib  # noqa: F401
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise BadInput(
            f"report: {error.name} is not installed; pip install 'charprobe-lite[report]'"
        ) from None
    from charprobe_lite.eval.quant.tables import Table, quant_tables
    from charprobe_lite.eval.report import html
    from charprobe_lite.eval.report.figures import all_figures, canvas

    folder.mkdir(parents=True, exist_ok=True)
    page_tables = [study.cells_table, *(quant_tables(study.quants) if study.quants else [])]
    figure_tables, figure_files, pictures = [], [], []
    for figure in all_figures():
        if not (data := figure.numbers(study)):
            continue
        caption = figure.caption.format(study=study)
        table = Table(figure.name, caption, figure.records(data))
        figure_tables += [table] if table.records else []
        draw = partial(figure.draw, data)
        if files := canvas.save(draw, folder / figure.name):
            figure_files += files
            dark = canvas.image(canvas.drawn(draw, canvas.DARK))
            alt = figure.alt.format(study=study)
            pictures.append(html.Picture(figure, alt, files[0].read_bytes(), dark, table))
    table_files = [
        file for table in page_tables + figure_tables for file in _save_table(table, folder)
    ]
    target = folder / "report.html"
    # a file name may hold bytes that no encoding has
    text = html.page(study, pictures, page_tables, occlusions).encode("utf-8", "replace")
    target.write_bytes(text)
    return WrittenReport(target, figure_files, table_files)


def _save_table(table: Table, folder: Path) -> list[Path]:
    """Write a table as CSV, Parquet and LaTeX."""
    import pandas as pd

    from charprobe_lite.eval.report.latex import latex_table

    frame = pd.DataFrame(table.records)
    csv, parquet, tex = files = [
        folder / f"{table.name}.{kind}" for kind in ("csv", "parquet", "tex")
    ]
    frame.to_csv(csv, index=False, lineterminator="\n")
    frame.to_parquet(parquet, index=False)
    tex.write_text(latex_table(table), "utf-8")
    return files
