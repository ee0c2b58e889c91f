"""`charprobe-lite doctor`: versions, devices and folders."""

from typing import Any

import click

from charprobe_lite.eval.cli.options import json_option
from charprobe_lite.eval.cli.progress import print_result

PACKAGES = (
    *("charprobe-lite", "llama-cpp-python", "onnxruntime", "tokenizers"),
    *("numpy", "torch", "transformers", "optimum"),
)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Print versions, devices, the builds of the engines, and the caches.

    Ends with status 2 and one line when the embedded kit cannot run on this machine.
    """
    from charprobe_lite.models.kit import embedded_base, load_kit

    facts = _facts()
    base = str(embedded_base())
    facts["kit"] = f"recipe {load_kit().recipe}, base {base}"
    width = max(map(len, facts))
    texts = {name: ", ".join(v) if isinstance(v, list) else v for name, v in facts.items()}
    print_result(as_json, facts, (f"{name:<{width}}  {text}" for name, text in texts.items()))


def _facts() -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from charprobe_lite.models.cache import cache_folder
    from charprobe_lite.models.hub import cache_root
    from charprobe_lite.runtime.device import device_report

    facts: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    folders = {"cache": str(cache_folder()), "hub cache": str(cache_root())}
    return {**facts, **device_report(), **folders}
