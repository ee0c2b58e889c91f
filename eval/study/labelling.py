"""Labels texts while rollouts go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.records import Unlabelled
from charprobe_lite.eval.study.progress import Progress
from charprobe_lite.runtime.classifier import Prediction, TextClassifier
from charprobe_lite.runtime.ensemble import Ensemble

TEXTS_CUT = "texts_cut"
"""The value of a study that counts the texts that were longer than the classifier's limit."""


def label_batches(
    store: Store,
    instrument: str,
    samples: Sequence[Unlabelled],
    classifier: TextClassifier,
    size: int,
) -> Iterator[None]:
    """Record what another instrument says of ``samples``; yields after each batch of ``size``."""
    for start in range(0, len(samples), size):
        batch = samples[start : start + size]
        predictions = classifier.classify([sample.text for sample in batch])
        store.relabel(instrument, _labels(batch, predictions))
        yield


def _labels(
    samples: Sequence[Unlabelled], predictions: Sequence[Prediction]
) -> list[tuple[int, str, dict[str, float]]]:
    """(rollout id, label, probabilities) of every sample, as the store takes them."""
    pairs = zip(samples, predictions, strict=True)
    return [(sample.rollout, p.label, p.probabilities) for sample, p in pairs]


def _read(
    classifier: TextClassifier, texts: Sequence[str]
) -> tuple[list[Prediction], dict[str, list[Prediction]]]:
    """The predictions, and those of an ensemble's members by name."""
    if isinstance(classifier, Ensemble):
        return classifier.read(texts)
    return classifier.classify(texts), {}


class Labelling:
    """Labels texts in a thread of its own; records the labels in the store's thread.

    ``others`` are the study's other instruments: where they are members of an ensemble, their own
    labels are recorded with its labels, so that they read each text once.
    The queue and the label counts are kept here: the store is read once, at the start. Leaving
    the context waits until every text is labelled; leaving it by an exception, only for those
    that the classifier is reading.
    """

    def __init__(
        self,
        store: Store,
        classifier: TextClassifier,
        progress: Progress,
        others: Sequence[str] = (),
    ) -> None:
        self._store, self._classifier, self._progress = store, classifier, progress
        self._others = others
        self._pool = ThreadPoolExecutor(1)
        self._queue, self._counts = store.unclassified(), store.predictions()
        self._batch: list[Unlabelled] = []
        self._predictions: Future[tuple[list[Prediction], dict[str, list[Prediction]]]] | None
        self._predictions = None

    def __enter__(self) -> Labelling:
        self.poll()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._pool:
            while self._predictions and kind is None:
                self._record()
                self.poll()
            if self._predictions and not self._predictions.exception():
                self._record()

    def add(self, sample: Unlabelled) -> None:
        """Queue a text that has just been recorded."""
        self._queue.append(sample)
        self._counts.setdefault(sample.cell, Counter())[sample.persona, None] += 1

    def poll(self) -> None:
        """Record the labels that are ready, and begin with the texts that are queued."""
        if self._predictions and self._predictions.done():
            self._record()
        if self._predictions is None and self._queue:
            self._batch, self._queue = self._queue, []
            texts = [sample.text for sample in self._batch]
            self._predictions = self._pool.submit(_read, self._classifier, texts)

    def report(self) -> None:
        """Tell the progress display how many labels each cell has."""
        # a copy: a live table reads it from a thread of its own
        counts = {cell: Counter(predictions) for cell, predictions in self._counts.items()}
        self._progress.labelled(counts)

    def _record(self) -> None:
        assert self._predictions is not None
        (predictions, members), self._predictions = self._predictions.result(), None
        self._store.classify(_labels(self._batch, predictions))
        for name in set(self._others) & members.keys():
            self._store.relabel(name, _labels(self._batch, members[name]))
        if cut := sum(prediction.cut for prediction in predictions):
            earlier = self._store.provenance().get(TEXTS_CUT, {"texts": 0})["texts"]
            self._store.note({TEXTS_CUT: {"texts": earlier + cut, "limit": self._classifier.limit}})
        for sample, prediction in zip(self._batch, predictions, strict=True):
            counts = self._counts[sample.cell]
            counts[sample.persona, prediction.label] += 1
            counts[sample.persona, None] -= 1
            if not counts[sample.persona, None]:
                del counts[sample.persona, None]
        self.report()
