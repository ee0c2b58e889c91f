"""The report: one HTML page that needs nothing else, with its figures and tables as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from charprobe_lite.eval.quant.findings import QuantStudy
    from charprobe_lite.eval.report.occlusion import Sentence
    from charprobe_lite.eval.report.study import ReportStudy
    from charprobe_lite.eval.store.reader import Study

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""Opens a bar of this name and length; calls of what it gives advance the bar by one."""


@dataclass(frozen=True)
class WrittenReport:
    """The files of a report."""

    page: Path
    figures: list[Path]
    tables: list[Path]

    def as_json(self) -> dict[str, Any]:
        """The paths as ``--json`` prints them."""
        return {
            "page": str(self.page),
            "figures": [str(file) for file in self.figures],
            "tables": [str(file) for file in self.tables],
        }


def write_report(
    study: Path | Study,
    folder: Path,
    *,
    occlusion: int | None = 0,
    classifier: Path | None = None,
    progress: ProgressBar | None = None,
    quant_study: QuantStudy | None = None,
) -> WrittenReport:
    """Write page, figures and tables of a study into ``folder``.

    ``occlusion`` is the number of samples whose sentences are shaded, None for all of them;
    ``classifier`` the folder of the classifier that made the predictions, the kit's without one.
    ``quant_study`` replaces the comparison of quant types over all of the study. Raises BadInput
    for a study that cannot be reported, a folder that takes no files, and when the extra
    ``report`` is missing. The same study gives the same bytes.
    """
    from charprobe_lite.eval.report.occlusion import occlude_study
    from charprobe_lite.eval.report.study import report_study

    source = report_study(study)
    quants = quant_study or _quant_study(source)
    sentences = {}
    if occlusion != 0:
        sentences = occlude_study(source, occlusion, classifier, progress)
    try:
        return write_files(source, folder, sentences, quants)
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder}: cannot be written ({error.strerror}); name another folder"
        ) from None


def write_files(
    study: ReportStudy,
    folder: Path,
    shaded: Mapping[int, Sequence[Sentence]],
    quants: QuantStudy | None = None,
) -> WrittenReport:
    """Write the files of a report; ``shaded`` has the occluded sentences by row index."""
    from charprobe_lite.eval.quant.tables import quant_tables
    from charprobe_lite.eval.report import figures, quant_figures, tables
    from charprobe_lite.eval.report.estimates import find
    from charprobe_lite.eval.report.html import Picture, page

    found = find(study)
    drawn, numbers = figures.drawings(found), tables.tables(found)
    if quants is not None:
        drawn += quant_figures.quant_drawings(quants)
        numbers += quant_tables(quants)
    folder.mkdir(parents=True, exist_ok=True)
    figure_files, pictures = [], []
    for drawing in drawn:
        files = figures.save(drawing, folder)
        figure_files += files
        light, dark = files[0].read_bytes(), figures.svg(drawing, figures.DARK)
        pictures.append(Picture(drawing.name, drawing.title, drawing.alt, light, dark))
    table_files = [file for table in numbers for file in tables.save(table, folder)]
    target = folder / "report.html"
    # a file name may hold bytes that no encoding has
    text = page(study, found, pictures, numbers, shaded, quants).encode("utf-8", "replace")
    target.write_bytes(text)
    return WrittenReport(target, figure_files, table_files)


def _quant_study(study: ReportStudy) -> QuantStudy | None:
    """The scores of the study's quant types; None without F16 and another type."""
    from charprobe_lite.eval.quant.records import score_recorded_study
    from charprobe_lite.eval.store.database import Store

    with Store(study.path, readonly=True) as store:
        return score_recorded_study(store, study.personas)
