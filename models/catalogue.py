"""The catalogue: bases, stages, personas and conditions by name, and where checkpoints are.

The shipped part is models/data/catalogue.yaml; a user's own file adds to it. The names that the
command line offers are plain tuples, so that its help needs no schema.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from charprobe_lite.models.errors import BadInput, require_known
from charprobe_lite.models.files import DATA, expanded, read_yaml
from charprobe_lite.models.personas import NEUTRAL, PERSONAS

if TYPE_CHECKING:
    from charprobe_lite.models.catalogue_schema import (
        AdapterEntry,
        AdapterSet,
        Base,
        CatalogueFile,
        ClassifierEntry,
        Source,
    )

Stage = Literal["base", "distillation", "full"]
ConditionName = Literal[
    "chat",
    "break_character",
    "chat_email",
    "chat_email_history",
    "chat_email_json",
    "chat_email_rules",
    "agentic_next",
    "agentic_email",
    "adversarial_roleplay",
    "code_review",
    "multi_agent_debate",
    "structured_form",
    "agentic_tools",
    "agentic_post",
    "chat_depth_0",
    "chat_depth_4",
    "chat_depth_12",
    "chat_depth_24",
    "prompted_email",
    "author_ceiling",
    "scenario_ceiling",
    "agentic_post_ceiling",
    "code_review_ceiling",
    "structured_form_ceiling",
    "chat_depth_ceiling",
]
Format = Literal["json", "fenced"]
Grammar = Literal["on", "off"]
LoraMode = Literal["runtime", "merged"]
ProtocolName = Literal["lite", "depth", "oct"]
Instrument = Literal["ensemble", "minilm", "ngram", "modernbert", "classifier"]

EMBEDDED = "smollm2-135m"
BASES = (EMBEDDED, "llama-3.1-8b", "qwen-2.5-7b", "gemma-3-4b")
"""The shipped bases; the command line's help needs no more of them than their names."""
STAGES: tuple[Stage, ...] = get_args(Stage)
CONDITIONS: tuple[ConditionName, ...] = get_args(ConditionName)
"""How a checkpoint is asked; eval/conditions has a file of the same name for each."""
FORMATS: tuple[Format, ...] = get_args(Format)
GRAMMARS: tuple[Grammar, ...] = get_args(Grammar)
LORA_MODES: tuple[LoraMode, ...] = get_args(LoraMode)
"""How a persona is added to a base: as an adapter while it runs, or merged before quantizing."""
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
"""How a study asks, reads and scores; eval/protocols has a file of the same name for each."""
INSTRUMENTS: tuple[Instrument, ...] = get_args(Instrument)
"""What names the persona of a text: the kit's four, and the base's or the user's own."""
ENSEMBLE, MINILM, NGRAM, MODERNBERT, OWN = INSTRUMENTS
KIT_INSTRUMENTS = (ENSEMBLE, MINILM, NGRAM, MODERNBERT)
"""Those that the package ships: both others together, a MiniLM, n-grams and a small ModernBERT."""
KIT_CLASSIFIER = "kit"
"""The name of the catalogue's classifier of bases that the kit's instruments read."""
VARIABLE = "CHARPROBE_CATALOGUE"


class AdapterKey(NamedTuple):
    """Identifies an adapter; ``train_seed`` None where the catalogue names no seed of it."""

    base: str
    stage: str
    persona: str
    train_seed: int | None = None


@dataclass(frozen=True)
class Catalogue:
    """Everything that has a name.

    ``classifiers`` by base, the user's before the shipped one; ``user_catalogue`` is the user's
    file, if there is one.
    """

    bases: dict[str, Base]
    personas: tuple[str, ...]
    adapters: dict[AdapterKey, AdapterEntry]
    classifiers: dict[str, ClassifierEntry]
    user_catalogue: Path | None = None

    def base(self, name: str) -> Base:
        """A base by name. Raises BadInput that suggests another."""
        require_known("--base", name, self.bases)
        return self.bases[name]

    def adapter(
        self, base: str, stage: str, persona: str, train_seed: int | None = None
    ) -> AdapterEntry | None:
        """The adapter of a persona's stage; None for the base stage and where there is none.

        Without ``train_seed`` the one without a seed, or else that of the lowest seed.
        """
        if train_seed is None:
            return next(iter(self.adapters_of(base, stage, persona)), None)
        return self.adapters.get(AdapterKey(base, stage, persona, train_seed))

    def adapters_of(self, base: str, stage: str, persona: str) -> list[AdapterEntry]:
        """The adapters of a persona's stage: the one without a seed, then by training seed."""
        place = (base, stage, persona)
        keys = [key for key in self.adapters if key[:3] == place]
        # without a seed comes first
        keys.sort(key=lambda key: -1 if key.train_seed is None else key.train_seed)
        return [self.adapters[key] for key in keys]

    def own_classifier(self, base: str) -> ClassifierEntry | None:
        """The classifier of a base; None where the kit's instruments read its texts."""
        entry = self.classifiers.get(base)
        return None if entry is None or entry.name == KIT_CLASSIFIER else entry

    def repositories(self) -> list[str]:
        """The hub repositories that the catalogue names, each once."""
        sources: list[Source] = [*self.bases.values(), *self.adapters.values()]
        sources += self.classifiers.values()
        return list(dict.fromkeys(entry.repository for entry in sources if entry.repository))


def load_catalogue() -> Catalogue:
    """The shipped catalogue and the additions of ``user_catalogue``.

    Raises BadInput naming the file, the field and the fix.
    """
    file = user_catalogue()
    return _add_file(_shipped(), file) if file else _shipped()


def user_catalogue() -> Path | None:
    """The user's catalogue file; None when no file is named and the default one is missing."""
    if path := os.environ.get(VARIABLE):
        return expanded(Path(path))
    default = default_catalogue()
    return default if default.is_file() else None


def default_catalogue() -> Path:
    """Where a user's catalogue is when ``$CHARPROBE_CATALOGUE`` names no other."""
    from platformdirs import user_config_path

    return user_config_path("charprobe-lite", appauthor=False, roaming=True) / "catalogue.yaml"


@lru_cache(maxsize=1)
def _shipped() -> Catalogue:
    return _add_file(Catalogue({}, (), {}, {}), DATA / "catalogue.yaml")


def _add_file(catalogue: Catalogue, file: Path) -> Catalogue:
    """``catalogue`` with a file's entries. Raises BadInput for what does not fit together."""
    from charprobe_lite.models.catalogue_schema import CatalogueFile

    value = read_yaml(file, f"fix the path in {VARIABLE}")
    entries = CatalogueFile.parse(file, {} if value is None else value)
    bases, personas = dict(catalogue.bases), catalogue.personas
    for number, base in enumerate(entries.bases):
        _require_new(f"{file}: field bases.{number}.name", base.name, bases)
        bases[base.name] = base.relative_to(file.parent)
    for number, persona in enumerate(entries.personas):
        _require_new(f"{file}: field personas.{number}", persona, personas)
        personas += (persona,)
    adapters, classifiers = dict(catalogue.adapters), dict(catalogue.classifiers)
    user_file = file if catalogue.bases else None
    extended = Catalogue(bases, personas, adapters, classifiers, user_file)
    _add_classifiers(extended, file, entries)
    for number, adapter_set in enumerate(entries.adapters):
        _add_adapters(extended, file, f"{file}: field adapters.{number}", adapter_set)
    return extended


def _add_classifiers(catalogue: Catalogue, file: Path, entries: CatalogueFile) -> None:
    """A file's classifiers replace the earlier ones of their bases."""
    names = {entry.name for entry in catalogue.classifiers.values()}
    bases: set[str] = set()
    for number, entry in enumerate(entries.classifiers):
        place = f"{file}: field classifiers.{number}"
        _require_new(f"{place}.name", entry.name, names)
        names.add(entry.name)
        if len(set(entry.labels)) < len(entry.labels):
            raise BadInput(f"{place}.labels: a label appears twice; name each once")
        for base in entry.bases:
            _require_listed(f"{place}.bases", base, catalogue.bases, "bases")
            _require_new(f"{place}.bases", base, bases)
            bases.add(base)
            catalogue.classifiers[base] = entry.relative_to(file.parent)
    labels = {label for entry in catalogue.classifiers.values() for label in entry.labels}
    for number, persona in enumerate(entries.personas):
        _require_label(f"{file}: field personas.{number}: no classifier", persona, labels)


def _add_adapters(catalogue: Catalogue, file: Path, place: str, adapters: AdapterSet) -> None:
    _require_listed(f"{place}.base", adapters.base, catalogue.bases, "bases")
    classifier = catalogue.classifiers.get(adapters.base)
    # the kit's instruments read the texts of a base that has no classifier
    labels = classifier.labels if classifier else [*PERSONAS, NEUTRAL]
    for adapter in adapters.entries():
        persona = adapter.persona
        key = AdapterKey(adapter.base, adapter.stage, persona, adapter.train_seed)
        _require_listed(f"{place}.personas", persona, catalogue.personas, "personas")
        reader = f"{place}.personas: no classifier of base {adapter.base}"
        _require_label(reader, persona, labels)
        _require_new(place, key, catalogue.adapters)
        catalogue.adapters[key] = adapter.relative_to(file.parent)


def _require_new(place: str, key: str | AdapterKey, keys: Container[object]) -> None:
    if key in keys:
        name = key
        if isinstance(key, AdapterKey):
            seed = [] if key.train_seed is None else [f"train_seed {key.train_seed}"]
            name = " ".join([*key[:3], *seed])
        raise BadInput(
            f"{place}: {name!r} appears twice; shipped names count too: "
            "choose another, or leave it out"
        )


def _require_listed(place: str, name: str, names: Container[str], section: str) -> None:
    if name not in names:
        raise BadInput(f"{place}: {name!r} is unknown; add it under {section}")


def _require_label(place: str, persona: str, labels: Container[str]) -> None:
    if persona not in labels:
        raise BadInput(
            f"{place} knows {persona!r}; add one under classifiers that has it among its labels"
        )


def select_names(
    values: Sequence[str], names: Sequence[str], option: str, named_only: Container[str] = ()
) -> list[str]:
    """The names of a repeated or comma-separated option, or ``all``, in the order of ``names``.

    Upper and lower case are the same. ``all`` leaves out those in ``named_only``. Raises BadInput
    for a name that is unknown, and without any name.
    """
    spelled = {name.casefold(): name for name in names}
    parts = [name.strip() for value in values for name in value.split(",") if name.strip()]
    parts = [spelled.get(name.casefold(), name) for name in parts]
    if not parts:
        raise BadInput(f"{option}: name one or more of {', '.join(names)}, or all")
    for name in parts:
        require_known(option, name, (*names, "all"))
    everything = [name for name in names if name not in named_only] if "all" in parts else []
    selected = [name for name in names if name in parts or name in everything]
    if not selected:
        raise BadInput(f"{option} all: leaves out {', '.join(names)}; add what you mean by name")
    return selected
