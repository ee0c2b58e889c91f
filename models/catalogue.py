"""The catalogue: bases, stages, personas and conditions by name, and where checkpoints are.

The shipped part is models/data/catalogue.yaml; a user's own file adds to it. The names that the
command line offers stand here as plain tuples, so that its help needs no schema.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from charprobe_lite.models.errors import BadInput, first_problem

if TYPE_CHECKING:
    from charprobe_lite.models.catalogue_schema import (
        AdapterEntry,
        Base,
        CatalogueFile,
        ClassifierEntry,
        Source,
    )

EMBEDDED = "smollm2-135m"
PUBLISHED = ("llama-3.1-8b", "qwen-2.5-7b", "gemma-3-4b")
STAGES = ("base", "distillation", "full")
CONDITIONS = (
    *("chat", "break_character", "chat_email", "chat_email_history"),
    *("agentic_next", "agentic_email", "prompted_email", "classifier_ceiling"),
)
"""How a checkpoint is asked; eval/conditions has a file of the same name for each."""
FORMATS = ("json", "fenced")
GRAMMARS = ("on", "off")
LORA_MODES = ("runtime", "merged")
"""How a persona comes to a base: as an adapter while it runs, or merged before quantizing."""
VARIABLE = "CHARPROBE_CATALOGUE"


class _ShippedBases(Mapping[str, "Base"]):
    """The shipped bases by name; only a look at one of them reads the catalogue."""

    def __iter__(self) -> Iterator[str]:
        return iter((EMBEDDED, *PUBLISHED))

    def __len__(self) -> int:
        return 1 + len(PUBLISHED)

    def __getitem__(self, name: str) -> Base:
        return _shipped().bases[name]


BASES: Mapping[str, Base] = _ShippedBases()


@dataclass(frozen=True)
class Catalogue:
    """Everything that has a name.

    ``adapters`` by (base, stage, persona), ``classifiers`` by base; ``user_catalogue`` is
    the user's file, if there is one.
    """

    bases: dict[str, Base]
    personas: tuple[str, ...]
    adapters: dict[tuple[str, str, str], AdapterEntry]
    classifiers: dict[str, ClassifierEntry]
    user_catalogue: Path | None = None

    def base(self, name: str) -> Base:
        """A base by name. Raises BadInput with the names that are known."""
        if name not in self.bases:
            raise BadInput(f"--base {name}: unknown; choose from {', '.join(self.bases)}")
        return self.bases[name]

    def adapter(self, base: str, stage: str, persona: str) -> AdapterEntry | None:
        """The adapter of a persona's stage; None for the base stage and where none is known."""
        return self.adapters.get((base, stage, persona))

    def classifier(self, base: str) -> ClassifierEntry | None:
        """The classifier for a base's texts: a user's own before the shipped one."""
        return self.classifiers.get(base)

    def sources(self) -> Iterator[Source]:
        """Every base, adapter and classifier; one that serves several bases comes once."""
        yield from self.bases.values()
        yield from self.adapters.values()
        yield from {entry.name: entry for entry in self.classifiers.values()}.values()

    def repositories(self) -> list[str]:
        """The hub repositories that the catalogue names, each once."""
        found = [source.repository for source in self.sources() if source.repository]
        return list(dict.fromkeys(found))


def load_catalogue() -> Catalogue:
    """The shipped catalogue and a user's additions.

    The user's file is ``$CHARPROBE_CATALOGUE``, else ``catalogue.yaml`` in the application's
    configuration folder, if it is there. Raises BadInput naming the file, the field and the mend.
    """
    file = user_catalogue()
    if file is None:
        return _shipped()
    return _joined(_shipped(), file, _read(file))


def user_catalogue() -> Path | None:
    """The user's catalogue file; None when none is named and none lies in the usual place."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    usual = default_catalogue()
    return usual if usual.is_file() else None


def default_catalogue() -> Path:
    """Where a user's catalogue lies when ``$CHARPROBE_CATALOGUE`` names no other."""
    import click

    return Path(click.get_app_dir("charprobe-lite")) / "catalogue.yaml"


@lru_cache(maxsize=1)
def _shipped() -> Catalogue:
    file = Path(str(resources.files("charprobe_lite.models") / "data" / "catalogue.yaml"))
    return _joined(Catalogue({}, (), {}, {}), file, _read(file))


def _read(file: Path) -> CatalogueFile:
    """A catalogue file as its schema has it. Raises BadInput naming the file and the field."""
    import yaml
    from pydantic import ValidationError

    from charprobe_lite.models.catalogue_schema import CatalogueFile

    try:
        parsed = yaml.safe_load(file.read_text("utf-8"))
        return CatalogueFile.model_validate({} if parsed is None else parsed)
    except OSError as error:
        raise BadInput(
            f"{file}: cannot be read ({error.strerror}); mend the path in {VARIABLE}"
        ) from None
    except ValidationError as error:
        raise BadInput(f"{file}: {first_problem(error)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{file}: not YAML: {first_problem(error)}") from None


def _joined(known: Catalogue, file: Path, added: CatalogueFile) -> Catalogue:
    """``known`` and what a file adds. Raises BadInput for what does not fit together."""
    root = file.parent
    bases = dict(known.bases)
    for number, base in enumerate(added.bases):
        _fresh(file, f"bases.{number}.name", base.name, bases)
        bases[base.name] = base.at(root)
    personas = list(known.personas)
    for number, persona in enumerate(added.personas):
        _fresh(file, f"personas.{number}", persona, personas)
        personas.append(persona)
    joined = Catalogue(
        bases,
        tuple(personas),
        dict(known.adapters),
        dict(known.classifiers),
        file if known.bases else None,
    )
    _add_classifiers(joined, file, added)
    _add_adapters(joined, file, added)
    return joined


def _add_classifiers(joined: Catalogue, file: Path, added: CatalogueFile) -> None:
    """A file's classifiers take the places of the earlier ones of their bases."""
    names = {entry.name for entry in joined.classifiers.values()}
    served: dict[str, str] = {}
    for number, entry in enumerate(added.classifiers):
        field = f"classifiers.{number}"
        _fresh(file, f"{field}.name", entry.name, names)
        names.add(entry.name)
        if len(set(entry.labels)) < len(entry.labels):
            raise BadInput(f"{file}: field {field}.labels: a label stands twice; name each once")
        for base in entry.bases:
            _known(file, f"{field}.bases", base, joined.bases, "bases")
            _fresh(file, f"{field}.bases", base, served)
            served[base] = entry.name
            joined.classifiers[base] = entry.at(file.parent)
    labels = {label for entry in joined.classifiers.values() for label in entry.labels}
    for number, persona in enumerate(added.personas):
        if persona not in labels:
            raise BadInput(
                f"{file}: field personas.{number}: no classifier knows {persona!r}; "
                "add one under classifiers that has it among its labels"
            )


def _add_adapters(joined: Catalogue, file: Path, added: CatalogueFile) -> None:
    for number, entry in enumerate(added.adapters):
        field = f"adapters.{number}"
        _known(file, f"{field}.base", entry.base, joined.bases, "bases")
        classifier = joined.classifier(entry.base)
        for adapter in entry.adapters():
            persona = adapter.persona
            _known(file, f"{field}.personas", persona, joined.personas, "personas")
            if classifier is None or persona not in classifier.labels:
                raise BadInput(
                    f"{file}: field {field}.personas: no classifier of base {entry.base} knows "
                    f"{persona!r}; add one under classifiers that has it among its labels"
                )
            key = (adapter.base, adapter.stage, persona)
            _fresh(file, field, key, joined.adapters)
            joined.adapters[key] = adapter.at(file.parent)


def _fresh(file: Path, field: str, name: object, taken: Container[object]) -> None:
    if name in taken:
        shown = " ".join(name) if isinstance(name, tuple) else name
        raise BadInput(
            f"{file}: field {field}: {shown!r} stands twice; the shipped names count too: "
            "choose another, or leave it out"
        )


def _known(file: Path, field: str, name: str, known: Container[object], kind: str) -> None:
    if name not in known:
        raise BadInput(f"{file}: field {field}: {name!r} is unknown; add it under {kind}")


def select_names(values: Sequence[str], known: Sequence[str], option: str) -> list[str]:
    """Expand an option given several times, comma-separated or as ``all``, in catalogue order.

    Raises BadInput for a name that is not known, or for none, with the names that are.
    """
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    if not names:
        raise BadInput(f"{option}: name one or more of {', '.join(known)}, or all")
    for name in names:
        if name not in (*known, "all"):
            raise BadInput(f"{option} {name}: unknown; choose from {', '.join(known)}, all")
    return [name for name in known if name in names or "all" in names]


__all__ = [
    "BASES",
    "CONDITIONS",
    "EMBEDDED",
    "FORMATS",
    "GRAMMARS",
    "LORA_MODES",
    "PUBLISHED",
    "STAGES",
    "Catalogue",
    "default_catalogue",
    "load_catalogue",
    "select_names",
    "user_catalogue",
]
