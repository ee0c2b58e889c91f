"""A study read again by other instruments, in a new file: no rollout is run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from charprobe_lite.eval.store.database import Store
from charprobe_lite.eval.store.provenance import SPEC, headline_instrument
from charprobe_lite.eval.study.instruments import label_with_others, pins_of, refuse_unknown
from charprobe_lite.eval.study.labelling import TEXTS_CUT, Labelling
from charprobe_lite.eval.study.progress import Progress
from charprobe_lite.models.atomic import new_file
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.classifier import TextClassifier
from charprobe_lite.runtime.instruments import kit_files, kit_instrument


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
    headline, *others = instruments
    with Store(source, readonly=True) as store:
        provenance, texts = store.provenance(), store.samples()
        before = headline_instrument(provenance)
        personas = sorted({text.persona for text in texts if text.persona})

        def opened(name: str) -> TextClassifier:
            classifier = kit_instrument(name)
            refuse_unknown(classifier, personas)
            return classifier

        note(f"{headline}: labels {len(texts)} texts")
        store.change_headline(before, instruments)
        store.forget(TEXTS_CUT)  # it counted by the limit of the instrument before
        with Labelling(store, opened(headline), Progress(), others):
            pass
        label_with_others(store, others, opened, note)
        files = {role: path for name in instruments for role, path in kit_files(name).items()}
        store.note(pins_of(headline, files))
        if spec := provenance.get(SPEC):
            store.note({SPEC: {**spec, "instrument": list(instruments)}})
        with new_file(target) as part:
            store.save(part)
    return RelabelledStudy(target, headline, before, len(texts))
