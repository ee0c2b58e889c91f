"""A study read again by other instruments, in a new file: no rollout is run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.provenance import SPEC, headline_instrument
from charprobe_lite.eval.store.records import Unlabelled
from charprobe_lite.eval.study.checkpoints import file_digest
from charprobe_lite.eval.study.labelling import labels_of, read_texts
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.instruments import kit_files, kit_instrument

BATCH = 256  # texts that an instrument reads at once


@dataclass(frozen=True)
class RelabelledStudy:
    """The new file, the instrument of its headline and of the source's, and the texts read."""

    path: Path
    instrument: str
    before: str
    texts: int


def relabel_study(
    source: Path, target: Path, instruments: Sequence[str], note: Callable[[str], None]
) -> RelabelledStudy:
    """Write ``target``: the study ``source`` with labels of the kit's ``instruments``.

    The first makes the headline. The labels that made it before stay, under their instrument's
    name. Raises BadInput when ``target`` exists, or an instrument lacks a persona of the study.
    """
    if target.exists():
        raise BadInput(f"{target}: exists already; name a new file")
    if not source.is_file():
        raise BadInput(f"{source}: no such study")
    with Store(source, readonly=True) as store:
        provenance, texts = store.provenance(), store.samples()
        before = headline_instrument(provenance)
        personas = {text.persona for text in texts if text.persona}
        store.change_headline(before, instruments[0])
        read: set[str] = set()
        for name in instruments:
            if name not in read:  # as a member of an ensemble
                note(f"{name}: reads {len(texts)} texts")
                read |= _label(store, texts, personas, name, instruments)
        files = {role: path for name in instruments for role, path in kit_files(name).items()}
        hashes = {f"sha256 {role}": file_digest(path) for role, path in files.items()}
        store.note({"instrument": instruments[0], **hashes})
        if spec := provenance.get(SPEC):
            store.note({SPEC: {**spec, "instrument": list(instruments)}})
        with new_file(target) as part:
            store.save(part)
    return RelabelledStudy(target, instruments[0], before, len(texts))


def _label(
    store: Store,
    texts: Sequence[Unlabelled],
    personas: set[str],
    name: str,
    instruments: Sequence[str],
) -> set[str]:
    """Record what an instrument, and an ensemble's members, say of every text. Their names."""
    classifier = kit_instrument(name)
    if missing := sorted(personas - set(classifier.labels)):
        raise BadInput(f"{classifier.path}: has no label {missing[0]!r}; choose --instrument")
    names = {name}
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        predictions, members = read_texts(classifier, [text.text for text in batch])
        for each, values in {**members, name: predictions}.items():
            if each == instruments[0]:
                store.classify(labels_of(batch, values))
            elif each in instruments:
                store.relabel(each, labels_of(batch, values))
            names.add(each)
    return names
