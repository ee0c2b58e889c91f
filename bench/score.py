"""What the project claims about its intervals and tests, next to what simulations measure.

    python bench/score.py --studies 400
    python bench/score.py --part scores --json

Simulates studies whose truth is known, lets the project score them, and prints one Markdown table:
a row for each claim with its nominal rate (an interval holds the truth, a test is wrong) and the
share of simulated studies in each setting. As JSON it prints the ratios of both, a value for each
setting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import import_module

import click
from ratios import Ratio
from simulation import Claim

PARTS = {
    "scores": ("score_cells", "score_base", "score_families"),
    "quant": ("score_quant",),
    "training": ("score_training",),
}
"""The modules of each part; the function ``claims`` of each yields a `simulation.Claim` a row."""


def table_row(claim: str, nominal: float, measured: Mapping[str, float]) -> str:
    """A row of the table; rates in percent."""
    cells = "; ".join(f"{setting}: {100 * share:.1f}%" for setting, share in measured.items())
    return f"| {claim} | {100 * nominal:.0f}% | {cells} |"


def claims(part: str, studies: int) -> Iterator[Claim]:
    """The claims of a part, as they are measured."""
    for module in PARTS[part]:
        yield from import_module(module).claims(studies)


@click.command()
@click.option("--studies", default=400, show_default=True, help="Simulated studies per setting.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(list(PARTS)),
    help="Only these simulations  [default: all].",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(studies: int, parts: tuple[str, ...], as_json: bool) -> None:
    """Print the table."""
    measured = (claim for part in parts or PARTS for claim in claims(part, studies))
    if as_json:
        ratios = [
            Ratio(f"coverage, {claim}", "nominal rate", [s / nominal for s in shares.values()])
            for claim, nominal, shares in measured
            if not claim.startswith("for comparison")
        ]
        click.echo(json.dumps({"studies": studies, "ratios": ratios}, default=asdict))
        return
    click.echo("| claim | nominal | measured |")
    click.echo("|---|---|---|")
    for claim in measured:
        click.echo(table_row(*claim))


if __name__ == "__main__":
    main()
