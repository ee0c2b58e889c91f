"""How much two studies at once slow each other on one machine.

    python bench/two_at_once.py [--limit 12] [--json]

Threads that wait at a barrier of llama.cpp spin, and keep the cores from another process. The
program lets them spin 1,000 times (`runtime/llama/binding.py`), GCC's OpenMP 300,000 times. Runs
`eval` alone and twice at once with both, and prints the seconds of each and their ratio: 2 is two
programs that share the cores and nothing is lost. Two that take ten times as long are stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

SPINS: dict[str, dict[str, str]] = {
    "charprobe-lite": {},
    "GCC's OpenMP": {"GOMP_SPINCOUNT": "300000"},
}


def seconds(processes: int, limit: int, spins: dict[str, str], most: float = 3600) -> float:
    """How long as many evaluations take that begin together; those over ``most`` are stopped."""
    command = [sys.executable, "-m", "charprobe_lite", "eval", "--persona", "sarcasm"]
    command += [
        "--stage",
        "full",
        "--condition",
        "chat",
        "--limit",
        str(limit),
        "--parallel",
        "4",
        "--json",
        "--study",
    ]
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        running = [
            subprocess.Popen(
                [*command, str(Path(folder) / f"{number}.sqlite")],
                env={**os.environ, **spins},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(processes)
        ]
        try:
            for process in running:
                if process.wait(max(1, start + most - time.monotonic())):
                    raise click.ClickException("an evaluation failed")
        except subprocess.TimeoutExpired:
            for process in running:
                process.kill()
                process.wait()
            return most
        return time.monotonic() - start


@click.command(help=__doc__)
@click.option("--limit", default=12, show_default=True, help="Prompts of each evaluation.")
@click.option("--json", "as_json", is_flag=True)
def main(limit: int, as_json: bool) -> None:
    seconds(1, 1, SPINS["charprobe-lite"])  # prepares the base
    results = {}
    for name, spins in SPINS.items():
        alone = round(seconds(1, limit, spins), 1)
        both = round(seconds(2, limit, spins, 10 * alone), 1)
        results[name] = {"alone": alone, "two": both, "ratio": round(both / alone, 2)}
        if not as_json:
            click.echo(f"{name}: alone {alone} s, two at once {both} s: {both / alone:.1f} times")
    if as_json:
        click.echo(json.dumps(results))


if __name__ == "__main__":
    main()
