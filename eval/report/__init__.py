"""The report: one HTML page that needs nothing else, figures and tables as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charprobe_lite.eval.quant.findings import QuantStudy
    from charprobe_lite.eval.report.occlusion import Sentence
    from charprobe_lite.eval.report.recorded import Recorded


@dataclass(frozen=True)
class Written:
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
    study: Recorded,
    folder: Path,
    shaded: Mapping[int, Sequence[Sentence]],
    quants: QuantStudy | None = None,
) -> Written:
    """Write page, figures and tables into ``folder``; the same study gives the same bytes.

    ``shaded`` has the occluded sentences by row index, ``quants`` what a quantization study found.
    Raises BadInput when the extra ``report`` is missing, OSError when the folder takes no files.
    """
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
    return Written(target, figure_files, table_files)
