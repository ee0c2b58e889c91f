"""Options of `eval`: who runs the models, and files of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from charprobe_lite.eval.cli.options import classifier_option
from charprobe_lite.eval.cli.types import FILE
from charprobe_lite.models import defaults

BACKEND_OPTIONS = (
    click.option(
        "--steps", default=defaults.MAX_STEPS, type=click.IntRange(1), help="Agent turns."
    ),
    click.option(
        "--backend",
        default="llama.cpp",
        type=click.Choice(["llama.cpp", "openai"]),
        help="Run models here, or drive an OpenAI-compatible server (extra: server).",
    ),
    click.option("--base-url", metavar="URL", help="The server's, mostly http://HOST:PORT/v1."),
    click.option(
        "--model",
        multiple=True,
        metavar="NAME",
        help="A model on the server; several as base=NAME, full/humor=NAME, ...",
    ),
    click.option(
        "--timeout",
        default=defaults.TIMEOUT,
        type=click.FloatRange(1),
        help="Seconds to wait for a reply of the server.",
    ),
    click.option("--gguf", type=FILE, help="Your own model: a GGUF file with a chat template."),
    click.option("--adapter", type=FILE, help="Your own persona: a GGUF LoRA, or a PEFT folder."),
    classifier_option,
    click.option(
        "--prompts",
        metavar="FILE|pure-dove",
        help="Your own prompts: text, a prompt a line, or rows of Pure-Dove as JSONL or parquet.",
    ),
    click.option(
        "--scenarios",
        type=FILE,
        help="Your own scenarios: a JSONL or YAML file, or a folder of them; published ones too.",
    ),
)


def backend_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The backend, its server, and a user's own model, adapter, classifier and inputs."""
    for option in reversed(BACKEND_OPTIONS):
        command = option(command)
    return command
