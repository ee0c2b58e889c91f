"""`charprobe-lite doctor`: versions, devices and folders."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from charprobe_lite.eval.cli.options import json_option
from charprobe_lite.eval.cli.progress import print_result
from charprobe_lite.models.errors import BadInput, printable

PACKAGES = (
    *("charprobe-lite", "llama-cpp-python", "onnxruntime", "tokenizers"),
    *("numpy", "torch", "transformers", "optimum"),
)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Print versions, devices, the builds of the engines, and the caches.

    What is missing or broken is a line with its fix; the status is 0 all the same.
    """
    facts = _facts()
    width = max(map(len, facts))
    texts = {name: ", ".join(v) if isinstance(v, list) else v for name, v in facts.items()}
    print_result(as_json, facts, (f"{name:<{width}}  {text}" for name, text in texts.items()))


def _facts() -> dict[str, Any]:
    import platform

    facts: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    for name, part in PARTS.items():
        try:
            facts |= part()
        except (BadInput, ImportError, OSError) as error:
            facts[name] = f"does not work: {printable(str(error))}"
    return facts


def _llama() -> dict[str, Any]:
    from charprobe_lite.runtime.device import llama_report

    return llama_report()


def _onnx() -> dict[str, Any]:
    from charprobe_lite.runtime.device import onnx_report

    return onnx_report()


def _cache() -> dict[str, Any]:
    from charprobe_lite.models.cache import cache_folder

    return {"cache": str(cache_folder())}


def _hub() -> dict[str, Any]:
    from charprobe_lite.models.hub import cache_root

    return {"hub cache": str(cache_root())}


def _kit() -> dict[str, Any]:
    from charprobe_lite.models.kit import embedded_base, load_kit

    return {"kit": f"recipe {load_kit().recipe}, base {embedded_base()}"}


def _parallel() -> dict[str, Any]:
    from charprobe_lite.eval.study.cost import embedded_parallel

    parallel = embedded_parallel()
    return {"rollouts at once": str(parallel) if parallel else "auto: not calibrated yet"}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "llama.cpp": _llama,
    "ONNX Runtime": _onnx,
    "cache": _cache,
    "hub cache": _hub,
    "kit": _kit,
    "rollouts at once": _parallel,
}
"""What may fail, under the name that its failure gets."""
