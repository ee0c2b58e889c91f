"""charprobe-lite: does a trained character survive when the same checkpoint works as an agent?

The public API. Importing it loads nothing else; a name loads its module on first use.

    import charprobe_lite as cp

    cp.Classifier.kit().classify(["Oh, brilliant, another meeting."])
    with cp.Engine.kit(persona="sarcasm") as engine:
        cp.rollout(engine, "agentic_email", cp.scenarios()[0])
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charprobe_lite.engine import Engine
    from charprobe_lite.models.errors import BadInput
    from charprobe_lite.rollouts import RolloutRecord, prompts, rollout, scenarios
    from charprobe_lite.runtime.classifier import Classifier

__version__ = "0.1.0"

_MODULES = {
    "engine": ("Engine",),
    "models.errors": ("BadInput",),
    "rollouts": ("RolloutRecord", "prompts", "rollout", "scenarios"),
    "runtime.classifier": ("Classifier",),
}
_NAMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BadInput",
    "Classifier",
    "Engine",
    "RolloutRecord",
    "__version__",
    "prompts",
    "rollout",
    "scenarios",
]

if not Path(__file__).with_name("eval").is_dir():
    # in a checkout the rooms lie at the repository's root, next to this folder
    __path__.append(str(Path(__file__).parent.parent))


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]
