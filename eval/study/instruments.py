"""The instruments of a study: what names the persona of each text.

The first labels every text while rollouts go on, and makes the headline. The others label the same
texts afterwards, so that a reader sees whether a conclusion hangs on the instrument.
"""

from collections.abc import Callable

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.checkpoints import VariantFiles
from charprobe_lite.eval.study.labelling import label_batches
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.catalogue import NGRAM
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.kit import kit_folder, sha256_file
from charprobe_lite.runtime.classifier import Classifier, TextClassifier
from charprobe_lite.runtime.ngrams import KIT_FILE, NgramClassifier

BATCH = 256  # texts that are labelled between two transactions


def open_instrument(name: str, spec: StudySpec, files: VariantFiles) -> TextClassifier:
    """The instrument of that name. Raises BadInput where it has no label of a persona."""
    classifier = NgramClassifier.kit() if name == NGRAM else _modernbert(spec, files)
    for persona in spec.personas:
        if persona not in classifier.labels:
            raise BadInput(
                f"{classifier.path}: has no label {persona!r}; its labels: "
                + ", ".join(classifier.labels)
            )
    return classifier


def instrument_pins(spec: StudySpec) -> dict[str, str]:
    """What must not change within a study: who makes the headline, and with what file."""
    hashes = {f"sha256 {NGRAM}": sha256_file(kit_folder() / KIT_FILE)}
    return {"instrument": spec.instrument, **(hashes if NGRAM in spec.instruments else {})}


def label_with_others(
    store: Store, spec: StudySpec, files: VariantFiles, note: Callable[[str], None]
) -> None:
    """Let every other instrument of the spec label the texts that it has not labelled."""
    for name in spec.instruments[1:]:
        missing = store.to_relabel(name)
        if not missing:
            continue
        if len(missing) > BATCH:  # it takes a while
            note(f"{name}: labels {len(missing)} texts")
        classifier = open_instrument(name, spec, files)
        for _ in label_batches(store, name, missing, classifier, BATCH):
            pass


def _modernbert(spec: StudySpec, files: VariantFiles) -> Classifier:
    # on a CPU the cores belong to llama.cpp: labels are computed next to it, by one thread
    threads = 1 if spec.gpu_layers == 0 else spec.threads
    return Classifier(files.classifier, files.classifier_file, threads=threads, device=spec.device)
