"""A study as the statistics of quant types need it: one record per file, from what was recorded."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.eval.cells import RolloutKey, Row
from charprobe_lite.eval.quant.fidelity_texts import HELD_OUT, KINDS
from charprobe_lite.eval.quant.findings import QuantStudy, score_quants
from charprobe_lite.eval.quant.health import Turns
from charprobe_lite.eval.quant.instrument import ClassifierAgreement, compare_classifiers
from charprobe_lite.eval.quant.score import QuantRecord
from charprobe_lite.eval.scores.gap import cluster_of
from charprobe_lite.eval.stats.classification import Labels
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.records import ModelFile, RecordedText, TextKey
from charprobe_lite.models.catalogue import CONDITIONS, LORA_MODES, STAGES
from charprobe_lite.models.defaults import REFERENCE
from charprobe_lite.models.errors import BadInput

PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class QuantRecordings:
    """All that a study holds; ``labels`` by precision: those of the classifier's other file."""

    path: Path
    rows: Sequence[Row]
    turns: Turns
    files: Sequence[ModelFile]
    texts: Sequence[RecordedText]
    labels: Mapping[str, Mapping[RolloutKey, str]]

    def only(
        self,
        rows: Container[RolloutKey],
        files: Container[tuple[str, str]],
        texts: Container[TextKey],
    ) -> QuantRecordings:
        """The part that was asked for; ``files`` are (quant type, lora)."""
        return replace(
            self,
            rows=[row for row in self.rows if row.key in rows],
            files=[file for file in self.files if (file.quant, file.lora) in files],
            texts=[text for text in self.texts if text.key in texts],
        )


@dataclass(frozen=True)
class Tokens:
    """A `TextFidelity`: (tokens,) each."""

    nll: NDArray[np.float32]
    kl: NDArray[np.float32]
    same_top: NDArray[np.bool_]


def read_recordings(store: Store) -> QuantRecordings:
    """Everything. Raises BadInput for files that cannot be: anyone can have edited a study."""
    try:
        files = store.files()
    except ValueError:
        raise BadInput(f"{store.path}: files: field tensor_types: is not JSON") from None
    for file in files:
        _check_file(store.path, file)
    labels = {precision: store.labels(precision) for precision in PRECISIONS}
    return QuantRecordings(store.path, store.rows(), store.turns(), files, store.texts(), labels)


def score_recordings(
    study: QuantRecordings, personas: Sequence[str], margin: float, seed: int
) -> QuantStudy | None:
    """What the study says of quant types; None where it has not F16 and another one.

    Raises BadInput for fidelity that cannot be.
    """
    records = records_of(study)
    types = {record.quant for record in records}
    if REFERENCE not in types or len(types) < 2:
        return None
    classifier = _instrument(study, personas, margin, seed)
    return score_quants(records, personas, margin, seed, classifier=classifier)


def records_of(study: QuantRecordings) -> list[QuantRecord]:
    """One record per file that has a rollout.

    Base-stage rollouts belong to both ways to use an adapter; a file of the base stage alone
    counts only where there is no other of its type.
    """
    found = []
    ways = {(file.quant, file.lora) for file in study.files}
    texts = _shared(study.texts)
    for file in study.files:
        if not file.lora and any((file.quant, lora) in ways for lora in LORA_MODES):
            continue
        rows = [
            row
            for row in study.rows
            if (row.cell.base, row.cell.quant) == (file.base, file.quant)
            and row.cell.lora in ("", file.lora)
        ]
        if rows:
            rows.sort(key=_rank)
            found.append(_record(study, file, rows, texts))
    return found


def _record(
    study: QuantRecordings,
    file: ModelFile,
    rows: Sequence[Row],
    texts: Sequence[RecordedText],
) -> QuantRecord:
    stage = max(
        (row.cell.stage for row in rows if row.cell.stage in STAGES),
        key=STAGES.index,
        default="",
    )
    read = (file.base, stage, file.quant, file.lora)
    own = [t for t in texts if (t.key.base, t.key.stage, t.key.quant, t.key.lora) == read]
    return QuantRecord(
        quant=file.quant,
        lora=file.lora,
        bits_per_weight=file.bits_per_weight,
        bytes=file.bytes,
        tensor_types=file.tensor_types,
        rows=rows,
        turns={row.key: study.turns[row.key] for row in rows if row.key in study.turns},
        fidelity=_fidelity(study.path, own),
        tokens_per_second=file.tokens_per_second,
        peak_bytes=file.peak_bytes,
    )


def _shared(texts: Sequence[RecordedText]) -> list[RecordedText]:
    """Those that every file of a way has read which has read any of the kind.

    Files are compared on the same texts, also while a study is not through.
    """

    def kind(key: TextKey) -> tuple[str, ...]:
        return key.base, key.stage, key.lora, key.kind

    files: dict[tuple[str, ...], set[str]] = {}
    readers: dict[tuple[str, ...], set[str]] = {}
    for text in texts:
        key = text.key
        files.setdefault(kind(key), set()).add(key.quant)
        readers.setdefault((*kind(key), key.persona, key.item), set()).add(key.quant)
    return [
        text
        for text in texts
        for key in [text.key]
        if readers[*kind(key), key.persona, key.item] == files[kind(key)]
    ]


def _fidelity(path: Path, texts: Sequence[RecordedText]) -> dict[str, dict[str, Tokens]]:
    """By kind, held-out texts first, and by prompt or scenario.

    What all personas make of one prompt is one text: it is drawn as a whole.
    """
    parts: dict[str, dict[str, list[Tokens]]] = {}
    for text in texts:
        tokens = _tokens(path, text)
        if tokens.nll.size:
            items = parts.setdefault(text.key.kind, {})
            items.setdefault(text.key.item, []).append(tokens)
    return {
        kind: {
            item: Tokens(
                np.concatenate([each.nll for each in own]),
                np.concatenate([each.kl for each in own]),
                np.concatenate([each.same_top for each in own]),
            )
            for item, own in sorted(parts[kind].items())
        }
        for kind in (HELD_OUT, *KINDS)
        if kind in parts
    }


def _tokens(path: Path, text: RecordedText) -> Tokens:
    """Raises BadInput for numbers that cannot be."""
    sound = len(text.nll) == len(text.kl) == 4 * len(text.same_top)
    if sound:
        nll, kl = (np.frombuffer(each, "<f4") for each in (text.nll, text.kl))
        sound = bool(np.isfinite(nll).all() and np.isfinite(kl).all())
    if not sound:
        named = "/".join(filter(None, astuple(text.key)))
        raise BadInput(
            f"{path}: fidelity {named}: field nll or kl: must be finite float32, a number for "
            "each byte of same_top"
        )
    return Tokens(nll, kl, np.frombuffer(text.same_top, np.uint8).astype(bool))


def _check_file(path: Path, file: ModelFile) -> None:
    """BadInput for what cannot be said of a file."""
    types: Any = file.tensor_types
    counts = list(types.values()) if isinstance(types, dict) else []
    wrong = {
        "lora": file.lora not in ("", *LORA_MODES),
        "bits_per_weight": not 0 < file.bits_per_weight <= 64,
        "bytes": file.bytes < 1,
        "tensor_types": not counts or not all(type(n) is int and n > 0 for n in counts),
        "tokens_per_second": not math.isfinite(file.tokens_per_second or 0),
    }
    for field, bad in wrong.items():
        if bad:
            raise BadInput(
                f"{path}: file {file.quant} {file.lora}: field {field}: cannot be "
                f"{getattr(file, field)!r}"
            )


def _instrument(
    study: QuantRecordings, personas: Sequence[str], margin: float, seed: int
) -> ClassifierAgreement | None:
    """The classifier in both precisions, on every text of a trained checkpoint that has both."""
    for precision, labels in study.labels.items():
        both = [
            (row, row.prediction, labels[row.key])
            for row in study.rows
            if row.prediction is not None and row.persona in personas and row.key in labels
        ]
        if not both:
            continue
        rows, own, other = zip(*both, strict=True)
        full, quantized = (other, own) if precision == "fp32" else (own, other)
        true, clusters = [row.persona for row in rows], [cluster_of(row) for row in rows]
        return compare_classifiers(Labels(true, full, clusters), quantized, margin, seed)
    return None


def _rank(row: Row) -> tuple[int, ...]:
    """Down the ladder; of several ways to call tools JSON under a grammar first, the headline."""
    cell = row.cell
    known = CONDITIONS.index(cell.condition) if cell.condition in CONDITIONS else len(CONDITIONS)
    return known, cell.format == "fenced", cell.grammar == "off"
