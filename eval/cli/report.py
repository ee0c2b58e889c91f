"""`charprobe-lite report`: a study as one page, with its figures and tables as files."""

from pathlib import Path

import click

from charprobe_lite.eval.cli.options import cluster_option, json_option, study_scenarios_option
from charprobe_lite.eval.cli.progress import item_bar, print_result
from charprobe_lite.eval.cli.types import FILE, Count


@click.command()
@click.argument("study", type=FILE)
@click.option("-o", "--output", type=FILE, help="Folder to write  [default: STUDY-report].")
@click.option(
    "--occlusion",
    default="none",
    type=Count(),
    metavar="N|all|none",
    help="Samples whose sentences are shaded by what they do to the prediction.",
)
@click.option(
    "--classifier", type=FILE, help="The study's own classifier's folder [default: the kit's]."
)
@cluster_option
@study_scenarios_option
@click.option("--open", "opens", is_flag=True, help="Show the page in the browser.")
@json_option
def report(
    study: Path,
    output: Path | None,
    occlusion: int | None,
    classifier: Path | None,
    cluster: str,
    scenarios: Path | None,
    opens: bool,
    as_json: bool,
) -> None:
    """Write a study as one HTML page, with its figures and tables as files next to it.

    The page needs no network and no other file: figures, every rollout in full, and blind
    labelling. Figures are SVG, PNG and PDF, tables CSV, Parquet and LaTeX. Needs the extra
    report.

    \b
    charprobe-lite report runs/smollm2-135m-seed0.sqlite -o report --occlusion 200
    """
    from charprobe_lite.eval.report import write_report

    folder = output or study.with_name(f"{study.stem}-report")
    written = write_report(
        study,
        folder,
        occlusion=occlusion,
        classifier=classifier,
        cluster=cluster,
        scenarios=scenarios,
        progress=item_bar,
    )
    files = f"{len(written.figures)} figure and {len(written.tables)} table files next to it"
    print_result(as_json, written.as_json(), [str(written.page), files])
    if opens:
        click.launch(written.page.absolute().as_uri())
