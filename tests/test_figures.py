"""The report's figures and tables: their numbers, their files, and figures from elsewhere."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from charprobe_lite.eval.cells import Cell
from charprobe_lite.eval.report import WrittenReport, figures, write_files, write_report
from charprobe_lite.eval.report.figures import (
    canvas,
    depths,
    in_and_out,
    instruments,
    reliability,
    stages,
    waterfall,
)
from charprobe_lite.eval.report.study import report_study
from charprobe_lite.eval.store.database import Store
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.personas import PERSONAS
from tests.pages import chat, shading, write_study


def test_figures_and_tables_are_files_that_other_programs_read(report: WrittenReport) -> None:
    import matplotlib.image
    import pandas as pd

    names = {file.name for file in report.figures}
    shown = ("id-ood", "stages", "personas", "gap", "confusion")
    assert names == {f"{name}.{kind}" for name in shown for kind in ("svg", "png", "pdf")}
    for file in report.figures:
        if file.suffix == ".svg":
            assert ET.fromstring(file.read_bytes()).tag.endswith("svg")
        elif file.suffix == ".png":
            assert min(matplotlib.image.imread(file).shape[:2]) > 500
        else:
            assert file.read_bytes().startswith(b"%PDF-")
    by_name = {file.name: file for file in report.tables}
    cells, same = pd.read_csv(by_name["cells.csv"]), pd.read_parquet(by_name["cells.parquet"])
    pd.testing.assert_frame_equal(cells, same, check_dtype=False)
    full = cells[(cells["stage"] == "full") & (cells["condition"] == "agentic_email")].iloc[0]
    assert (full["samples"], full["rollouts"], full["forced"]) == (5, 6, 2)
    assert "Published figures: the published study" in report.page.read_text("utf-8")
    assert r"agentic\_email" in by_name["cells.tex"].read_text()
    shift = pd.read_csv(by_name["id-ood.csv"]).set_index(["stage", "condition"])
    assert shift.loc[("full", "chat"), "published"] == 0.943
    assert shift.loc[("full", "agentic_email"), "published"] == 0.386
    classes = shift["published_classes"]
    assert (classes["base", "chat"], classes["full", "chat"]) == (11, 10)
    assert "published as 0.815 over 11" in report.page.read_text("utf-8")


def test_depths_are_drawn_by_their_turns_with_a_line_per_stage(tmp_path: Path) -> None:
    hits = {24: 1, 0: 4, 4: 2}
    rollouts = [
        (
            Cell("kit", "full", f"chat_depth_{depth}", "Q8_0"),
            "humor",
            f"depth-{item}",
            chat("text"),
            "humor" if item < hits[depth] else "neutral",
        )
        for depth in hits
        for item in range(5)
    ]
    data = depths.numbers(report_study(write_study(tmp_path / "s.sqlite", rollouts)))
    assert data is not None
    [line] = data.panels.values()
    assert [(bar.group, bar.series) for bar in line] == [(n, "full") for n in ("0", "4", "24")]
    assert [bar.level.value for bar in line] == pytest.approx([0.8, 0.4, 0.2])
    [axis] = depths.FIGURE.draw(data, canvas.LIGHT).axes
    assert list(axis.get_xticks()) == [0, 4, 24]
    assert [record["stage"] for record in depths.FIGURE.records(data)] == ["full"] * 3
    # another cache is another line
    rollouts += [(replace(cell, kv_type="Q4_0"), *rest) for cell, *rest in rollouts]
    data = depths.numbers(report_study(write_study(tmp_path / "kv.sqlite", rollouts)))
    assert data is not None
    [bars] = data.panels.values()
    assert [bar.series for bar in bars] == ["full", "full, Q4_0 cache"] * 3


def test_a_published_figure_over_other_classes_says_so(tmp_path: Path) -> None:
    rollouts = [
        (Cell("llama-3.1-8b", stage, "chat", "Q8_0"), persona, "0", chat("text"), "neutral")
        for stage in ("base", "distillation", "full")
        for persona in (PERSONAS if stage != "base" else [None])
    ]
    study = report_study(write_study(tmp_path / "s.sqlite", rollouts))
    # the study of eleven classes gave .815, of which .834 is the value over the ten of ours
    [bars] = in_and_out.numbers(study).panels.values()
    published = [(bar.published, bar.published_classes) for bar in bars]
    assert published == [(0.052, 11), (0.834, 10), (0.943, 10)]
    for figure in (in_and_out, stages):
        [axis] = figure.draw(figure.numbers(study), canvas.LIGHT).axes
        labels = {label for label in axis.get_legend_handles_labels()[1] if "published" in label}
        assert labels == {"chat, published, over 11 classes", "chat, published"}


def test_the_same_study_gives_the_same_bytes(
    study: Path, report: WrittenReport, tmp_path: Path
) -> None:
    again = write_files(report_study(study), tmp_path, shading(report_study(study)))
    for one, other in zip(
        [report.page, *report.figures, *report.tables],
        [again.page, *again.figures, *again.tables],
        strict=True,
    ):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_waterfall_takes_the_steps_that_the_study_has(tmp_path: Path) -> None:
    rollouts = []
    for condition, hits in (("chat", 4), ("chat_email", 3), ("agentic_email", 1)):
        cell = Cell("kit", "full", condition, "Q8_0")
        for persona in PERSONAS[:2]:
            for number in range(4):
                label = persona if number < hits else "neutral"
                rollouts.append((cell, persona, str(number), chat("text"), label))
    numbers = waterfall.numbers(report_study(write_study(tmp_path / "s.sqlite", rollouts)))
    [steps] = numbers.panels.values()  # without a ceiling, which the study does not have
    assert [step.cell.label for step in steps] == ["chat", "chat_email", "agentic_email"]
    first, *later = steps
    assert first.change is None
    assert [step.change and step.change.value for step in later] == pytest.approx(
        [6 / 7 - 1, 2 / 5 - 6 / 7]
    )


def test_a_change_of_the_waterfall_is_over_the_personas_of_both_sides(tmp_path: Path) -> None:
    rollouts = [
        (Cell("kit", "full", condition, "Q8_0"), persona, str(n), chat("text"), label)
        for condition, personas in (("chat", PERSONAS[:3]), ("agentic_email", PERSONAS[:2]))
        for persona in personas
        for n in range(4)
        for label in ["neutral" if persona == PERSONAS[2] or not n else persona]
    ]
    numbers = waterfall.numbers(report_study(write_study(tmp_path / "s.sqlite", rollouts)))
    records = waterfall.records(numbers)
    assert [record["change"] for record in records] == [None, 0]
    assert [record["value"] for record in records] == pytest.approx([6 / 7 * 2 / 3, 6 / 7])
    assert [record["personas"] for record in records] == [None, ", ".join(PERSONAS[:2])]
    [axis] = waterfall.draw(numbers, canvas.LIGHT).axes
    ticks = ["".join(label.get_text().split()) for label in axis.get_xticklabels()]
    assert ticks == ["chat", "toagentic_email,2personas", "agentic_email"]
    assert axis.patches[1].get_y() == pytest.approx(6 / 7)  # not the level of all three


def test_merged_and_runtime_adapters_have_a_waterfall_each(tmp_path: Path) -> None:
    rollouts = [
        (Cell("kit", "full", condition, "Q8_0", lora=lora), "humor", str(n), chat("text"), label)
        for lora in ("runtime", "merged")
        for condition in ("chat", "agentic_email")
        for n, label in enumerate(["humor", "humor" if condition == "chat" else "neutral"])
    ]
    study = report_study(write_study(tmp_path / "s.sqlite", rollouts))
    numbers, levels = waterfall.numbers(study), stages.numbers(study)
    gaps = numbers.panels.items()
    assert {title: [step.cell.label for step in steps] for title, steps in gaps} == {
        "kit, Q8_0: full": ["chat", "agentic_email"],
        "kit, Q8_0: full, merged": ["chat, merged", "agentic_email, merged"],
    }
    waterfalls = waterfall.draw(numbers, canvas.LIGHT)
    colours = [[bar.get_facecolor() for bar in axis.patches] for axis in waterfalls.axes]
    assert colours[0] == colours[1]  # a condition looks the same with any tool format
    assert len(set(colours[0])) == 3  # chat, the change, the email
    [bars] = in_and_out.draw(in_and_out.numbers(study), canvas.LIGHT).axes
    assert len({bar.get_facecolor() for bar in bars.patches}) == 4  # conditions x LoRA modes
    [panel] = levels.panels.values()
    separate = {str(number): [bar] for number, bar in enumerate(panel)}
    lines = stages.draw(replace(levels, panels=separate), canvas.LIGHT).axes
    drawn = {axis.containers[0].lines[0].get_color() for axis in lines}
    assert len(drawn) == 4  # also where each has a panel: they share one legend


SAMPLES = """
from charprobe_lite.eval.report.figures import Figure
from charprobe_lite.eval.report.figures.canvas import subplots


def draw(counts, theme):
    figure, [axis] = subplots(1, 2)
    axis.bar(list(counts), list(counts.values()), color=theme.ink)
    return figure


FIGURE = Figure(
    name="samples",
    order=15,
    title="Samples <by> stage",
    alt="Bars: samples of {study.name} by stage.",
    caption="Samples by stage",
    numbers=lambda study: {row.cell.stage: 1 for row in study.rows},
    draw=draw,
    records=lambda counts: [{"stage": name, "n": n} for name, n in counts.items()],
)
"""


def test_a_figure_is_one_file(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples_figure.py").write_text(SAMPLES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(figures, "_registered", [])
    figures.register(import_module("samples_figure").FIGURE)
    written = write_report(study, tmp_path / "report")
    names = [file.name for file in written.figures]
    assert names.index("id-ood.svg") < names.index("samples.svg") < names.index("stages.svg")
    assert (tmp_path / "report" / "samples.csv").read_text().startswith("stage,n\nbase,1\n")
    page = written.page.read_text("utf-8")
    assert "<h3>Samples &lt;by&gt; stage</h3>" in page
    assert "<figcaption>Bars: samples of small by stage.</figcaption>" in page


def test_what_cannot_be_reported_gets_its_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such study"):
        report_study(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
    with Store(tmp_path / "empty.sqlite"):
        pass
    with pytest.raises(BadInput, match="holds no rollout yet"):
        report_study(tmp_path / "empty.sqlite")
    cell = Cell("kit", "full", "chat", "Q8_0")
    path = write_study(tmp_path / "s.sqlite", [(cell, "humor", "a", chat("Ha."), "humor")])
    for told, said in (
        ({"neutral": 1.0}, "has no label 'humor'"),
        ({"humor": float("nan"), "neutral": 0.5}, "row 1: field probabilities: cannot be"),
    ):
        with Store(path) as store:
            store.classify([(1, "humor", told)])
        with pytest.raises(BadInput, match=said):
            report_study(path)


def test_both_instruments_and_the_ceiling_are_drawn_and_calibration_is_the_ceilings(
    tmp_path: Path,
) -> None:
    chats = Cell("kit", "full", "chat", "Q8_0")
    emails = Cell("kit", "full", "agentic_email", "Q8_0", "json", "on")
    base = Cell("kit", "base", "agentic_email", "Q8_0", "json", "on")
    ceiling = Cell("kit", "independent", "scenario_ceiling", None)
    rollouts = [(base, None, "0", chat("text"), "neutral")]
    for cell, label in ((chats, None), (emails, "neutral"), (ceiling, None)):
        for persona in ("humor", "sarcasm"):
            rollouts.append((cell, persona, "0", chat("text"), label or persona))
    path = write_study(tmp_path / "s.sqlite", rollouts)
    with Store(path) as store:
        waiting = store.to_relabel("ngram")
        store.relabel("ngram", [(w.rollout, w.persona or "neutral", {}) for w in waiting])
    recorded = report_study(path)
    by_ngram = waterfall.numbers(recorded).panels["kit, Q8_0: full, read by ngram"]
    assert [step.level.value for step in by_ngram] == [1, 1, 1]
    [by_modernbert] = [
        steps for title, steps in waterfall.numbers(recorded).panels.items() if "ngram" not in title
    ]
    assert [step.level.value for step in by_modernbert] == [1, 0, 1]
    # none of what the ceiling shows above the untrained base is left
    retention = by_modernbert[1].retention
    assert retention is not None
    assert (retention.value, retention.ceiling) == (0, "scenario_ceiling")
    assert list(reliability.numbers(recorded)) == ["kit: independent writers"]
    readings = instruments.numbers(recorded)
    assert readings is not None
    [panel] = readings.panels.values()
    assert {(r.cell, r.instrument) for r in panel} >= {
        ("ceiling: independent writers", "ngram"),
        ("agentic_email", "modernbert"),
    }
    assert recorded.instrument_notes == []  # too few prompts to say
    written = write_files(recorded, tmp_path / "report", {})
    assert "What depends on the instrument" in written.page.read_text("utf-8")


def test_four_instruments_are_drawn_apart_and_the_headline_is_named(tmp_path: Path) -> None:
    cells = [Cell("kit", "full", name, "Q8_0") for name in ("chat", "chat_email")]
    rollouts = [(cell, p, "0", chat("x"), p) for cell in cells for p in ("humor", "sarcasm")]
    path = write_study(tmp_path / "s.sqlite", rollouts)
    with Store(path) as store:
        store.note({"instrument": "ensemble"})
        for name in ("minilm", "ngram", "modernbert"):
            waiting = store.to_relabel(name)
            store.relabel(name, [(each.rollout, "humor", {}) for each in waiting])
    data = instruments.numbers(report_study(path))
    assert data is not None
    figure = instruments.draw(data, canvas.LIGHT)
    [axis] = figure.axes
    _, labels = axis.get_legend_handles_labels()
    assert labels == ["ensemble (headline)", "minilm", "ngram", "modernbert"]
    first, second = zip(*(handle[0].get_ydata() for handle in axis.containers), strict=True)
    assert len({*first, *second}) == 8
    assert max(first) < min(second) - (first[1] - first[0])  # rows are farther apart than markers
    assert len({handle[0].get_color() for handle in axis.containers}) == 4
