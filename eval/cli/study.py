"""`charprobe-lite study`: grids that a file describes, planned, run in parts, resumed, merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.eval.cli.options import budget_option, json_option, shard_option
from charprobe_lite.eval.cli.progress import item_bar, note, table_console
from charprobe_lite.eval.cli.quant_study import show as show_quants
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from charprobe_lite.eval.study.cost import Forecast
    from charprobe_lite.eval.study.spec import StudySpec
    from charprobe_lite.eval.study.status import StudyStatus


@click.group()
def study() -> None:
    """Run grids that a study file (YAML) describes; plan, resume, share and merge them.

    \b
    base: smollm2-135m            # or several: [NAME, NAME]
    stage: [base, full]
    persona: all
    condition: [chat, agentic_email]
    quant: [F16, Q8_0, Q4_0]
    lora: [runtime, merged]
    limit: {prompts: 40, scenarios: 25}
    seed: 0                       # or several: [0, 1, 2]
    repeats: 1
    texts: 4                      # makes it a quantization study, as quant-study runs them
    """


@study.command()
@click.argument("file", type=FILE)
@budget_option
@shard_option
@json_option
def plan(
    file: Path, budget: int | str | None, shard: tuple[int, int] | None, as_json: bool
) -> None:
    """Say what a study file asks for and what it costs in disk, memory and time."""
    from charprobe_lite.eval.cli.measure import print_forecast
    from charprobe_lite.eval.study.status import study_status

    parts = _parts(file, budget, shard)
    statuses = [study_status(spec) for spec in parts]
    costs = _costs(parts)
    if as_json:
        studies = [status.as_json() for status in statuses]
        forecasts = [{"base": base, **found.as_json()} for base, found in costs.items()]
        click.echo(json.dumps({"studies": studies, "forecasts": forecasts}))
    else:
        _print_statuses(statuses)
        for found in costs.values():
            print_forecast(found)
    for found in costs.values():
        found.refuse_what_does_not_fit()


@study.command()
@click.argument("file", type=FILE)
@budget_option
@shard_option
@click.option("--study", "target", type=FILE, help="The file to write, instead of the one named.")
@json_option
def run(
    file: Path,
    budget: int | str | None,
    shard: tuple[int, int] | None,
    target: Path | None,
    as_json: bool,
) -> None:
    """Run what is missing of what a study file asks for, and print its scores.

    Several machines each run a part with --shard 1/4, 2/4, ...; study merge joins them.
    """
    parts = _parts(file, budget, shard)
    if target and len(parts) > 1:
        raise BadInput(f"--study {target}: {file} makes {len(parts)} studies; leave it out")
    _run([part.with_values(study=target or part.study) for part in parts], as_json)


@study.command()
@click.argument("study", type=FILE)
@json_option
def resume(study: Path, as_json: bool) -> None:
    """Go on with a study (SQLite), or with all that a study file describes.

    A study says itself what it was asked, by eval and quant-study too.
    """
    _run(_parts(study), as_json)


@study.command()
@click.argument("study", type=FILE)
@json_option
def status(study: Path, as_json: bool) -> None:
    """Say what of a study (SQLite) or study file is done, cell by cell; also while it runs."""
    from charprobe_lite.eval.study.status import study_status

    statuses = [study_status(spec) for spec in _parts(study)]
    if as_json:
        click.echo(json.dumps({"studies": [status.as_json() for status in statuses]}))
        return
    _print_statuses(statuses)


@study.command()
@click.argument("studies", nargs=-1, required=True, type=FILE, metavar="STUDY...")
@click.option("-o", "--output", required=True, type=FILE, help="The new study; must not exist.")
@json_option
def merge(studies: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Join parts of one study into a new file; rollouts that stand in several are kept once.

    \b
    charprobe-lite study merge part1.sqlite part2.sqlite -o whole.sqlite
    """
    from charprobe_lite.eval.store.merge import merge_studies

    merged = merge_studies(studies, output)
    if as_json:
        facts = {"study": str(output), "rollouts": merged.rollouts, "added": merged.added}
        click.echo(json.dumps(facts))
        return
    for path, added in zip(studies, merged.added, strict=True):
        click.echo(f"{path}: {added} rollouts")
    click.echo(f"study: {output}, {merged.rollouts} rollouts")


def _parts(
    path: Path, budget: int | str | None = None, shard: tuple[int, int] | None = None
) -> list[StudySpec]:
    from charprobe_lite.eval.quant.run import refuse_without_reference
    from charprobe_lite.eval.study.cost import fit_budget
    from charprobe_lite.eval.study.file import read_specs

    parts = [fit_budget(spec, budget, note) for spec in read_specs(path)]
    for spec in parts:
        if spec.is_quant_study:
            refuse_without_reference(spec)
    return [spec.with_values(shard=shard) for spec in parts] if shard else parts


def _run(parts: list[StudySpec], as_json: bool) -> None:
    documents = [
        (_run_quants if part.is_quant_study else _run_plain)(part, as_json) for part in parts
    ]
    if as_json:
        click.echo(json.dumps({"studies": documents}))


def _run_plain(spec: StudySpec, as_json: bool) -> dict[str, Any]:
    from charprobe_lite.eval.cli.measure import DISPLAY, show
    from charprobe_lite.eval.study.run import run_study

    scored = run_study(spec, DISPLAY)
    if not as_json:
        show(scored)
    return scored.as_json()


def _run_quants(spec: StudySpec, as_json: bool) -> dict[str, Any]:
    from charprobe_lite.eval.cli.measure import DISPLAY
    from charprobe_lite.eval.quant.run import run_quant_study

    study = run_quant_study(spec, DISPLAY, item_bar)
    if not as_json:
        show_quants(study.findings, study.path)
    return study.as_json()


def _costs(parts: list[StudySpec]) -> dict[str, Forecast]:
    """What each base of the catalogue needs, for all its seeds."""
    from charprobe_lite.eval.study.run import forecast_study
    from charprobe_lite.models.catalogue import EMBEDDED

    by_base: dict[str, list[StudySpec]] = {}
    for spec in parts:
        if spec.uses_catalogue:
            by_base.setdefault(spec.base or EMBEDDED, []).append(spec)
    return {base: forecast_study(specs[0]).times(len(specs)) for base, specs in by_base.items()}


def _print_statuses(statuses: list[StudyStatus]) -> None:
    console = table_console(140)
    for status in statuses:
        console.print(status.table())
