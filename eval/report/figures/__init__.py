"""The figures: each file with a `FIGURE` is one, with its numbers, its drawing and its table."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charprobe_lite.eval.report.figures.figure import Figure

_registered: list[Figure[Any]] = []


def register(figure: Figure[Any]) -> None:
    """Add a figure from elsewhere to the report."""
    _registered.append(figure)


def all_figures() -> list[Figure[Any]]:
    """Every figure, in the order of the report."""
    modules = [
        import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)
    ]
    figures = [module.FIGURE for module in modules if hasattr(module, "FIGURE")]
    return sorted([*figures, *_registered], key=lambda figure: figure.order)
