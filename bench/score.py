"""What the project claims about its intervals and tests, next to what simulations measure.

    python bench/score.py --studies 400
    python bench/score.py --part scores

Simulates studies whose truth is known, lets the project score them, and prints one Markdown table:
a row for each claim with its nominal rate (an interval holds the truth, a test is wrong) and the
share of simulated studies in each setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

import click

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


def rows(part: str, studies: int) -> Iterator[str]:
    """The rows of a part, as they are measured."""
    for module in PARTS[part]:
        for claim, nominal, measured in import_module(module).claims(studies):
            yield table_row(claim, nominal, measured)


@click.command()
@click.option("--studies", default=400, show_default=True, help="Simulated studies per setting.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(list(PARTS)),
    help="Only these simulations  [default: all].",
)
def main(studies: int, parts: tuple[str, ...]) -> None:
    """Print the table."""
    click.echo("| claim | nominal | measured |")
    click.echo("|---|---|---|")
    for part in parts or PARTS:
        for row in rows(part, studies):
            click.echo(row)


if __name__ == "__main__":
    main()
