"""Several classifiers as one: the product of their probabilities.

A product of experts (Hinton 2002, Training Products of Experts by Minimizing Contrastive
Divergence), which is a logarithmic opinion pool (Genest and Zidek 1986, Combining Probability
Distributions) with a weight of 1 for every member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.classifier import Classifier, Prediction, TextClassifier, softmax
from charprobe_lite.runtime.ngrams import NgramClassifier

SMALLEST = np.finfo(np.float64).tiny  # a probability that has become 0 keeps a logarithm


class Ensemble:
    """Classifiers that read each text together, with the interface of `Classifier`.

    ``members`` by name, all with the same labels, in whatever order. A label's probability is the
    product of the members', over the sum of the products. ``labels`` and ``path`` are those of the
    first member, ``limit`` is the smallest one, None where no member has a limit. Raises BadInput
    naming two files whose labels differ.
    """

    def __init__(self, members: Mapping[str, TextClassifier]) -> None:
        self.members = dict(members)
        first, *others = self.members.values()
        for other in others:
            if different := set(first.labels) ^ set(other.labels):
                raise BadInput(
                    f"{first.path} and {other.path}: field labels: only one of the two has "
                    f"{', '.join(sorted(different))}; classifiers with the same labels are needed"
                )
        self.labels, self.path = first.labels, first.path

    @classmethod
    def kit(cls, threads: int | None = None, device: str = "auto") -> Ensemble:
        """The kit's best instrument: its MiniLM and its n-grams.

        ``threads`` and ``device`` are the MiniLM's. Raises BadInput when a file is damaged.
        """
        minilm = Classifier.kit("minilm", threads, device)
        return cls({"minilm": minilm, "ngram": NgramClassifier.kit()})

    @property
    def limit(self) -> int | None:
        """The most tokens of a text that every member reads."""
        limits = [member.limit for member in self.members.values() if member.limit is not None]
        return min(limits, default=None)

    def classify(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction per text, in order; a text is cut where a member has cut it."""
        return self.read(texts)[0]

    def read(self, texts: Sequence[str]) -> tuple[list[Prediction], dict[str, list[Prediction]]]:
        """The predictions of `classify`, and every member's own by its name."""
        members = {name: member.classify(texts) for name, member in self.members.items()}
        return [self._pool(each) for each in zip(*members.values(), strict=True)], members

    def _pool(self, predictions: Sequence[Prediction]) -> Prediction:
        rows = [[each.probabilities[label] for label in self.labels] for each in predictions]
        logs = np.log(np.maximum(rows, SMALLEST)).sum(axis=0)
        [pooled] = softmax(logs[np.newaxis])
        probabilities = dict(zip(self.labels, pooled.tolist(), strict=True))
        cut = any(each.cut for each in predictions)
        return Prediction(self.labels[int(np.argmax(pooled))], probabilities, cut)
