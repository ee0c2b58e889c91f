"""Running what is asked and printing its scores, for the commands that do so."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from charprobe_lite.eval.cli.options import console_of, conversion_bar, note
from charprobe_lite.eval.scores.cells import Scores, score_study, scores_by_quant
from charprobe_lite.eval.scores.gap import comparison_json
from charprobe_lite.eval.scores.terminal import conclusion, gap_table, score_table
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.checkpoints import Files
from charprobe_lite.eval.study.cost import Forecast, forecast, table
from charprobe_lite.eval.study.file_cost import cost_of, distinct
from charprobe_lite.eval.study.progress import watching
from charprobe_lite.eval.study.runner import Settings, Task, plan, run
from charprobe_lite.eval.study.spec import (
    DESCRIPTION,
    Asked,
    files_of,
    settings_of,
    study_path,
    wanted_of,
)
from charprobe_lite.models.catalogue import load_catalogue
from charprobe_lite.models.gguf_header import WeightSummary, weight_summary


@dataclass(frozen=True)
class Ran:
    """A study that is through: what was asked of it, and the files that it ran on."""

    path: Path
    settings: Settings
    files: list[Files]
    tasks: list[Task]


@dataclass(frozen=True)
class Measured:
    """A study that is through, with its scores and its model files' weights by quant type."""

    path: Path
    scores: Scores
    weights: dict[str, WeightSummary]

    def as_json(self) -> dict[str, Any]:
        """The document that ``eval --json`` prints; ``weights`` are those of the first type."""
        held = {quant: asdict(each) for quant, each in self.weights.items()}
        return {
            "cells": [score.as_json() for score in self.scores.by_cell],
            "per_persona": [score.as_json() for score in self.scores.by_persona],
            **comparison_json(self.scores.comparison),
            "weights": next(iter(held.values()), None),
            "quants": held,
            "study": str(self.path),
        }


def measure(asked: Asked) -> Measured:
    """Run what is missing of a study, and score what was asked. Raises BadInput."""
    ran = run_asked(asked)
    with Store(ran.path, readonly=True) as store:
        scores = _scores(store, ran.tasks, ran.settings)
    held: dict[str, WeightSummary] = {}
    for files in ran.files:
        if files.models and files.quant not in held:
            held[files.quant] = weight_summary(files.models[0])
    return Measured(ran.path, scores, held)


def run_asked(asked: Asked) -> Ran:
    """Run what is missing of a study, and record what its files hold. Raises BadInput."""
    settings = settings_of(asked)
    several = files_of(asked, settings, note, conversion_bar)
    path = study_path(asked, several[0].base)
    groups = plan(settings, *several)
    tasks = [task for group in groups.values() for task in group]
    _note_left_out(settings, tasks)
    with Store(path) as store:
        _pin(store, asked, settings, several)
        for files in distinct(several):
            store.add_file(cost_of(files))
        with watching(settings.personas) as progress:
            run(groups, settings, several[0], store, progress)
    return Ran(path, settings, several, tasks)


def _note_left_out(settings: Settings, tasks: list[Task]) -> None:
    """Name the conditions that do not fit the stages, personas and inputs that were asked for."""
    asked = {task.cell.condition for task in tasks}
    for name in settings.conditions:
        if name not in asked:
            note(f"{name}: left out, nothing to ask with these options")


def _pin(store: Store, asked: Asked, settings: Settings, several: list[Files]) -> None:
    """Record what the study is made with; what must not differ between its runs is checked."""
    import platform
    from importlib.metadata import version

    from charprobe_lite.eval.store.provenance import input_hashes

    inputs = input_hashes(settings.prompt_file, settings.scenario_file)
    store.pin(
        {
            "seed": settings.seed,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens,
            "max_steps": settings.max_steps,
            **({} if asked.served else {"context": settings.context}),
            **{f"served {role}": name for each in several for role, name in each.served.items()},
            **{f"sha256 {name}": digest for name, digest in inputs.items()},
            **{f"sha256 {role}": d for each in several for role, d in each.hashes().items()},
        }
    )
    packages = ("charprobe-lite", "llama-cpp-python", "onnxruntime", "numpy", "tokenizers")
    store.note(
        {
            "packages": {name: version(name) for name in packages},
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "arguments": sys.argv[1:],
            "parallel": settings.parallel,
            "gpu_layers": settings.gpu_layers,
            DESCRIPTION: asked.recorded(),
        }
    )


def _scores(store: Store, tasks: list[Task], settings: Settings) -> Scores:
    """Scores of the cells that were asked for, over the rollouts that were asked for."""
    wanted = {task.key for task in tasks}
    rows = [r for r in store.rows() if r.key in wanted]
    cells = list(dict.fromkeys(task.cell for task in tasks))
    return score_study(rows, cells, settings.personas, settings.seed)


def show(measured: Measured) -> None:
    """Print the scores, quant type by quant type."""
    console = console_of(140)
    for quant, scores in scores_by_quant(measured.scores).items():
        held = measured.weights.get(quant)
        first, shown = scores.by_cell[0], quant or "no model"
        if held:
            shown += f", {held.bits_per_weight:.2f} bits per weight"
        console.print(score_table(scores.by_cell, f"{first.persona} on {first.base} ({shown})"))
        if scores.by_persona != scores.by_cell:
            console.print(score_table(scores.by_persona, "per persona"))
            console.print(gap_table(scores.comparison))
        console.print(conclusion(scores.by_cell), soft_wrap=True)
    click.echo(f"study: {measured.path}")


def show_forecast(asked: Asked, as_json: bool) -> None:
    """Print what a study would fetch, make and cost. Raises BadInput for what does not fit."""
    settings = settings_of(asked)
    found = forecast(wanted_of(asked, settings), load_catalogue(), settings)
    if as_json:
        click.echo(json.dumps(found.as_json()))
    else:
        print_forecast(found)
    found.refuse_what_does_not_fit()


def print_forecast(found: Forecast) -> None:
    """The forecast as a table and its totals in words."""
    console = console_of(140)
    console.print(table(found))
    for line in found.lines():
        click.echo(line)
