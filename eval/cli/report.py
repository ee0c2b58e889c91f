"""`charprobe-lite report`: a study as one page, with its figures and tables as files."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charprobe_lite.eval.cli.options import FILE, json_option, progress_of
from charprobe_lite.models.errors import BadInput

if TYPE_CHECKING:
    from charprobe_lite.eval.quant.findings import QuantStudy
    from charprobe_lite.eval.report import Written
    from charprobe_lite.eval.report.occlusion import Sentence
    from charprobe_lite.eval.report.recorded import Recorded


class Count(click.ParamType[int | None]):
    """How many samples: ``N``, ``all`` (None) or ``none`` (0)."""

    name = "n|all|none"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | None:
        """The number; None stands for all."""
        if value in ("all", "none"):
            return None if value == "all" else 0
        if not str(value).isdecimal():
            self.fail(f"{value!r}: give a number, all or none", param, ctx)
        return int(value)


@click.command()
@click.argument("study", type=FILE)
@click.option("-o", "--output", type=FILE, help="Folder to write  [default: STUDY-report].")
@click.option(
    "--occlusion",
    default="none",
    show_default=True,
    type=Count(),
    help="Samples whose sentences are shaded by what they do to the prediction.",
)
@click.option(
    "--classifier", type=FILE, help="The study's classifier folder  [default: the kit's]."
)
@json_option
def report(
    study: Path, output: Path | None, occlusion: int | None, classifier: Path | None, as_json: bool
) -> None:
    """Write a study as one HTML page, with its figures and tables as files beside it.

    The page needs no network and no other file: figures, every rollout in full, and blind
    labelling. Figures are SVG, PNG and PDF, tables CSV, Parquet and LaTeX. Needs the extra
    report.

    \b
    charprobe-lite report runs/smollm2-135m-seed0.sqlite -o report --occlusion 200
    """
    from charprobe_lite.eval.report.recorded import read_study

    recorded = read_study(study)
    quants = _quants(recorded)
    shaded = _shaded(recorded, occlusion, classifier) if occlusion != 0 else {}
    folder = output or study.with_name(f"{study.stem}-report")
    written = write(recorded, folder, shaded, quants)
    if as_json:
        click.echo(json.dumps(written.as_json()))
        return
    click.echo(f"{written.page}")
    click.echo(f"{len(written.figures)} figure and {len(written.tables)} table files beside it")


def write(
    study: Recorded,
    folder: Path,
    shaded: dict[int, list[Sentence]],
    quants: QuantStudy | None,
) -> Written:
    """Write a report. Raises BadInput for a folder that does not take it."""
    from charprobe_lite.eval.report import write_report

    try:
        return write_report(study, folder, shaded, quants)
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder}: cannot be written ({error.strerror}); name another -o"
        ) from None


def _quants(study: Recorded) -> QuantStudy | None:
    """What the study says of quant types, with the margin that it was made for."""
    from charprobe_lite.eval.quant.records import read_recordings, score_recordings
    from charprobe_lite.eval.store.database import Store
    from charprobe_lite.models.defaults import MARGIN

    margin = study.provenance.get("margin", MARGIN)
    if not isinstance(margin, float | int) or not 0 < margin <= 1:
        raise BadInput(f"{study.path}: field margin: must be above 0, at most 1")
    with Store(study.path, readonly=True) as store:
        recordings = read_recordings(store)
    return score_recordings(
        recordings, study.personas, margin, int(study.provenance.get("seed", 0))
    )


def _shaded(study: Recorded, limit: int | None, folder: Path | None) -> dict[int, list[Sentence]]:
    from charprobe_lite.eval.report.occlusion import chosen, occlusions, study_classifier

    classifier = study_classifier(study, folder)
    rows = chosen(study, limit)
    with ExitStack() as stack:
        advance = stack.enter_context(progress_of("leaving out sentences", len(rows)))
        return occlusions(study, classifier, rows, advance)
