"""The page: everything in one HTML file that loads no other.

Model text reaches the page in one way only: as JSON in a data block, with ``<``, ``>`` and ``&``
escaped, which the script shows through ``textContent``. A content security policy with the hashes
of the one script and the one style allows nothing else to run or load (CSP Level 3, sections 4
and 6.7; Trusted Types, so that the script cannot write markup either).
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from charprobe_lite.eval.cells import Cell, RecordedTurn, Row
from charprobe_lite.eval.quant.tables import Table, readable
from charprobe_lite.eval.report.figures import Figure
from charprobe_lite.eval.report.figures.panels import published_study
from charprobe_lite.eval.report.occlusion import Sentence
from charprobe_lite.eval.report.study import ReportStudy

POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
FIRST = "id-ood"
"""The figure above everything, where a study has it."""
NUMBER = re.compile(r"-|[-+]?[\d.,]+(e[-+]?\d+)?%?( \[[^\]]*\])?")


@dataclass(frozen=True)
class Picture:
    """A figure on the page: SVG for light and for dark paper, and the table of its numbers."""

    figure: Figure[Any]
    alt: str
    light: bytes
    dark: bytes
    table: Table


def page(
    study: ReportStudy,
    pictures: Sequence[Picture],
    tables: Sequence[Table],
    occlusions: Mapping[int, Sequence[Sentence]],
) -> str:
    """The report as HTML, with the occluded sentences by row index.

    ``tables``: that of all cells, then those of a quantization study that belong to no picture.
    """
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("charprobe_lite.eval.report")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_url"] = lambda svg: f"data:image/svg+xml;base64,{_base64(svg)}"
    environment.filters["readable"] = readable
    environment.filters["numeric"] = _numeric
    files = resources.files("charprobe_lite.eval.report")
    style, *parts = (
        (files / name).read_text("utf-8") for name in ("page.css", "page.js", "labelling.js")
    )
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    records = [record for picture in pictures for record in picture.table.records]
    published = any(record.get("published") is not None for record in records)
    return environment.get_template("page.html.j2").render(
        study=study,
        first=next((each for each in pictures if each.figure.name == FIRST), None),
        pictures=pictures,
        cells=tables[0],
        quant_tables=tables[1:],
        style=style,
        script=script,
        policy=POLICY.format(script=_hash(script), style=_hash(style)),
        island=island(study, occlusions),
        shaded=len(occlusions),
        published="{source}; {note}".format_map(published_study()) if published else None,
    )


def island(study: ReportStudy, occlusions: Mapping[int, Sequence[Sentence]]) -> str:
    """The samples as JSON that no HTML parser sees an end tag or a comment in."""
    cells = list(dict.fromkeys(row.cell for row in study.rows))
    cells.sort(key=lambda cell: (study.cells.index(cell.pooled), cell.train_seed or 0))
    places = {cell: number for number, cell in enumerate(cells)}
    samples = [
        _sample(study, places[row.cell], row, turns, occlusions.get(number))
        for number, (row, turns) in enumerate(zip(study.rows, study.turns, strict=True))
    ]
    data = {
        "study": study.name,
        "labels": study.labels,
        "personas": study.personas,
        "cells": [{**_texts(cell), "way": cell.label} for cell in cells],
        "asked": _requests(study),
        "typical": study.typical,
        "samples": samples,
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    data["key"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _numeric(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns that hold nothing but numbers, with or without an interval."""
    values = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    return [
        name
        for name, column in values.items()
        if all(NUMBER.fullmatch(value) for value in column) and any(v != "-" for v in column)
    ]


def _texts(cell: Cell) -> dict[str, str | int]:
    """A cell as page.js reads it: an empty text for what does not apply."""
    return {name: "" if value is None else value for name, value in asdict(cell).items()}


def _sample(
    study: ReportStudy,
    cell: int,
    row: Row,
    turns: Sequence[RecordedTurn],
    sentences: Sequence[Sentence] | None,
) -> list[Any]:
    """One sample as page.js reads it: a list, since twenty thousand of them repeat no names."""
    probabilities = row.probabilities
    rounded = probabilities and [
        round(probabilities[label], 4) if label in probabilities else None for label in study.labels
    ]
    return [
        *(cell, row.persona or "", row.item, row.sample, row.outcome, int(row.forced)),
        *(row.prediction, rounded, row.text, [_turn(row, turn) for turn in turns]),
        sentences and [[_utf16(s.text), round(s.weight, 4)] for s in sentences],
    ]


def _turn(row: Row, turn: RecordedTurn) -> list[Any]:
    """Text, finish, tool, arguments, output; a text that says nothing new is left out."""
    repeats = _is_call(turn) if turn.tool is not None else turn.text.strip() == row.text
    return [None if repeats else turn.text, turn.finish, turn.tool, turn.arguments, turn.output]


def _is_call(turn: RecordedTurn) -> bool:
    """Whether the turn's text is its tool call and nothing else."""
    try:
        call = json.loads(turn.text, strict=False)
    except (ValueError, RecursionError):
        return False
    return bool(call == {"name": turn.tool, "arguments": turn.arguments})


def _requests(study: ReportStudy) -> dict[str, str]:
    """The request of each item, for a study of the shipped prompts and scenarios."""
    from charprobe_lite.eval.conditions.condition import input_hashes
    from charprobe_lite.models.axes import AXIS_OF, load_axis
    from charprobe_lite.models.prompts import load_prompts
    from charprobe_lite.models.scenarios import load_scenarios

    shipped = input_hashes(None, None)
    texts: dict[str, str] = {}
    if study.provenance.get("sha256 prompts") == shipped["prompts"]:
        texts |= {prompt.id: prompt.text for prompt in load_prompts()}
    if study.provenance.get("sha256 scenarios") == shipped["scenarios"]:
        texts |= {scenario.id: scenario.task for scenario in load_scenarios()}
    if study.provenance.get("sha256 axes") == shipped["axes"]:
        texts |= {each.id: each.request() for kind in AXIS_OF for each in load_axis(kind)}
    # break_character's items are a prompt's with a suffix
    items = {row.item: texts.get(row.item.partition("+")[0]) for row in study.rows}
    return {item: text for item, text in items.items() if text}


def _utf16(text: str) -> int:
    """Length as the page's script counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _hash(text: str) -> str:
    return "sha256-" + _base64(hashlib.sha256(text.encode()).digest())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
