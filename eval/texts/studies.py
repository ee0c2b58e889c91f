"""The texts of studies as studies: the waterfall of every stage, from chat to agent."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from charprobe_lite.eval.cells import Row
from charprobe_lite.eval.scores.cells import Scores, score_study
from charprobe_lite.eval.texts.reader import ScoredText


def score_studies(texts: Sequence[ScoredText], seed: int = 0) -> dict[Path, Scores]:
    """The scores of each study among the files of ``texts``, which all have a prediction.

    The cells of a study share their resamples; these are of the clusters of ``texts``.
    """
    studies: dict[Path, list[ScoredText]] = {}
    for text in texts:
        if text.study:
            studies.setdefault(text.study, []).append(text)
    return {path: _score(members, seed) for path, members in studies.items()}


def _score(texts: Sequence[ScoredText], seed: int) -> Scores:
    rows, clusters = [], {}
    for text in texts:
        assert text.row is not None
        rows.append(replace(text.row, prediction=text.prediction, probabilities=None))
        clusters[text.row.key] = text.cluster or text.row.item
    personas = list(dict.fromkeys(persona for text in texts for persona in text.true))

    def cluster(row: Row) -> str:
        return clusters[row.key]

    return score_study(rows, list(dict.fromkeys(row.cell for row in rows)), personas, seed, cluster)
