"""How well the agents of a cell work: tool calls, emails sent, steps, as ratios of counts."""

from collections.abc import Mapping, Sequence

import numpy as np

from charprobe_lite.eval.cells import RecordedTurn, RolloutKey, Row
from charprobe_lite.eval.protocols.outcome import Outcome
from charprobe_lite.eval.scores.gap import cluster_of
from charprobe_lite.eval.stats.metrics import Metric, ratio

Turns = Mapping[RolloutKey, Sequence[RecordedTurn]]
"""As `Store.turns` returns them."""
COUNTS = ("well_formed", "replies", "malformed", "sent", "forced", "unforced", "rollouts")
"""What is counted in each rollout."""
HEALTH = {
    "well_formed": ("well_formed", "replies"),
    "malformed": ("malformed", "rollouts"),
    "yield": ("sent", "rollouts"),
    "forced": ("forced", "rollouts"),
    "unforced": ("unforced", "rollouts"),
    "steps": ("replies", "rollouts"),
}
"""The metrics as ratios of counts."""
SHARES = ("well_formed", "yield", "forced", "unforced")


def health_metrics(rows: Sequence[Row], turns: Turns) -> dict[str, Metric]:
    """The metrics `HEALTH` of one agentic cell's rollouts.

    ``well_formed``: share of replies that hold a tool call or the block that ends the job, the
    parse rate; without a grammar the model alone decides it. ``malformed``: the other replies, per
    rollout. ``yield``: share of rollouts that sent an email. ``forced``: share of rollouts whose
    email the grammar demanded, ``unforced``: share that sent one without that. ``steps``: replies
    per rollout.
    """
    cluster = [cluster_of(row) for row in rows]
    counts = [_counts(row, turns.get(row.key, ())) for row in rows]
    values = np.array(counts, dtype=np.float64).reshape(-1, len(COUNTS))
    metrics = {}
    for name, counted in HEALTH.items():
        of, per = map(COUNTS.index, counted)
        observations = max(int(values[:, per].sum()), 1) if name in SHARES else None
        metrics[name] = ratio(cluster, values, of, per, observations)
    return metrics


def _counts(row: Row, turns: Sequence[RecordedTurn]) -> list[int]:
    """`COUNTS` of one rollout."""
    # the block that ends the job is a reply without a tool call and yet well formed
    malformed = sum(turn.tool is None for turn in turns) - (row.outcome == Outcome.NO_EMAIL)
    sent = row.outcome == Outcome.SENT
    replies = [len(turns) - malformed, len(turns), malformed]
    return [*replies, sent, row.forced, sent and not row.forced, 1]
