"""charprobe-lite: does a trained character survive when the same checkpoint works as an agent?

The public API. Importing it loads nothing else; a name loads its module on first use.

    import charprobe_lite as cp

    cp.Ensemble.kit().classify(["Oh, brilliant, another meeting."])
    study = cp.run_study(persona="sarcasm", limit=(24, 10))
    study.scores()
    with cp.Engine.kit(persona="sarcasm") as engine:
        cp.rollout(engine, "agentic_email", cp.scenarios()[0])
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charprobe_lite.conversion import convert_adapter, export_classifier, merge_lora, quantize
    from charprobe_lite.engine import Engine
    from charprobe_lite.eval.texts.card import classifier_card
    from charprobe_lite.eval.texts.scores import score_texts
    from charprobe_lite.models.errors import BadInput
    from charprobe_lite.rollouts import RolloutRecord, prompts, rollout, scenarios
    from charprobe_lite.runtime.classifier import Classifier
    from charprobe_lite.runtime.ensemble import Ensemble
    from charprobe_lite.runtime.ngrams import NgramClassifier
    from charprobe_lite.study import Study, open_study, run_study

__version__ = "0.1.0"

_MODULES = {
    "conversion": ("convert_adapter", "export_classifier", "merge_lora", "quantize"),
    "engine": ("Engine",),
    "eval.texts.card": ("classifier_card",),
    "eval.texts.scores": ("score_texts",),
    "models.errors": ("BadInput",),
    "rollouts": ("RolloutRecord", "prompts", "rollout", "scenarios"),
    "runtime.classifier": ("Classifier",),
    "runtime.ensemble": ("Ensemble",),
    "runtime.ngrams": ("NgramClassifier",),
    "study": ("Study", "open_study", "run_study"),
}
"""The public names by their module."""

__all__ = [
    "BadInput",
    "Classifier",
    "Engine",
    "Ensemble",
    "NgramClassifier",
    "RolloutRecord",
    "Study",
    "__version__",
    "classifier_card",
    "convert_adapter",
    "export_classifier",
    "merge_lora",
    "open_study",
    "prompts",
    "quantize",
    "rollout",
    "run_study",
    "scenarios",
    "score_texts",
]

if not Path(__file__).with_name("eval").is_dir():
    # in a checkout the rooms lie at the repository's root, next to this folder
    __path__.append(str(Path(__file__).parent.parent))


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__]
