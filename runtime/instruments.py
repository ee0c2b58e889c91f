"""The kit's instruments by name, and the files that each one reads."""

from pathlib import Path

from charprobe_lite.models.catalogue import ENSEMBLE, MINILM, MODERNBERT, NGRAM, OWN
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.files import read_json
from charprobe_lite.models.kit import CLASSIFIER_FILE, kit_classifier, kit_folder
from charprobe_lite.runtime.classifier import Classifier, TextClassifier, classifier_files
from charprobe_lite.runtime.ensemble import Ensemble
from charprobe_lite.runtime.ngrams import KIT_FILE, NgramClassifier


def kit_instrument(name: str, threads: int | None = None, device: str = "auto") -> TextClassifier:
    """An instrument of the kit; ``threads`` and ``device`` are of its ONNX model.

    Raises BadInput when a file is damaged.
    """
    if name == NGRAM:
        return NgramClassifier.kit()
    if name == ENSEMBLE:
        return Ensemble.kit(threads, device)
    return Classifier.kit(name, threads, device)


def kit_files(name: str) -> dict[str, Path]:
    """The files of an instrument of the kit, by the role under which a study records them."""
    if name == ENSEMBLE:
        return kit_files(MINILM) | kit_files(NGRAM)
    if name == NGRAM:
        return {NGRAM: kit_folder() / KIT_FILE}
    # earlier studies recorded the kit's ModernBERT under this role, which must refuse another one
    role = OWN if name == MODERNBERT else name
    return classifier_roles(role, kit_classifier(name), CLASSIFIER_FILE)


def classifier_roles(role: str, folder: Path, file: str | None = None) -> dict[str, Path]:
    """The three files of a classifier's folder by role: the model's is ``role`` alone.

    Raises BadInput as `classifier_files`.
    """
    files = classifier_files(folder, file)
    return {role: files.model} | {f"{role} {path.name}": path for path in files[1:]}


def is_modernbert(folder: Path) -> bool:
    """Whether a classifier's folder says so itself; False for one that cannot be read."""
    try:
        config = read_json(folder / "config.json")
    except BadInput:
        return False
    return isinstance(config, dict) and config.get("model_type") == MODERNBERT
