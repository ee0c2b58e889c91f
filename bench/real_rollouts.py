"""Agent rollouts per hour of a large model: the engine, llama-cpp-python's loop and llama-server.

    python bench/real_rollouts.py MODEL.gguf [--llama-server PATH] [--rollouts 4] [--json]

One after another in one run, each alone in memory, with the same scenarios, seeds and sampling; the
engine and the server with as many sequences as there are rollouts. Replies are short
(--max-tokens), so that prompts weigh as they do where models end their turns: random weights never
do. bench/real_size.py runs it on its file of 8B weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
import peers
from engine import LOOP, NO_SERVER, Contestant, Pace, Run, race
from ratios import Ratio, by_round, lines
from rollouts import agentic_jobs

OURS, SERVER = "engine", "llama-server"
FIGURE = "agentic_email per hour, engine"


def race_rollouts(
    model: Path, server: Path | None, rollouts: int, max_tokens: int, steps: int
) -> list[Pace]:
    """The pace of each; one round, as an hour of a large model is dear."""
    contestants: dict[str, Contestant] = {
        OURS: partial(_engine, model, rollouts),
        LOOP: partial(_loop, model),
    }
    if server:
        contestants[SERVER] = partial(peers.llama_server, server, model, rollouts)
    jobs = partial(agentic_jobs, max_tokens=max_tokens, steps=steps)
    return race(contestants, jobs, rollouts, rounds=1)


@contextmanager
def _engine(model: Path, parallel: int) -> Iterator[Run]:
    with peers.fast_engine(model, parallel) as engine:
        yield engine.run


@contextmanager
def _loop(model: Path) -> Iterator[Run]:
    reply = peers.llama_cpp_python(model)
    yield lambda jobs: peers.one_by_one(reply, jobs)


def ratios(paces: list[Pace]) -> list[Ratio]:
    """The engine's pace over each other's."""
    speeds = {pace.name: pace.per_minute for pace in paces}
    return [
        by_round(FIGURE, peer, speeds[OURS], speeds[peer])
        if peer in speeds
        else Ratio(FIGURE, peer, missing=NO_SERVER)
        for peer in (LOOP, SERVER)
    ]


def table(paces: list[Pace]) -> str:
    """Rollouts per hour, in Markdown."""
    rows = [
        f"| {pace.name} | {60 * pace.per_minute[0]:.1f} | {pace.tokens[0]:.0f} |" for pace in paces
    ]
    return "\n".join(["| | rollouts per hour | tokens each |", "|---|---|---|", *rows])


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--llama-server", type=click.Path(path_type=Path, exists=True))
@click.option("--rollouts", default=4, show_default=True, type=click.IntRange(1, 50))
@click.option("--max-tokens", default=32, show_default=True, help="Per reply.")
@click.option("--steps", default=3, show_default=True, help="Replies per rollout.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(
    model: Path,
    llama_server: Path | None,
    rollouts: int,
    max_tokens: int,
    steps: int,
    as_json: bool,
) -> None:
    """Race the engine against both on MODEL."""
    paces = race_rollouts(model, llama_server, rollouts, max_tokens, steps)
    found = ratios(paces)
    if as_json:
        click.echo(json.dumps({"paces": paces, "ratios": found}, default=asdict))
    else:
        click.echo("\n".join([table(paces), *lines(found)]))


if __name__ == "__main__":
    main()
