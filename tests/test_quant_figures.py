"""The figures and tables of a quantization study, and its section of the report."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.report import write_files, write_report
from charprobe_lite.eval.report.figures import canvas, quant_kl, quant_size
from charprobe_lite.eval.report.figures.panels import Point
from charprobe_lite.eval.report.figures.quant_size import front
from charprobe_lite.eval.report.study import ReportStudy, report_study
from charprobe_lite.eval.stats.bootstrap import Estimate
from tests.pages import chat, write_study
from tests.quant_records import ladder


@pytest.fixture(scope="module")
def quants() -> QuantStudy:
    return ladder([0, 0.02, 0.05, 0.1, 0.3, 0.5], items=25)


@pytest.fixture(scope="module")
def study(quants: QuantStudy, tmp_path_factory: pytest.TempPathFactory) -> ReportStudy:
    cell = Cell("kit", "full", "chat", "F16")
    rollouts = [(cell, "humor", f"id-{n}", chat("ha"), "humor") for n in range(2)]
    path = write_study(tmp_path_factory.mktemp("quants") / "small.sqlite", rollouts)
    return report_study(path, quants)


def test_the_front_holds_the_files_than_which_none_is_smaller_and_better() -> None:
    def point(quant: str, bits: float, level: float) -> Point:
        return Point(quant, "merged", bits, Estimate(level, level - 0.1, level + 0.1))

    worse = [point("Q5_1", 6, 0.7), point("IQ4_NL", 4.5, 0.5), point("F16", 16, 0.8)]
    best = [point("Q4_0", 4.5, 0.6), point("Q5_0", 5.5, 0.8), point("Q8_0", 8.5, 0.9)]
    assert front([*worse, *best]) == best


@pytest.mark.parametrize("theme", [canvas.LIGHT, canvas.DARK])
def test_every_file_is_named_in_the_kl_figure_and_no_name_covers_another(
    study: ReportStudy, theme: canvas.Theme
) -> None:
    figure = canvas.drawn(partial(quant_kl.draw, quant_kl.numbers(study)), theme)
    figure.draw_without_rendering()
    [axis] = figure.axes
    assert {name.get_text() for name in axis.texts} == {"Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"}
    boxes = [name.get_window_extent() for name in axis.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_names_of_types_of_nearly_the_same_size_stand_apart(
    study: ReportStudy, quants: QuantStudy
) -> None:
    crowded = replace(
        quants,
        quants=[
            replace(quant, record=replace(quant.record, bits_per_weight=bits))
            for quant, bits in zip(quants.quants, (16, 4.65, 4.6, 4.55, 4.5, 4.5), strict=True)
        ],
    )
    numbers = quant_size.numbers(replace(study, quants=crowded))
    figure = canvas.drawn(partial(quant_size.draw, numbers), canvas.LIGHT)
    figure.draw_without_rendering()
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert sorted(" ".join(each.get_text() for each in labels).split()) == sorted(
        ["Q4_1", "Q4_0", "4.5", "Q5_0", "4.55", "Q5_1", "4.6", "Q8_0", "4.65", "F16", "16"]
    )
    boxes = [_text_lines(each) for each in labels]
    assert not any(
        a.overlaps(b) for one, other in combinations(boxes, 2) for a in one for b in other
    )
    # two types of one size are told apart by a name above their points
    assert {name.get_text() for name in figure.axes[0].texts} == {"Q4_1", "Q4_0"}


def _text_lines(label: Any) -> list[Any]:
    """The boxes of a tick label's lines that hold something, less their leading."""
    from matplotlib.transforms import Bbox

    box, lines = label.get_window_extent(), label.get_text().split("\n")
    height = box.height / len(lines)
    return [
        Bbox.from_extents(box.x0, box.y1 - height * (n + 1) + 2, box.x1, box.y1 - height * n - 2)
        for n, line in enumerate(lines)
        if line
    ]


def test_tables_hold_the_numbers_of_the_figures_and_other_programs_read_them(
    study: ReportStudy, quants: QuantStudy, tmp_path: Path
) -> None:
    written = write_files(study, tmp_path, {})
    files = {file.name: file for file in written.tables}
    pictures = {file.stem for file in written.figures if file.stem.startswith("quant-")}
    assert pictures == {"quant-size", "quant-difference", "quant-kl"}
    assert {f"{name}.csv" for name in pictures} <= set(files)
    differences = pd.read_csv(files["quant-difference.csv"]).set_index("quant")
    worst = quants.quants[-1].cells[0].difference
    assert worst is not None
    assert differences.loc["Q4_0", "difference"] == pytest.approx(worst.change.value)
    assert list(differences["equivalent"])[-1] == "different"
    fidelity = pd.read_parquet(files["quant-kl.parquet"]).set_index("quant")
    assert fidelity.loc["F16", "kl_mean"] == 0
    assert fidelity.loc["Q4_0", "kl_mean"] == pytest.approx(0.81, rel=0.1)
    assert r"Q4\_0" in files["quant-types.tex"].read_text("utf-8")


def test_the_report_has_a_section_with_the_recommendation(
    study: ReportStudy, quants: QuantStudy, tmp_path: Path
) -> None:
    hostile = replace(quants, recommendation="<script>window.owned = 1</script>")
    written = write_report(study, tmp_path / "hostile", quant_study=hostile)
    text = written.page.read_text("utf-8")
    section = text[text.index('id="quantization"') : text.index('id="reading"')]
    assert "&lt;script&gt;window.owned" in section
    assert "<script>" not in section
    images = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', section)
    assert len(images) == len(set(images)) == 6  # three figures, light and dark
    light = written.page.with_name("quant-size.svg").read_bytes()
    assert images[0] == base64.b64encode(light).decode()
    assert re.search(r"<td>Q4_0</td>\s*<td>merged</td>", section)
    page = write_report(study, tmp_path / "plain").page.read_text("utf-8")
    assert 'id="quantization"' not in page
