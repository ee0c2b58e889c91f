"""What a study says about training luck: which adapters its numbers are about."""

from collections.abc import Iterable

from charprobe_lite.eval.scores.cells import CellScore
from charprobe_lite.models.catalogue import STAGES

NO_LUCK = "training luck is not in the intervals"


def adapters(scores: Iterable[CellScore]) -> str:
    """The adapters that scores are about, for a caption: "these adapters" or several seeds'."""
    seeds = _seeds(scores)
    return f"adapters of {len(seeds)} training seeds" if len(seeds) > 1 else "these adapters"


def training_note(scores: Iterable[CellScore]) -> str:
    """One sentence on what the intervals hold of training luck; "" without a trained stage."""
    scores = list(scores)
    if not any(score.stage in STAGES[1:] for score in scores):
        return ""
    seeds = _seeds(scores)
    if len(seeds) > 1:
        return (
            f"Training luck is in the intervals: {len(seeds)} training seeds "
            f"({', '.join(seeds)}) were resampled within each persona."
        )
    which = f"these adapters (training seed {seeds[0]})" if seeds else "these adapters"
    stages = {score.stage for score in scores if score.stage in STAGES}
    subject = "Differences between stages are" if len(stages) > 1 else "This is"
    return f"{subject} about {which}; {NO_LUCK}."


def seed_notes(scores: Iterable[CellScore]) -> list[str]:
    """The value of every training seed alone, a line for each cell that has several."""
    return [
        f"training seeds, {score.stage} {score.label()}: "
        + ", ".join(f"{seed} {value:.3f}" for seed, value in score.train_seeds.items())
        + f" (standard deviation {score.train_seed_sd:.3f})"
        for score in scores
        if score.train_seeds and score.train_seed_sd is not None
    ]


def _seeds(scores: Iterable[CellScore]) -> list[str]:
    """The training seeds of all scores, in order."""
    return sorted({seed for score in scores for seed in score.train_seeds or ()}, key=int)
