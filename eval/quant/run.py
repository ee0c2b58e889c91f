"""A quantization study from its spec to its findings: what ``quant-study`` does.

Next to the rollouts it measures the files' speed, their fidelity to F16, and other labels. Each
measurement is recorded at once, text by text, so that a stopped run resumes at the next one.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from charprobe_lite.convert.onnx import ONNX_FILES
from charprobe_lite.eval.quant.fidelity_texts import Conversation, conversations
from charprobe_lite.eval.quant.findings import QuantStudy
from charprobe_lite.eval.quant.records import read_recordings, score_recordings
from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.records import RecordedText, TextKey
from charprobe_lite.eval.study.checkpoints import VariantFiles, distinct_files, with_speed
from charprobe_lite.eval.study.instruments import own_folder
from charprobe_lite.eval.study.labelling import label_batches
from charprobe_lite.eval.study.run import Display, run_rollouts
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.eval.study.variants import CheckpointKey
from charprobe_lite.models.catalogue import select_names
from charprobe_lite.models.defaults import REFERENCE
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.kit import sha256_file
from charprobe_lite.models.quant_types import KV_DEFAULT, KV_TYPES, QUANT_TYPES
from charprobe_lite.runtime.classifier import Classifier, classifier_files
from charprobe_lite.runtime.fidelity import Fidelity, TextReader, concatenate, reply_texts
from charprobe_lite.runtime.stored_reference import StoredReference, StoredText

Bar = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
"""A progress bar of this name and length; its context's value advances it by one."""
Key = TypeVar("Key")
BATCH = 32  # texts that are labelled between two transactions


@dataclass(frozen=True)
class QuantFindings:
    """A quantization study that has run: its file, what it finds, and the headline's instrument."""

    path: Path
    findings: QuantStudy
    instrument: str

    def as_json(self) -> dict[str, Any]:
        """The document that ``quant-study --json`` prints."""
        return {
            **self.findings.as_json(),
            "instrument": self.instrument,
            "study": str(self.path),
        }


def run_quant_study(spec: StudySpec, display: Display, bar: Bar) -> QuantFindings:
    """Run what is missing of the rollouts and of the files' measurements, and compare with F16.

    ``bar`` shows the progress of the measurements. Raises BadInput.
    """
    refuse_without_reference(spec)
    finished = run_rollouts(spec, display)
    resolved = finished.spec
    with Store(finished.path) as store:
        store.note({"margin": spec.margin})
        measure_speed(store, finished.files, resolved, bar)
        texts = measure_fidelity(store, finished.files, resolved, spec.texts or 0, bar)
        label_again(store, finished.files[0], resolved, bar)
        rollouts = {task.key for task in finished.tasks}
        files = {(each.quant, each.lora, each.kv_type) for each in distinct_files(finished.files)}
        recordings = read_recordings(store).select(rollouts, files, texts)
    findings = score_recordings(recordings, resolved.personas, spec.margin, resolved.seed)
    if findings is None:
        raise BadInput(
            f"{finished.path}: holds no rollout of {REFERENCE} and another type to compare"
        )
    return QuantFindings(finished.path, findings, resolved.instrument)


def refuse_without_reference(spec: StudySpec) -> None:
    """BadInput for a quantization study in which nothing can be compared."""
    if not spec.is_quant_study:
        return
    quants = select_names(spec.quants, QUANT_TYPES, "--quant")
    if REFERENCE not in quants:
        raise BadInput(
            f"--quant: needs {REFERENCE}, which all others are compared with; name it, or a "
            "larger --budget"
        )
    kv_types = select_names(spec.kv_types, KV_TYPES, "--kv-type")
    if KV_DEFAULT not in kv_types:
        raise BadInput(f"--kv-type: needs {KV_DEFAULT}, which all others are compared with; add it")
    if quants == [REFERENCE] and kv_types == [KV_DEFAULT]:
        raise BadInput(f"--quant {REFERENCE}: add types to compare with it, such as Q8_0,Q4_0")


def measure_speed(
    store: Store, variants: Sequence[VariantFiles], spec: StudySpec, bar: Bar
) -> None:
    """Record speed and peak memory of the files that lack them, each in a separate process."""
    files = {(f.base, f.quant, f.lora, f.kv_type): f for f in store.files()}
    pairs = [(files[v.base, v.quant, v.lora, v.kv_type], v) for v in distinct_files(variants)]
    missing = [(file, variant) for file, variant in pairs if file.tokens_per_second is None]
    with bar("speed and memory", len(missing)) as advance:
        for file, variant in missing:
            store.add_file(with_speed(file, variant, spec))
            advance()


def measure_fidelity(
    store: Store, variants: Sequence[VariantFiles], spec: StudySpec, limit: int, bar: Bar
) -> set[TextKey]:
    """Let every file read the texts that it lacks, compared with F16 made in the same way.

    ``limit`` texts of each kind and persona. Returns the keys of all texts, also of those that were
    read before. Raises BadInput for a file that cannot be read.
    """
    readings, recorded = list(_readings(store, variants, spec, limit)), store.texts_read()
    groups: dict[str | None, list[_Reading]] = {}
    for reading in readings:
        texts = [text for text in reading.texts if not recorded >= {*reading.keys(text)}]
        groups.setdefault(reading.reference.lora, []).append(replace(reading, texts=texts))
    total = sum(len(_texts(group)) + sum(len(r.texts) for r in group) for group in groups.values())
    with bar("reading texts", total) as advance:
        for group in groups.values():
            for records in _read(group, spec, store.path.parent):
                store.add_texts(records)
                advance()
    return {key for reading in readings for text in reading.texts for key in reading.keys(text)}


def label_again(store: Store, files: VariantFiles, spec: StudySpec, bar: Bar) -> str | None:
    """Label every text with the other precision of the headline's classifier, if there is one.

    That is so for a classifier of the base's or the user's; the kit has int8 files alone. Returns
    that precision: "fp32" for an int8 classifier, "int8" for a full one.
    """
    folder = own_folder(spec.instrument, files)
    precision = _other_precision(folder) if folder else None
    if folder is None or precision is None:
        return None
    path = folder / ONNX_FILES[precision]
    store.pin({f"sha256 classifier {precision}": sha256_file(path)})
    missing = store.to_relabel(precision)
    if not missing:
        return precision
    with bar(f"labels in {precision}", -(-len(missing) // BATCH)) as advance:
        classifier = Classifier(folder, ONNX_FILES[precision], device=spec.device)
        for _ in label_batches(store, precision, missing, classifier, BATCH):
            advance()
    return precision


def _other_precision(folder: Path) -> str | None:
    """fp32 for an int8 classifier and int8 for an fp32 one; None without such a file."""
    name = classifier_files(folder).model.name
    other = {ONNX_FILES["int8"]: "fp32", ONNX_FILES["fp32"]: "int8"}.get(name)
    return other if other and (folder / ONNX_FILES[other]).is_file() else None


@dataclass(frozen=True)
class _Reading:
    """The texts that a file and its reference, F16 made in the same way, both read."""

    reference: VariantFiles
    files: VariantFiles
    texts: list[Conversation]

    def keys(self, text: Conversation) -> tuple[TextKey, TextKey]:
        """The keys of a text's two records: the file's, and the reference's."""
        return _text_key(self.files, text), _text_key(self.reference, text)


def _text_key(files: VariantFiles, text: Conversation) -> TextKey:
    return TextKey(
        *(files.base, files.most_trained, text.persona, files.quant, files.lora),
        *(text.kind, text.item, files.kv_type),
    )


def _readings(
    store: Store, variants: Sequence[VariantFiles], spec: StudySpec, limit: int
) -> Iterator[_Reading]:
    """Every file with all texts of files that are made in its way."""
    distinct = distinct_files(variants)
    for reference in [f for f in distinct if (f.quant, f.kv_type) == (REFERENCE, KV_DEFAULT)]:
        texts = conversations(store, reference, spec, limit) if limit else []
        for files in distinct:
            if files.lora == reference.lora and files is not reference:
                yield _Reading(reference, files, texts)


def _texts(readings: Sequence[_Reading]) -> dict[TextKey, Conversation]:
    """The texts of files with one reference, each once, by the key of the reference's record."""
    return {reading.keys(text)[1]: text for reading in readings for text in reading.texts}


def _read(
    readings: Sequence[_Reading], spec: StudySpec, folder: Path
) -> Iterator[list[RecordedText]]:
    """The records of each text of files with one reference; none where the reference itself reads.

    The reference is loaded once, and reads as many texts as a ``StoredReference`` in ``folder``
    holds; then each file reads those. So do the texts that are left.
    """
    reference, missing = readings[0].reference, _texts(readings)
    while missing:
        with StoredReference(folder) as stored:
            places: dict[TextKey, list[StoredText]] = {}
            with closing(_readers(reference, missing, spec)) as readers:
                for key, text, reader in readers:
                    parts = reply_texts(reader.model, text.messages)
                    places[key] = [stored.add(part, reader) for part in parts]
                    yield []
                    if stored.is_full:
                        break
            for reading in readings:
                texts = {
                    keys: text
                    for text in reading.texts
                    if (keys := reading.keys(text))[1] in places
                }
                with closing(_readers(reading.files, texts, spec)) as readers:
                    for keys, _, reader in readers:
                        compared = [stored.compare(place, reader) for place in places[keys[1]]]
                        yield _records(concatenate(compared), keys)
        missing = {key: text for key, text in missing.items() if key not in places}


def _readers(
    files: VariantFiles, texts: Mapping[Key, Conversation], spec: StudySpec
) -> Generator[tuple[Key, Conversation, TextReader], None, None]:
    """Each text with the checkpoint that reads it; a model is loaded once for all its adapters."""
    groups: dict[Path, dict[Path | None, list[Key]]] = {}
    for key, text in texts.items():
        persona = text.persona or spec.personas[0]
        checkpoint = CheckpointKey(files.most_trained, persona, files.train_seed)
        model, adapter = files.checkpoints[checkpoint].files
        groups.setdefault(model, {}).setdefault(adapter, []).append(key)
    options: dict[str, Any] = {
        "context": spec.context,
        "threads": spec.threads,
        "kv_type": files.kv_type,
    }
    for model, keys_by_adapter in groups.items():
        with TextReader(model, **options, gpu_layers=spec.gpu_layers or 0) as reader:
            for adapter, keys in keys_by_adapter.items():
                reader.use_adapter(adapter)
                for key in keys:
                    yield key, texts[key], reader


def _records(fidelity: Fidelity, keys: Sequence[TextKey]) -> list[RecordedText]:
    """The record of the file, and of the reference, whose distance from itself is 0."""
    kl, same_top = fidelity.kl, fidelity.same_top
    sides = (
        (fidelity.nll, kl, same_top),
        (fidelity.reference_nll, np.zeros_like(kl), np.ones_like(same_top)),
    )
    return [
        RecordedText(key, _bytes(nll), _bytes(kl), same.tobytes(), fidelity.overflow)
        for key, (nll, kl, same) in zip(keys, sides, strict=True)
    ]


def _bytes(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4").tobytes()
