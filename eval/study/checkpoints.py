"""What a study runs on: model files, adapters and the classifier, found, fetched or made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

from charprobe_lite.convert.cached import (
    Bar,
    Note,
    prepare_adapter,
    prepare_classifier,
    prepare_model,
)
from charprobe_lite.models import kit
from charprobe_lite.models.catalogue import EMBEDDED, LORA_MODES, STAGES, Catalogue
from charprobe_lite.models.catalogue_schema import AdapterEntry, Base
from charprobe_lite.models.errors import BadInput
from charprobe_lite.models.gguf_header import weight_summary
from charprobe_lite.models.hub import fetch
from charprobe_lite.runtime.classifier import classifier_files

RUNTIME, MERGED = LORA_MODES
SERVED = "served"  # the quant type of what a server runs, which does not say it
ANY = ("", "")  # the one name on a server that stands for whatever is asked for


@dataclass(frozen=True)
class Checkpoint:
    """What one rollout runs on: a model, and an adapter on top of it or none.

    Both are files; on a server the model is its URL and the adapter a name that it serves.
    """

    model: Path | str
    adapter: Path | str | None = None


@dataclass(frozen=True)
class Variant:
    """One quant type of a base and one way of its adapters; ``there`` are (stage, persona)."""

    base: str
    quant: str
    lora: str
    there: Collection[tuple[str, str]]


@dataclass(frozen=True)
class Files:
    """The files of a variant: a checkpoint per (stage, persona), and one classifier.

    ``lora`` is "" where there is no adapter: on a server, and for a model that is the checkpoint.
    """

    base: str
    quant: str
    classifier: Path
    classifier_file: str | None
    checkpoints: dict[tuple[str, str], Checkpoint]
    lora: str = RUNTIME

    @property
    def variant(self) -> Variant:
        """What these files are of."""
        return Variant(self.base, self.quant, self.lora, self.checkpoints)

    @property
    def most_trained(self) -> str:
        """The most trained stage that there is a checkpoint of."""
        return max((stage for stage, _ in self.checkpoints), key=STAGES.index)

    @property
    def way(self) -> str:
        """How adapters came to the base, "" where there is the base stage alone."""
        return self.lora if self.most_trained != "base" else ""

    @property
    def models(self) -> list[Path]:
        """The model files, each once; none on a server."""
        models = (each.model for each in self.checkpoints.values())
        return list(dict.fromkeys(model for model in models if isinstance(model, Path)))

    @property
    def served(self) -> dict[str, str]:
        """The names of the models on a server, by "base" or "stage/persona"."""
        return {
            stage if stage == "base" else f"{stage}/{persona}": each.adapter
            for (stage, persona), each in self.checkpoints.items()
            if isinstance(each.adapter, str)
        }

    def hashes(self) -> dict[str, str | None]:
        """sha256 of every file that decides a result, by its role; None for no adapter.

        A model's role names its quant type, as a study may hold several. Raises BadInput naming
        a file that cannot be read.
        """
        found: dict[str, str | None] = {}
        for (stage, persona), each in self.checkpoints.items():
            if isinstance(each.model, str) or isinstance(each.adapter, str):
                continue  # on a server
            model = f"model {self.quant}"
            merged = self.lora == MERGED and stage != "base"
            found[f"{model} {stage}/{persona}" if merged else model] = _digest(each.model)
            if stage != "base" and not merged:
                found[f"adapter {stage}/{persona}"] = (
                    _digest(each.adapter) if each.adapter else None
                )
        for path in classifier_files(self.classifier, self.classifier_file):
            role = "classifier" if path.suffix == ".onnx" else f"classifier {path.name}"
            found[role] = _digest(path)
        return found


@dataclass(frozen=True)
class Wanted:
    """What of the catalogue a study needs; ``adapter`` is a user's own for one persona.

    ``beside`` is a quant type whose file reads texts beside this one's, None where none does.
    """

    base: str
    stages: list[str]
    personas: list[str]
    quant: str
    lora: str = RUNTIME
    adapter: Path | None = None
    classifier: Path | None = None
    verify: bool = True
    beside: str | None = None

    def variant(self, catalogue: Catalogue) -> Variant:
        """What there is of it; BadInput like ``grid``."""
        return Variant(self.base, self.quant, self.lora, self.grid(catalogue))

    def grid(self, catalogue: Catalogue) -> list[tuple[str, str]]:
        """The (stage, persona) pairs that there are; BadInput for a persona that has none."""
        _refuse_several(self.adapter, self.stages, self.personas)
        pairs = [(stage, persona) for stage in self.stages for persona in self.personas]
        found = [
            (stage, persona)
            for stage, persona in pairs
            if stage == "base" or self.adapter or catalogue.adapter(self.base, stage, persona)
        ]
        for persona in self.personas:
            if (trained := [s for s in self.stages if s != "base"]) and not any(
                (stage, persona) in found for stage in trained
            ):
                raise BadInput(
                    f"--persona {persona}: {self.base} has no adapter of it in stage "
                    f"{', '.join(trained)}; see charprobe-lite models list"
                )
        return found


def catalogue_files(wanted: Wanted, catalogue: Catalogue, note: Note, bar: Bar) -> Files:
    """The files of a base of the catalogue, fetched, converted and checked where they have to be.

    What is made is cached. Raises BadInput for what cannot be fetched, converted or found.
    """
    grid = wanted.grid(catalogue)
    base = catalogue.base(wanted.base)
    if not grid:  # only controls that run no model
        found = _classifier(wanted, catalogue, note)
        return Files(wanted.base, wanted.quant, *found, {}, wanted.lora)
    source = fetch(base)
    merged = below(base) or wanted.lora == MERGED
    if merged and source.is_file() and wanted.quant == weight_summary(source).main_type:
        note(
            f"{wanted.quant}: is what the weights of {base.name} came as; rounded to those steps "
            "again, they lose part of what was merged into them"
        )

    def model(name: str, adapters: Sequence[Path]) -> Path:
        return prepare_model(
            name,
            source,
            [*below(base), *adapters],
            wanted.quant,
            verify=wanted.verify,
            note=note,
            bar=bar,
        )

    def checkpoint(stage: str, persona: str) -> Checkpoint:
        if stage == "base":
            return Checkpoint(model(wanted.base, []))
        own = wanted.adapter or fetch(_entry(catalogue, wanted.base, stage, persona))
        name = f"{wanted.base}-{stage}-{persona}"
        if wanted.lora == MERGED:
            return Checkpoint(model(name, [own]))
        return Checkpoint(model(wanted.base, []), prepare_adapter(name, own, source, note=note))

    classifier, file = _classifier(wanted, catalogue, note)
    return Files(
        base=wanted.base,
        quant=wanted.quant,
        classifier=classifier,
        classifier_file=file,
        checkpoints={pair: checkpoint(*pair) for pair in grid},
        lora=wanted.lora,
    )


def own_files(
    base: str,
    model: Path,
    adapter: Path | None,
    stages: list[str],
    personas: list[str],
    note: Note,
) -> Files:
    """A user's GGUF model, with an adapter or as the checkpoint itself, and the kit's classifier.

    An adapter that is a PEFT folder is converted. Raises BadInput when one model or adapter would
    have to be several checkpoints.
    """
    _refuse_several(adapter, stages, personas)
    if adapter:
        adapter = prepare_adapter(f"{base}-own", adapter, model, note=note)
    if not adapter and not _is_one(stages, personas):
        raise BadInput(
            f"--gguf {model}: is one checkpoint; name one --stage and one --persona, "
            "or add --adapter"
        )
    classifier, file = _kit_classifier()
    return Files(
        base=base,
        quant=weight_summary(model).name,
        classifier=classifier,
        classifier_file=file,
        checkpoints={
            (stage, persona): Checkpoint(model, adapter if stage != "base" else None)
            for stage in stages
            for persona in personas
        },
        lora=RUNTIME if adapter else "",
    )


def served_names(given: Sequence[str]) -> dict[tuple[str, str], str]:
    """What ``--model`` names, by (stage, persona); the base has the persona "".

    Each is base=NAME or STAGE/PERSONA=NAME; a NAME alone stands for whatever is asked for.
    Raises BadInput for other forms.
    """
    names: dict[tuple[str, str], str] = {}
    for text in given:
        role, equals, name = text.partition("=")
        if not equals:
            role, name = "", text
        stage, _, persona = role.partition("/")
        sound = role == "base" or not equals or (stage in STAGES[1:] and persona)
        if not name or not sound or (stage, persona) in names:
            raise BadInput(f"--model {text}: give base=NAME, STAGE/PERSONA=NAME, or one NAME alone")
        names[stage, persona] = name
    if ANY in names and len(names) > 1:
        raise BadInput(f"--model {names[ANY]}: write base= or STAGE/PERSONA= before each name")
    return names


def served_files(
    base: str,
    url: str,
    names: dict[tuple[str, str], str],
    stages: list[str],
    personas: list[str],
) -> Files:
    """Models on a server, named as `served_names` gives them, and the kit's classifier.

    Raises BadInput for a checkpoint without a name, or one name for several.
    """
    if ANY in names and not _is_one(stages, personas):
        raise BadInput(
            f"--model {names[ANY]}: is one checkpoint; name one --stage and one --persona, or "
            "give --model base=NAME --model STAGE/PERSONA=NAME"
        )
    found = {}
    for stage, persona in product(stages, personas):
        role = (stage, "" if stage == "base" else persona)
        name = names.get(ANY) or names.get(role)
        if not name:
            missing = "/".join(filter(None, role))
            raise BadInput(f"--model: no name for {missing}; add --model {missing}=NAME")
        found[stage, persona] = Checkpoint(url, name)
    classifier, file = _kit_classifier()
    return Files(base, SERVED, classifier, file, found, lora="")


def kit_base(quant: str = "Q8_0") -> Path:
    """The embedded base with tool use merged in: what every stage of the kit runs on."""
    tool_use = kit.kit_folder() / kit.TOOL_USE
    return prepare_model(EMBEDDED, kit.embedded_base(), [tool_use], quant)


def below(base: Base) -> list[Path]:
    """What is merged into a base for every stage: the kit's base cannot use tools without it."""
    return [kit.kit_folder() / kit.TOOL_USE] if base.name == EMBEDDED else []


def _entry(catalogue: Catalogue, base: str, stage: str, persona: str) -> AdapterEntry:
    found = catalogue.adapter(base, stage, persona)
    assert found is not None  # the grid holds only what there is
    return found


def _classifier(wanted: Wanted, catalogue: Catalogue, note: Note) -> tuple[Path, str | None]:
    """The classifier's folder and the .onnx file in it, exported when it is none yet."""
    if wanted.classifier:
        return wanted.classifier, None
    if wanted.base == EMBEDDED:
        return _kit_classifier()
    entry = catalogue.classifier(wanted.base)
    if entry is None:
        raise BadInput(f"--base {wanted.base}: the catalogue has no classifier; --classifier DIR")
    folder = prepare_classifier(entry.name, fetch(entry), verify=wanted.verify, note=note)
    return folder, None


def _kit_classifier() -> tuple[Path, str]:
    return kit.kit_folder() / "classifier", kit.load_kit().classifier_file


def _is_one(stages: list[str], personas: list[str]) -> bool:
    """Whether a grid is at most one checkpoint; all personas share the base."""
    return stages in ([], ["base"]) or (len(stages) == 1 and len(personas) == 1)


def _digest(path: Path) -> str:
    """sha256 of a file, computed once: a model stands in every (stage, persona)."""
    try:
        return _digest_of(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None


@lru_cache(maxsize=256)
def _digest_of(path: Path, _written: int) -> str:
    return kit.sha256_file(path)


def _refuse_several(adapter: Path | None, stages: list[str], personas: list[str]) -> None:
    trained = [stage for stage in stages if stage != "base"]
    if adapter and (len(trained) != 1 or len(personas) != 1):
        raise BadInput(f"--adapter {adapter}: is one checkpoint; name one --persona, one --stage")
