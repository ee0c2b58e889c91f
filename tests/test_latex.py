"""Tables for papers."""

from __future__ import annotations

from charprobe_lite.eval.quant.tables import Table
from charprobe_lite.eval.report.latex import latex_table


def test_a_table_has_a_label_rules_and_one_column_for_a_value_with_its_interval() -> None:
    records = [
        {
            "base": "llama_3",
            "quant": quant,
            "n": 5,
            "macro_f1": value,
            "macro_f1_low": value - 0.1,
            "macro_f1_high": value + 0.1,
            "change": None if quant == "F16" else -0.4603,
            "never": None,
        }
        for quant, value in (("F16", 0.5), ("Q4_0", 0.0397))
    ]
    assert latex_table(Table("cells", "5% of cells", records)).splitlines() == [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}[t]",
        "\\caption{5\\% of cells (base llama\\_3).}",
        "\\label{tab:cells}",
        "\\begin{tabular}{lrrr}",
        "\\toprule",
        "quant & n & macro-F1 & change \\\\",
        "\\midrule",
        "F16 & 5 & 0.500 [0.400, 0.600] & - \\\\",
        "Q4\\_0 & 5 & 0.040 [$-$0.060, 0.140] & $-$0.460 \\\\",
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]


def test_what_a_model_wrote_cannot_leave_its_cell() -> None:
    text = "a & b \\\\ \\input{x} % # $ {~}^_"
    (row,) = [
        line
        for line in latex_table(Table("t", "T", [{"a": text}])).splitlines()
        if line.startswith("a \\&")
    ]
    assert row == ("a \\& b // /input\\{x\\} \\% \\# \\$ \\{\\textasciitilde{}\\}\\^{}\\_ \\\\")
