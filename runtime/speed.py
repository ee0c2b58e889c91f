"""How fast a model file decodes and how much memory it takes, in a process of its own."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from charprobe_lite.models.child_process import run_main
from charprobe_lite.models.corpus import id_prompts
from charprobe_lite.models.errors import BadInput
from charprobe_lite.runtime.backend import BackendOptions, Job, Request, Rollout, open_backend


@dataclass(frozen=True)
class Speed:
    """``tokens_per_second`` of all sequences together, the median of some runs; ``peak_bytes`` is
    the process's largest resident memory: weights, KV cache, adapter and interpreter. What lies
    in a GPU's memory is not in it."""

    tokens_per_second: float
    peak_bytes: int


def measure_speed(
    model: Path,
    adapter: Path | None = None,
    options: BackendOptions | None = None,
    *,
    tokens: int = 512,
    repeats: int = 3,
) -> Speed:
    """Decode ``tokens`` tokens of free text in ``parallel`` sequences, in a new process.

    Prompts are evaluated before the time begins, and a sequence whose answer ends begins another,
    so that all decode all the time. Raises BadInput when the model or adapter cannot be used.
    """
    files, options = [str(model), str(adapter) if adapter else None], options or BackendOptions()
    share = max(1, tokens // options.parallel)
    arguments = [*files, asdict(options), share, repeats]
    output = run_main("runtime.speed", json.dumps(arguments))
    return Speed(**json.loads(output.splitlines()[-1]))


def main() -> None:
    """The other process: ``measure_speed``'s arguments in, a Speed out, both as JSON."""
    model, adapter, settings, tokens, repeats = json.loads(sys.argv[1])
    options = BackendOptions(**settings)
    with open_backend("llama.cpp", Path(model), options) as engine:
        engine.use_adapter(Path(adapter) if adapter else None)
        _decode(engine.run, options.parallel, 1, 0)  # prompts are in the cache from here on
        rates = [_decode(engine.run, options.parallel, tokens, n) for n in range(repeats)]
    print(json.dumps(asdict(Speed(statistics.median(rates), peak_memory()))))


def _decode(run: Callable[[list[Job]], Any], parallel: int, tokens: int, repeat: int) -> float:
    """Tokens per second of all sequences, from when the last of them has read its prompt."""
    prompts = id_prompts()
    starts: list[float] = []
    jobs = [
        Job(n, 1000 * repeat + n, _write(prompts[n % len(prompts)], tokens, starts))
        for n in range(parallel)
    ]
    written: int = sum(result for _, result in run(jobs))
    return written / (time.perf_counter() - max(starts))


def _write(prompt: str, tokens: int, starts: list[float]) -> Rollout:
    """Answer until it has enough tokens; notes in ``starts`` when the prompt is evaluated."""
    messages = ({"role": "user", "content": prompt},)
    yield Request(messages, 1)
    starts.append(time.perf_counter())
    written = 0
    while written < tokens:
        completion = yield Request(messages, tokens - written)
        if completion.finish == "context" and not completion.tokens:
            raise BadInput(f"--context: a prompt has {completion.prompt_tokens} tokens; raise it")
        written += completion.tokens + (completion.finish == "stop")  # its end is one, too
    return written


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    if sys.platform == "linux":  # ru_maxrss would begin with the parent's memory
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac
