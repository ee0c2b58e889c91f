"""A study as the statistics of quant types need it: one record per file."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from charprobe_lite.eval.cells import RolloutKey, Row
from charprobe_lite.eval.quant.classifiers import ClassifierAgreement, compare_classifiers
from charprobe_lite.eval.quant.fidelity_score import TextFidelity
from charprobe_lite.eval.quant.fidelity_texts import HELD_OUT, KINDS
from charprobe_lite.eval.quant.findings import QuantStudy, score_quants
from charprobe_lite.eval.quant.health import Turns
from charprobe_lite.eval.quant.score import QuantRecord
from charprobe_lite.eval.scores.gap import cluster_of
from charprobe_lite.eval.stats.classification import Labels
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.records import ModelFile, RecordedText, TextKey
from charprobe_lite.models.catalogue import CONDITIONS, LORA_MODES, STAGES
from charprobe_lite.models.defaults import MARGIN, REFERENCE
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.quant_types import KV_DEFAULT
from charprobe_lite.models.task_ids import task_of

PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class QuantRecordings:
    """The contents of a study; ``labels`` by precision: those of the classifier's other file."""

    path: Path
    rows: Sequence[Row]
    turns: Turns
    files: Sequence[ModelFile]
    texts: Sequence[RecordedText]
    labels: Mapping[str, Mapping[RolloutKey, str]]

    def select(
        self,
        rows: Container[RolloutKey],
        files: Container[tuple[str, str | None, str]],
        texts: Container[TextKey],
    ) -> QuantRecordings:
        """A part of the study; ``files`` are (quant type, lora, kv_type)."""
        return replace(
            self,
            rows=[row for row in self.rows if row.key in rows],
            files=[f for f in self.files if (f.quant, f.lora, f.kv_type) in files],
            texts=[text for text in self.texts if text.key in texts],
        )


def read_recordings(store: Store) -> QuantRecordings:
    """The contents of a study. Raises BadInput for impossible files: anyone can edit a study."""
    files = store.files()
    for file in files:
        _check_file(store.path, file)
    labels = {
        precision: {key: label for key, (label, _) in store.labels(precision).items()}
        for precision in PRECISIONS
    }
    return QuantRecordings(store.path, store.rows(), store.turns(), files, store.texts(), labels)


def score_recorded_study(
    store: Store, personas: Sequence[str], without: Container[str] = ()
) -> QuantStudy | None:
    """`score_recordings` of a study with the margin and the seed that it was made with; of its
    quant types but those in ``without``."""
    provenance = store.provenance()
    margin = provenance.get("margin", MARGIN)
    if not isinstance(margin, float | int) or not 0 < margin <= 1:
        raise BadInput(f"{store.path}: field margin: must be above 0, at most 1")
    seed = int(provenance.get("seed", 0))
    study = read_recordings(store)
    kept = [file for file in study.files if file.quant not in without]
    return score_recordings(replace(study, files=kept), personas, margin, seed)


def score_recordings(
    study: QuantRecordings, personas: Sequence[str], margin: float, seed: int
) -> QuantStudy | None:
    """The scores of a study's quant types; None without F16 and another type.

    Raises BadInput for impossible numbers.
    """
    records = quant_records(study)
    types = {(record.quant, record.kv_type) for record in records}
    if (REFERENCE, KV_DEFAULT) not in types or len(types) < 2:
        return None
    classifier = _classifier_agreement(study, personas, margin, seed)
    return score_quants(records, personas, margin, seed, classifier=classifier)


def quant_records(study: QuantRecordings) -> list[QuantRecord]:
    """One record per file that has a rollout.

    Base-stage rollouts belong to both ways to use an adapter; a file of the base stage alone
    counts only without another file of its type.
    """
    adapted = {(file.quant, file.lora, file.kv_type) for file in study.files}
    texts = _common_texts(study.texts)
    records = []
    for file in study.files:
        if not file.lora and any(
            (file.quant, lora, file.kv_type) in adapted for lora in LORA_MODES
        ):
            continue
        rows = [
            row
            for row in study.rows
            if (row.cell.base, row.cell.quant, row.cell.kv_type)
            == (file.base, file.quant, file.kv_type)
            and row.cell.lora in (None, file.lora)
        ]
        if rows:
            records.append(_record(study, file, sorted(rows, key=_rank), texts))
    return records


def _record(
    study: QuantRecordings,
    file: ModelFile,
    rows: Sequence[Row],
    texts: Sequence[RecordedText],
) -> QuantRecord:
    stages = {row.cell.stage for row in rows if row.cell.stage in STAGES}
    stage = max(stages, key=STAGES.index, default="")
    reader = (file.base, stage, file.quant, file.lora, file.kv_type)
    keyed = [(text, text.key) for text in texts]
    texts = [t for t, k in keyed if (k.base, k.stage, k.quant, k.lora, k.kv_type) == reader]
    turns = {row.key: study.turns[row.key] for row in rows if row.key in study.turns}
    costs = {name: value for name, value in vars(file).items() if name != "base"}
    return QuantRecord(**costs, rows=rows, turns=turns, fidelity=_fidelity(study.path, texts))


def _common_texts(texts: Sequence[RecordedText]) -> list[RecordedText]:
    """The texts that all files have read which were made in one way and read the kind.

    Files are compared on the same texts, also in an unfinished study.
    """

    def kind(key: TextKey) -> tuple[str | None, ...]:
        return key.base, key.stage, key.lora, key.kind

    def name(key: TextKey) -> tuple[str | None, ...]:
        return (*kind(key), key.persona, key.item)

    files: dict[tuple[str | None, ...], set[tuple[str, str]]] = {}
    for text in texts:
        reader = text.key.quant, text.key.kv_type
        files.setdefault(kind(text.key), set()).add(reader)
        files.setdefault(name(text.key), set()).add(reader)
    return [text for text in texts if files[name(text.key)] == files[kind(text.key)]]


def _fidelity(path: Path, texts: Sequence[RecordedText]) -> dict[str, dict[str, TextFidelity]]:
    """By kind, held-out texts first, and by prompt or scenario.

    The answers of all personas to one prompt are one text, which is resampled as one. The names
    are those of `gap.cluster_of`.
    """
    parts: dict[str, dict[str, list[TextFidelity]]] = {}
    for text in texts:
        tokens = _tokens(path, text)
        if tokens.nll.size:
            items = parts.setdefault(text.key.kind, {})
            items.setdefault(task_of(text.key.item), []).append(tokens)
    return {
        kind: {item: TextFidelity.join(tokens) for item, tokens in sorted(parts[kind].items())}
        for kind in (HELD_OUT, *KINDS)
        if kind in parts
    }


def _tokens(path: Path, text: RecordedText) -> TextFidelity:
    """Raises BadInput for impossible numbers."""
    valid = len(text.nll) == len(text.kl) == 4 * len(text.same_top)
    if valid:
        nll, kl = (np.frombuffer(values, "<f4") for values in (text.nll, text.kl))
        valid = bool(np.isfinite(nll).all() and np.isfinite(kl).all())
    if not valid:
        name = "/".join(filter(None, astuple(text.key)))
        raise BadInput(
            f"{path}: fidelity {name}: field nll or kl: must be finite float32, a number for "
            "each byte of same_top"
        )
    return TextFidelity(nll, kl, np.frombuffer(text.same_top, np.uint8).astype(bool))


def _check_file(path: Path, file: ModelFile) -> None:
    """BadInput for an impossible file."""
    types: Any = file.tensor_types
    counts = list(types.values()) if isinstance(types, dict) else []
    wrong = {
        "lora": file.lora not in (None, *LORA_MODES),
        "bits_per_weight": not 0 < file.bits_per_weight <= 64,
        "bytes": file.bytes < 1,
        "tensor_types": not counts or not all(type(n) is int and n > 0 for n in counts),
        "tokens_per_second": not math.isfinite(file.tokens_per_second or 0),
    }
    if True in wrong.values():
        field = next(name for name, is_wrong in wrong.items() if is_wrong)
        name = " ".join(filter(None, (file.quant, file.lora)))
        problem = f"field {field}: cannot be {getattr(file, field)!r}"
        raise BadInput(f"{path}: file {name}: {problem}")


def _classifier_agreement(
    study: QuantRecordings, personas: Sequence[str], margin: float, seed: int
) -> ClassifierAgreement | None:
    """The classifier in both precisions, on every text of a trained checkpoint that has both."""
    for precision, labels in study.labels.items():
        both = [
            (row.persona, cluster_of(row), row.prediction, labels[row.key])
            for row in study.rows
            if row.prediction is not None and row.persona in personas and row.key in labels
        ]
        if both:
            true, clusters, recorded, other = zip(*both, strict=True)
            full, quantized = (other, recorded) if precision == "fp32" else (recorded, other)
            return compare_classifiers(Labels(true, full, clusters), quantized, margin, seed)
    return None


def _rank(row: Row) -> tuple[int, ...]:
    """By condition; of the ways to call tools JSON under a grammar first, the headline."""
    cell = row.cell
    known = CONDITIONS.index(cell.condition) if cell.condition in CONDITIONS else len(CONDITIONS)
    return known, cell.format == "fenced", cell.grammar == "off"
