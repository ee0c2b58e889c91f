"""`charprobe-lite doctor`: versions, devices and folders."""

from __future__ import annotations

import json
from typing import Any

import click

from charprobe_lite.eval.cli.options import json_option


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
    if as_json:
        click.echo(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        text = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{name:<{width}}  {text}")


def _facts() -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from charprobe_lite.models.cache import cache_folder
    from charprobe_lite.models.hub import cache_root
    from charprobe_lite.runtime.device import device_report

    facts: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for name in (
        "charprobe-lite",
        "llama-cpp-python",
        "onnxruntime",
        "tokenizers",
        "numpy",
        "torch",
        "transformers",
        "optimum",
    ):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    return {
        **facts,
        **device_report(),
        "cache": str(cache_folder()),
        "hub cache": str(cache_root()),
    }
