"""What a quantization study adds to the rollouts: the files' speed, fidelity to F16, other labels.

Everything is recorded in the study as soon as it is there, text by text, so that a run that was
stopped goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.convert.onnx import ONNX_FILES
from charprobe_lite.eval.quant.fidelity_texts import Conversation, conversations
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.records import RecordedText, TextKey
from charprobe_lite.eval.study.checkpoints import Checkpoint, VariantFiles, distinct_files
from charprobe_lite.eval.study.model_files import with_speed
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.defaults import REFERENCE
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.runtime.classifier import Classifier, classifier_files
from charprobe_lite.runtime.fidelity import ModelComparison, concatenate, reply_texts

Bar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""A progress bar of this name and length; calls of what it gives advance it."""
BATCH = 32  # texts that are labelled between two transactions


def measure_speed(store: Store, several: Sequence[VariantFiles], spec: StudySpec, bar: Bar) -> None:
    """Speed and peak memory of every file that has none yet, each in a process of its own."""
    known = {(file.base, file.quant, file.lora): file for file in store.files()}
    found = [(known[each.base, each.quant, each.lora], each) for each in distinct_files(several)]
    missing = [(file, files) for file, files in found if file.tokens_per_second is None]
    with bar("speed and memory", len(missing)) as advance:
        for file, files in missing:
            store.add_file(with_speed(file, files, spec))
            advance()


def measure_fidelity(
    store: Store, several: Sequence[VariantFiles], spec: StudySpec, limit: int, bar: Bar
) -> set[TextKey]:
    """Let every file read what it has not read yet, beside F16 made in the same way.

    ``limit`` texts of each kind and persona. Gives the keys of all texts asked for. Raises
    BadInput for a file that cannot be read.
    """
    readings, there = list(_readings(store, several, spec, limit)), store.texts_read()
    missing = [replace(each, texts=each.missing(there)) for each in readings]
    with bar("reading texts", sum(len(each.texts) for each in missing)) as advance:
        for records in chain.from_iterable(_read(each, spec) for each in missing):
            store.add_texts(records)
            advance()
    return {key for each in readings for text in each.texts for key in each.keys(text)}


def label_again(store: Store, files: VariantFiles, spec: StudySpec, bar: Bar) -> str | None:
    """Label every text with the classifier's file of the other precision, if it has one.

    Gives that precision: "fp32" beside an int8 classifier, "int8" beside a full one.
    """
    precision = other_precision(files)
    if precision is None:
        return None
    path = files.classifier / ONNX_FILES[precision]
    store.pin({f"sha256 classifier {precision}": sha256_file(path)})
    missing = store.to_relabel(precision)
    if not missing:
        return precision
    batches = [missing[at : at + BATCH] for at in range(0, len(missing), BATCH)]
    with bar(f"labels in {precision}", len(batches)) as advance:
        reader = Classifier(files.classifier, ONNX_FILES[precision], device=spec.device)
        for batch in batches:
            said = reader.classify([each.text for each in batch])
            labels = zip(batch, said, strict=True)
            store.relabel(precision, [(each.rollout, found.label) for each, found in labels])
            advance()
    return precision


def other_precision(files: VariantFiles) -> str | None:
    """fp32 or int8, whichever the study's classifier is not; None without such a file."""
    own = classifier_files(files.classifier, files.classifier_file).model.name
    others = {ONNX_FILES["int8"]: "fp32", ONNX_FILES["fp32"]: "int8"}
    other = others.get(own)
    return other if other and (files.classifier / ONNX_FILES[other]).is_file() else None


@dataclass(frozen=True)
class _Reading:
    """What a file reads beside F16 (``whole``) made in the same way."""

    whole: VariantFiles
    files: VariantFiles
    texts: list[Conversation]

    def keys(self, text: Conversation) -> list[TextKey]:
        """Under which a text is recorded: the file's, and F16's."""
        return [
            TextKey(
                *(each.base, each.most_trained, text.persona, each.quant, each.lora),
                *(text.kind, text.item),
            )
            for each in (self.files, self.whole)
        ]

    def missing(self, there: Set[TextKey]) -> list[Conversation]:
        """The texts that are not recorded yet."""
        return [text for text in self.texts if not there >= set(self.keys(text))]

    def checkpoints(self, persona: str, spec: StudySpec) -> tuple[Checkpoint, Checkpoint]:
        """Of F16 and of the file, for this persona's texts."""
        role = self.files.most_trained, persona or spec.personas[0]
        return self.whole.checkpoints[role], self.files.checkpoints[role]


def _readings(
    store: Store, several: Sequence[VariantFiles], spec: StudySpec, limit: int
) -> Iterator[_Reading]:
    """Every file with all texts of its way."""
    every = distinct_files(several)
    for whole in [files for files in every if files.quant == REFERENCE]:
        texts = conversations(store, whole, spec, limit) if limit else []
        for files in every:
            if files.lora == whole.lora and files is not whole:
                yield _Reading(whole, files, texts)


def _read(reading: _Reading, spec: StudySpec) -> Iterator[list[RecordedText]]:
    """What each text is to both; a model is loaded once, an adapter put on when its turn comes."""
    pairs = {text.persona: reading.checkpoints(text.persona, spec) for text in reading.texts}
    for models in dict.fromkeys(_models(pair) for pair in pairs.values()):
        with ModelComparison(
            *models,
            context=spec.context,
            threads=spec.threads,
            gpu_layers=spec.gpu_layers or 0,
        ) as comparison:
            for persona in [name for name, pair in pairs.items() if _models(pair) == models]:
                whole, own = pairs[persona]
                comparison.use_adapters(whole.files[1], own.files[1])
                for text in reading.texts:
                    if text.persona == persona:
                        yield _compared(comparison, text, reading.keys(text))


def _models(pair: tuple[Checkpoint, Checkpoint]) -> tuple[Path, Path]:
    return pair[0].files[0], pair[1].files[0]


def _compared(
    comparison: ModelComparison, text: Conversation, keys: Sequence[TextKey]
) -> list[RecordedText]:
    """The text to the file, and to F16, which is no distance from itself."""
    parts = reply_texts(comparison.reference, text.messages)
    found = concatenate([comparison.compare(part) for part in parts])
    sides = (
        (found.nll, found.kl, found.same_top),
        (found.reference_nll, np.zeros_like(found.kl), np.ones_like(found.same_top)),
    )
    return [
        RecordedText(key, _bytes(nll), _bytes(kl), same.tobytes(), found.overflow)
        for key, (nll, kl, same) in zip(keys, sides, strict=True)
    ]


def _bytes(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4").tobytes()
