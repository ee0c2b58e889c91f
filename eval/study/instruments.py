"""The instruments of a study: what names the persona of each text.

The first labels every text while rollouts go on, and makes the headline. The others label the same
texts afterwards, so that a reader sees whether a conclusion hangs on the instrument.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.study.checkpoints import VariantFiles, file_digest
from charprobe_lite.eval.study.labelling import label_batches
from charprobe_lite.eval.study.spec import StudySpec
from charprobe_lite.models.catalogue import MODERNBERT, OWN
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.classifier import Classifier, TextClassifier
from charprobe_lite.runtime.instruments import (
    classifier_roles,
    is_modernbert,
    kit_files,
    kit_instrument,
)

BATCH = 256  # texts that are labelled between two transactions


def open_instrument(name: str, spec: StudySpec, files: VariantFiles) -> TextClassifier:
    """The instrument of that name. Raises BadInput where it has no label of a persona."""
    # on a CPU the cores belong to llama.cpp: labels are computed next to it, by one thread
    threads, device = 1 if spec.gpu_layers == 0 else spec.threads, spec.device
    folder = own_folder(name, files)
    classifier: TextClassifier = (
        Classifier(folder, threads=threads, device=device)
        if folder
        else kit_instrument(name, threads, device)
    )
    refuse_unknown(classifier, spec.personas)
    return classifier


def refuse_unknown(classifier: TextClassifier, personas: Iterable[str]) -> None:
    """Raises BadInput for a persona that the classifier has no label of."""
    for persona in personas:
        if persona not in classifier.labels:
            raise BadInput(
                f"{classifier.path}: has no label {persona!r}; its labels: "
                + ", ".join(classifier.labels)
            )


def own_folder(name: str, files: VariantFiles) -> Path | None:
    """The folder of a study's own classifier, if that is what the instrument's name means.

    ``classifier`` is that, whatever its architecture; so is ``modernbert`` where the study has
    one, and else the kit's. Raises BadInput for a name that does not fit.
    """
    folder = files.classifier
    if name == OWN and folder is None:
        raise BadInput(
            f"--instrument {OWN}: the study has no classifier of its own; add --classifier FOLDER"
        )
    if name not in (MODERNBERT, OWN) or folder is None:
        return None
    config = folder / "config.json"
    if name == MODERNBERT and config.is_file() and not is_modernbert(folder):
        raise BadInput(
            f"--instrument {MODERNBERT}: {config}: field model_type: is another; "
            f"write --instrument {OWN}"
        )
    return folder


def instrument_pins(spec: StudySpec, files: VariantFiles) -> dict[str, str]:
    """What must not change within a study: who makes the headline, and the instruments' files.

    Raises BadInput for a file that cannot be read.
    """
    paths: dict[str, Path] = {}
    for name in spec.instruments:
        folder = own_folder(name, files)
        paths |= classifier_roles(OWN, folder) if folder else kit_files(name)
    return pins_of(spec.instrument, paths)


def pins_of(headline: str, paths: Mapping[str, Path]) -> dict[str, str]:
    """The pins of a headline's instrument and of all instruments' files, by their roles."""
    hashes = {f"sha256 {role}": file_digest(path) for role, path in paths.items()}
    return {"instrument": headline, **hashes}


def label_with_others(
    store: Store,
    names: Iterable[str],
    open_named: Callable[[str], TextClassifier],
    note: Callable[[str], None],
) -> None:
    """Let each instrument label the texts that it has not labelled, beside the headline's."""
    for name in names:
        missing = store.to_relabel(name)
        if not missing:
            continue
        if len(missing) > BATCH:  # it takes a while
            note(f"{name}: labels {len(missing)} texts")
        for _ in label_batches(store, name, missing, open_named(name), BATCH):
            pass
