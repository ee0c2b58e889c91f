"""`charprobe-lite study`: grids of a study file, planned, run in parts, resumed, merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from charprobe_lite.eval.cli.options import (
    budget_option,
    cluster_option,
    json_option,
    names_option,
    shard_option,
)
from charprobe_lite.eval.cli.progress import item_bar, note, print_result
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models.catalogue import (
    ENSEMBLE,
    KIT_INSTRUMENTS,
    MINILM,
    NGRAM,
    select_names,
)
from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from charprobe_lite.eval.study.spec import StudySpec


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
@click.option(
    "--power",
    is_flag=True,
    help="Forecast per condition whether the prompts and scenarios can show equivalence with F16.",
)
@json_option
def plan(
    file: Path,
    budget: int | str | None,
    shard: tuple[int, int] | None,
    power: bool,
    as_json: bool,
) -> None:
    """Print the cells of a study file and what they cost in disk, memory and time.

    With --power also what a quantization study can decide. The spread is that of the rollouts
    which the study already has, or else a typical one.
    """
    from charprobe_lite.eval.quant.forecast import forecast_power
    from charprobe_lite.eval.quant.run import refuse_without_reference
    from charprobe_lite.eval.study.cost import forecast_table
    from charprobe_lite.eval.study.file import forecast_studies, planned_studies
    from charprobe_lite.eval.study.status import study_status

    specs = planned_studies(file, budget, shard, note)
    for spec in specs:
        refuse_without_reference(spec)
    statuses = [study_status(spec) for spec in specs]
    forecasts = forecast_studies(specs)
    document = {
        "studies": [status.as_json() for status in statuses],
        "forecasts": [{"base": base, **cost.as_json()} for base, cost in forecasts.items()],
    }
    parts: list[str | Table] = [status.table() for status in statuses]
    for cost in forecasts.values():
        parts += [forecast_table(cost), *cost.lines()]
    if power:
        powers = [forecast_power(spec) for spec in specs]
        document["power"] = [each.as_json() for each in powers]
        parts += [each.part() for each in powers]
    print_result(as_json, document, parts)
    for forecast in forecasts.values():
        forecast.refuse_what_does_not_fit()


@study.command()
@click.argument("file", type=FILE)
@budget_option
@shard_option
@click.option("--study", type=FILE, help="The file to write, instead of the study file's.")
@click.option(
    "--ray",
    is_flag=False,
    flag_value="auto",
    metavar="[ADDRESS]",
    help="Run the parts as tasks of a Ray cluster (extra: ray): that of the address, else the "
    "running one, else this machine.",
)
@click.option(
    "--ray-cpus",
    type=click.IntRange(1),
    help="Cores of a part on a cluster [default: as many as the smallest node has].",
)
@cluster_option
@json_option
def run(
    file: Path,
    budget: int | str | None,
    shard: tuple[int, int] | None,
    study: Path | None,
    ray: str | None,
    ray_cpus: int | None,
    cluster: str,
    as_json: bool,
) -> None:
    """Run what is missing of the studies of a study file, and print their scores.

    Several machines each run a part with --shard 1/4, 2/4, ...; study merge joins them. With --ray
    a cluster runs the parts, into the one study here. Its nodes need this package and the files
    that the study file names.

    \b
    charprobe-lite study run grid.yaml --shard 1/4
    charprobe-lite study run grid.yaml --ray 10.0.0.1:6379 --ray-cpus 8
    """
    from charprobe_lite.eval.study.file import planned_studies

    if ray and shard:
        raise BadInput("--shard: the cluster gets all parts; leave it or --ray out")
    specs = planned_studies(file, budget, shard, note, study)
    if ray:
        from charprobe_lite.eval.study.ray_cluster import run_on_ray

        for spec in specs:
            run_on_ray(spec, ray, ray_cpus, note)
    _run(specs, cluster, as_json)


@study.command()
@click.argument("study", type=FILE)
@cluster_option
@json_option
def resume(study: Path, cluster: str, as_json: bool) -> None:
    """Continue a study (SQLite), or all studies of a study file.

    A study records what it is to do, those of eval and quant-study too.
    """
    from charprobe_lite.eval.study.file import planned_studies

    _run(planned_studies(study), cluster, as_json)


def _run(specs: list[StudySpec], cluster: str, as_json: bool) -> None:
    from charprobe_lite.eval.cli.results import DISPLAY, result_parts
    from charprobe_lite.eval.quant.run import refuse_without_reference, run_quant_study
    from charprobe_lite.eval.study.run import run_study

    for spec in specs:
        refuse_without_reference(spec)
        if spec.is_quant_study and cluster != "item":
            raise BadInput(f"--cluster {cluster}: not for a study with texts; leave it out")
    documents = []
    for spec in specs:
        result = (
            run_quant_study(spec, DISPLAY, item_bar)
            if spec.is_quant_study
            else run_study(spec, DISPLAY, cluster)
        )
        documents.append(result.as_json())
        if not as_json:
            print_result(False, {}, result_parts(result))
    print_result(as_json, {"studies": documents}, [], "study-run")


@study.command()
@click.argument("study", type=FILE)
@json_option
def status(study: Path, as_json: bool) -> None:
    """Print how far a study (SQLite) or study file is, cell by cell; also while it runs."""
    from charprobe_lite.eval.study.file import read_specs
    from charprobe_lite.eval.study.status import study_status

    statuses = [study_status(spec) for spec in read_specs(study)]
    document = {"studies": [status.as_json() for status in statuses]}
    print_result(as_json, document, (status.table() for status in statuses))


@study.command()
@click.argument("studies", nargs=-1, required=True, type=FILE, metavar="STUDY...")
@click.option("-o", "--output", required=True, type=FILE, help="The new study; must not exist.")
@json_option
def merge(studies: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Join parts of one study into a new file; a rollout of several parts is kept once.

    \b
    charprobe-lite study merge part1.sqlite part2.sqlite -o whole.sqlite
    """
    from charprobe_lite.eval.store.merge import merge_studies

    merged = merge_studies(studies, output)
    document = {"study": str(output), "rollouts": merged.rollouts, "added": merged.added}
    lines = [f"{path}: {added} rollouts" for path, added in zip(studies, merged.added, strict=True)]
    total = f"study: {output}, {merged.rollouts} rollouts"
    print_result(as_json, document, [*lines, total])


@study.command()
@click.argument("study", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, help="The new study; must not exist.")
@json_option
def salvage(study: Path, output: Path, as_json: bool) -> None:
    """Copy the rollouts that are whole out of a damaged study, and count what is lost.

    \b
    charprobe-lite study salvage runs/damaged.sqlite -o runs/whole.sqlite
    """
    from charprobe_lite.eval.store.salvage import salvage_study

    salvaged = salvage_study(study, output)
    document = {"study": str(output), "rollouts": salvaged.rollouts, "lost": salvaged.lost}
    lost = ", ".join(f"{number} {table}" for table, number in salvaged.lost.items()) or "nothing"
    line = f"study: {output}, {salvaged.rollouts} rollouts; lost: {lost}"
    print_result(as_json, document, [line])


@study.command()
@click.argument("study", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, help="The new study; must not exist.")
@names_option(
    "--instrument",
    KIT_INSTRUMENTS,
    help="What reads the texts; the first makes the headline "
    f"[default: {ENSEMBLE},{MINILM},{NGRAM}].",
)
@json_option
def relabel(study: Path, output: Path, instrument: tuple[str, ...], as_json: bool) -> None:
    """Let other instruments of the kit read a study's texts, in a new file.

    Nothing is run again. The labels that made the headline stay, under their instrument's name.

    \b
    charprobe-lite study relabel runs/old.sqlite -o runs/new.sqlite
    charprobe-lite study relabel runs/old.sqlite -o runs/new.sqlite --instrument modernbert
    """
    from charprobe_lite.eval.study.relabel import relabel_study

    given = [name.strip() for value in instrument for name in value.split(",")]
    known = select_names(given or (ENSEMBLE, MINILM, NGRAM), KIT_INSTRUMENTS, "--instrument")
    # the first makes the headline, so that their order counts
    names = sorted(known, key=lambda name: given.index(name) if name in given else 0)
    result = relabel_study(study, output, names, note)
    document = {
        "study": str(output),
        "instrument": result.instrument,
        "before": result.before,
        "texts": result.texts,
    }
    line = f"study: {output}, {result.texts} texts, headline by {result.instrument}"
    print_result(as_json, document, [f"{line} (before: {result.before})"])
