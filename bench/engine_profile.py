"""Where the engine's time goes in agent rollouts: llama_decode, and each thing that Python does.

python bench/engine_profile.py --jobs 8 --parallel 8
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))

import peers
from rollouts import agentic_jobs

from charprobe_lite.eval.study.checkpoints import kit_base
from charprobe_lite.models import kit
from charprobe_lite.runtime.grammar import Grammars, GrammarState
from charprobe_lite.runtime.llama import Context, Model
from charprobe_lite.runtime.sampling import Sampler

PARTS = {
    "llama_decode, with filling its batch": [(Context, "decode")],
    "copying and cutting caches": [(Context, "copy"), (Context, "cut")],
    "drawing tokens": [(Sampler, "sample")],
    "grammar": [
        *((GrammarState, name) for name in ("mask", "accept", "take_forced")),
        (Grammars, "begin"),
    ],
    "chat template": [(Model, "render")],
    "tokenizer": [(Model, "tokenize")],
}


@contextmanager
def timed(owner: Any, name: str, part: str, seconds: Counter[str]) -> Iterator[None]:
    """Add the time of a method's calls to its part; none of them calls another of PARTS."""
    method: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            seconds[part] += time.perf_counter() - start

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, method)


@click.command()
@click.option("--parallel", default=8, show_default=True, type=click.IntRange(1, 64))
@click.option("--jobs", default=8, show_default=True, type=click.IntRange(1, 50))
@click.option("--threads", type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(parallel: int, jobs: int, threads: int | None, as_json: bool) -> None:
    """Print the share of each part in the time of agent rollouts."""
    seconds: Counter[str] = Counter()
    with (
        peers.fast_engine(kit_base(), parallel, threads=threads) as engine,
        ExitStack() as stack,
    ):
        engine.use_adapter(kit.kit_folder() / "sarcasm-full.gguf")
        engine.check(request for request in [next(job.rollout) for job in agentic_jobs(1, 0)])
        for part, methods in PARTS.items():
            for owner, name in methods:
                stack.enter_context(timed(owner, name, part, seconds))
        start = time.perf_counter()
        list(engine.run(agentic_jobs(jobs, 0)))
        total = time.perf_counter() - start
    seconds["the rest"] = total - sum(seconds.values())
    shares = {part: value / total for part, value in seconds.items()}
    lines = [f"{total:.1f} s", *(f"{share:6.1%}  {part}" for part, share in shares.items())]
    click.echo(json.dumps({"seconds": total, **shares}) if as_json else "\n".join(lines))


if __name__ == "__main__":
    main()
