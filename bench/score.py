"""How long the cluster bootstrap takes, and how often its intervals cover a known truth.

    python bench/score.py --studies 400

Times 10,000 resamples of 3,300 rows (300 prompts times eleven personas; also every row a cluster
of its own), then simulates studies of ten personas on the same items, some items harder than
others, and counts in how many the 95% interval holds the macro-F1 that a very large study has:
in a chat, in emails over the same items, in their difference, in the base stage, and the row
bootstrap's for comparison.
"""

from __future__ import annotations

import time
from statistics import median

import click
import numpy as np

from charprobe_lite.eval.stats.classification import Labels, macro_f1
from charprobe_lite.eval.stats.metrics import ResampledMetrics, label_metrics
from charprobe_lite.models.personas import NEUTRAL, PERSONAS

EASE = {"chat": 3.5, "email": 0.6}
"""Log odds of being recognised on an item of middling ease; items differ with deviation 1."""
BASE = (0.01, 0.02, 0.005, 0.02, 0.01, 0.03, 0.04, 0.05, 0.1, 0.2, 0.515)
"""How often the base stage's texts are taken for each persona, and for none."""


def trained(items: int, seed: int) -> dict[str, Labels]:
    """Every persona's answer to every item, in both conditions."""
    rng = np.random.default_rng(seed)
    harder = np.repeat(rng.normal(0, 1, items), len(PERSONAS))
    true = np.tile(PERSONAS, items)
    names = np.repeat([f"item-{n}" for n in range(items)], len(PERSONAS)).tolist()
    cells = {}
    for condition, ease in EASE.items():
        seen = rng.random(len(true)) < 1 / (1 + np.exp(-(ease + harder)))
        predicted = np.where(seen, true, rng.choice([*PERSONAS, NEUTRAL], len(true)))
        cells[condition] = Labels(true.tolist(), predicted.tolist(), names)
    return cells


def untrained(items: int, seed: int) -> Labels:
    """One text per item, scored against every persona."""
    predicted = np.random.default_rng([seed, 1]).choice([*PERSONAS, NEUTRAL], items, p=BASE)
    names = [f"item-{n}" for n in range(items)]
    true = [persona for persona in PERSONAS for _ in names]
    return Labels(true, predicted.tolist() * len(PERSONAS), names * len(PERSONAS))


def measure_time() -> None:
    for clusters in (300, 3300):
        rng = np.random.default_rng(0)
        labels = [*PERSONAS, "misalignment"]
        true = rng.choice(labels, 3300)
        predicted = np.where(rng.random(3300) < 0.6, true, rng.choice(labels, 3300))
        items = [f"item-{n % clusters}" for n in range(3300)]
        cell = Labels(true.tolist(), predicted.tolist(), items)
        rounds = []
        for _ in range(5):
            started = time.perf_counter()
            ResampledMetrics(label_metrics({"cell": cell})).estimate(("cell", "macro_f1"))
            rounds.append(time.perf_counter() - started)
        click.echo(
            f"10,000 resamples of 3,300 rows in {clusters} clusters: median "
            f"{median(rounds):.2f} s, longest {max(rounds):.2f} s"
        )


def coverage(items: int, studies: int, truth: dict[str, float]) -> dict[str, float]:
    """In what share of simulated studies each interval holds the truth."""
    held = dict.fromkeys([*truth, "email, rows"], 0)
    for seed in range(studies):
        cells = {**trained(items, seed), "base": untrained(items, seed)}
        resampled = ResampledMetrics(label_metrics(cells), seed, resamples=1000)
        estimates = {name: resampled.estimate((name, "macro_f1")) for name in cells}
        for name in ("chat", "base"):
            difference = resampled.difference(("email", "macro_f1"), (name, "macro_f1"))
            estimates[f"email - {name}"] = difference.change
        estimates["email, rows"] = macro_f1(cells["email"].true, cells["email"].predicted, seed)
        for name, estimate in estimates.items():
            held[name] += estimate.low <= truth[name.removesuffix(", rows")] <= estimate.high
    return {name: count / studies for name, count in held.items()}


@click.command()
@click.option("--studies", default=400, show_default=True, help="Simulated studies per size.")
def main(studies: int) -> None:
    """Print the time and the coverage."""
    measure_time()
    truth = {
        name: macro_f1(cell.true, cell.predicted, resamples=1).value
        for name, cell in trained(60_000, 10**6).items()
    }
    truth["base"] = float(np.mean([2 * p / (1 + len(PERSONAS) * p) for p in BASE[:-1]]))
    truth["email - chat"] = truth["email"] - truth["chat"]
    truth["email - base"] = truth["email"] - truth["base"]
    for items in (10, 24, 50):
        shares = coverage(items, studies, truth)
        shown = ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares.items())
        click.echo(f"{items} items, covered: {shown}")


if __name__ == "__main__":
    main()
